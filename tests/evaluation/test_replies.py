"""Replies that are not sampled here: people's, and those of files."""

import json

import pyarrow as pa
import pytest

from ecr_ray import storage
from ecr_ray.data.reading import InputError
from ecr_ray.evaluation import replies
from ecr_ray.evaluation.asking import PROMPTS, Prompts
from ecr_ray.evaluation.systems import System


def prompt(n, response="Try Heat."):
    context = [{"role": "seeker", "text": f"hello {n}"}]
    values = (f"d{n}:1", f"d{n}", context, response, [], [])
    return dict(zip(PROMPTS.names, values, strict=True))


ASKED = Prompts([prompt(n) for n in range(3)], {}, 0)


def of(path):
    return replies.of_file(System("theirs", "file", str(path)), ASKED)


def lines(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_people_answer_everything():
    rows = replies.of_people(System("human", "people"), ASKED)
    assert [row["text"] for row in rows] == ["Try Heat."] * 3
    assert pa.Table.from_pylist(rows, schema=replies.REPLIES).num_rows == 3


def test_a_file_keeps_its_order_to_itself_and_what_is_missing_is_said(tmp_path):
    rows = of(
        lines(
            tmp_path / "r.jsonl",
            {"turn_id": "d2:1", "text": "two", "ended": False},
            {"turn_id": "d0:1", "text": " "},
            {"turn_id": "elsewhere", "text": "?"},
        )
    )
    assert [row["status"] for row in rows] == ["empty", "missing", "ok"]
    assert rows[2]["text"] == "two" and rows[2]["ended"] is False
    assert "no line of" in rows[1]["reason"]


def test_a_parquet_file_is_read_alike(tmp_path):
    path = tmp_path / "r.parquet"
    storage.write_parquet(path, pa.table({"turn_id": ["d1:1"], "text": ["one"]}))
    assert [row["status"] for row in of(path)] == ["missing", "ok", "missing"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"turn_id": "x", "text": "a"}], "has no reply to any of the 3 prompts .its first turn_id is 'x'"),
        ([{"turn_id": "d0:1"}], "row 1, text: there must be a text"),
        ([{"turn_id": "d0:1", "text": "a"}, {"turn_id": "d0:1", "text": "b"}], "row 2, turn_id: 'd0:1' came before"),
        ([{"turn_id": "d0:1", "text": "a", "ended": "yes"}], "row 1, ended: 'yes' is neither true nor false"),
        ([["d0:1", "a"]], "row 1, turn_id: there must be a text"),
    ],
)
def test_a_bad_file_is_named_by_row_and_field(tmp_path, rows, sentence):
    with pytest.raises(InputError, match=sentence):
        of(lines(tmp_path / "r.jsonl", *rows))


def test_what_is_no_json_or_no_parquet_is_told(tmp_path):
    for name, sentence in (("r.jsonl", "row 1: not valid JSON"), ("r.parquet", "is no Parquet file")):
        (tmp_path / name).write_text("{")
        with pytest.raises(InputError, match=sentence):
            of(tmp_path / name)
