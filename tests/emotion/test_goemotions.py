"""GoEmotions' labels as the nine emotions, and its files."""

import os
from itertools import chain

import pytest

from ecr_ray.data.reading import InputError
from ecr_ray.emotion import evaluate, goemotions
from ecr_ray.records import EMOTIONS


def write(tmp_path, text):
    (tmp_path / "train.tsv").write_text(text, encoding="utf-8")
    return tmp_path / "train.tsv"


def named(example):
    return [emotion for emotion, there in zip(EMOTIONS, example.emotions, strict=True) if there]


def test_every_label_counts_once_or_is_named_as_left_out():
    used = list(chain(*goemotions.MAPPING.values(), goemotions.UNMAPPED))
    assert sorted(used) == sorted(goemotions.LABELS)
    assert tuple(goemotions.MAPPING) == EMOTIONS


def test_a_file_is_read_line_by_line(tmp_path):
    rows = goemotions.read(
        write(tmp_path, "Great, thanks!\t0,15\tx\nTake care\t5\ty\nMy childhood!\x85Wow\t26\tz\n\nIt is.\t27\tw\n")
    )
    # Only caring: left out. A character that ends lines elsewhere is part of the text.
    assert [(e.text, named(e)) for e in rows] == [
        ("Great, thanks!", ["like", "grateful"]),
        ("My childhood!\x85Wow", ["nostalgia", "surprise"]),
        ("It is.", ["neutral"]),
    ]
    weights = dict(zip(EMOTIONS, rows[0].weights, strict=True))
    assert weights["nostalgia"] == goemotions.COMMENT_WEIGHT and weights["like"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fine\t27\tx\nno tabs here\n", "train.tsv, line 2: there are 1 fields"),
        ("fine\t28\tx\n", "line 1, labels: '28' is not a number from 0 to 27"),
        ("fine\t\tx\n", "line 1, labels: '' is not a number"),
        (" \t27\tx\n", "line 1, text: it is empty"),
        ("take care\t5\tx\n", "holds not one comment with one of the nine emotions"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        goemotions.read(write(tmp_path, text))


def test_without_the_data_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("ECR_DATA_DIR", raising=False)
    with pytest.raises(InputError, match="needs ECR_DATA_DIR"):
        goemotions.path("train")
    monkeypatch.setenv("ECR_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no .*train\.tsv"):
        goemotions.path("train")


def test_of_written_sentences_only_nostalgia_is_known():
    rows = goemotions.written()
    assert {named(e) == ["nostalgia"] or named(e) == [] for e in rows} == {True}
    assert sum(named(e) == ["nostalgia"] for e in rows) >= 80
    for example in rows:
        known = [e for e, weight in zip(EMOTIONS, example.weights, strict=True) if weight]
        assert known == ["nostalgia"]


def test_nothing_written_to_learn_from_is_in_the_sample_to_measure_on():
    measured = {" ".join(e.text.lower().split()) for e in evaluate.sample_messages()}
    assert len(measured) >= 150
    assert not measured & {" ".join(e.text.lower().split()) for e in goemotions.written()}


@pytest.mark.skipif(not os.environ.get("ECR_DATA_DIR"), reason="GoEmotions is below ECR_DATA_DIR, which is not set")
def test_the_released_files():
    rows = {split: goemotions.read(goemotions.path(split)) for split in ("train", "dev", "test")}
    assert len(rows["train"]) > 42_000 and len(rows["dev"]) > 5_000 and len(rows["test"]) > 5_000
    assert sum("like" in named(e) for e in rows["test"]) > 600
