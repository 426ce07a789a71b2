"""Emotions through their front doors: a classifier is trained, killed on the way, and annotates whole dialogues."""

import json
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecr_ray.data import reading
from ecr_ray.encoders import model
from ecr_ray.records import EMOTIONS
from tests.integration.jobs import finish, job, processes, until

pytestmark = pytest.mark.slow
# A text says its emotion with one word, so that one can see whether it is learnt. Numbers are GoEmotions' labels.
SAID = {"I love {} so much": 18, "Why is {} like that?": 7, "Thank you for {}": 15, "I hate {}, how sad": 25}
TRAIN = ["--batch", 32, "--micro-batch", 16, "--max-steps", 120, "--eval-every", 40, "--save-every", 20]
TRAIN += ["--lora-r", 8, "--learning-rate", 3e-3, "--bootstrap", 20, "--max-length", 16]


@pytest.fixture(scope="module")
def comments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comments")
    chance = np.random.default_rng(0)
    for split, count in (("train", 2000), ("dev", 80), ("test", 80)):
        rows = []
        for n in range(count):
            text = list(SAID)[chance.integers(len(SAID))]
            rows.append(f"{text.format(f'film {chance.integers(99)}')}\t{SAID[text]}\tid{n}")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def classifier(cluster, comments, tmp_path_factory):
    out = tmp_path_factory.mktemp("emotion") / "classifier"
    return out, finish(job("train_emotion", "--input", comments, "--output", out, *TRAIN))


@pytest.mark.long
def test_a_killed_worker_makes_no_difference(classifier, comments, tmp_path):
    out = tmp_path / "classifier"
    process = job("train_emotion", "--input", comments, "--output", out, *TRAIN)
    until(lambda: list((out / ".work" / "checkpoints").glob("checkpoint-*/complete.json")), process)
    workers = processes("RayTrainWorker")
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    assert workers
    finish(process)
    one, two = (pq.read_table(place / "curve.parquet")["loss"].to_numpy() for place in (classifier[0], out))
    assert np.allclose(one, two, rtol=0, atol=2e-3, equal_nan=True)


def test_it_learns_and_says_how_well(classifier, comments):
    out, printed = classifier
    run = json.loads((out / "run.json").read_text())
    rows = {(row["measure"], row["emotion"], row["model"]): row for row in run["measures"]["GoEmotions, test split"]}
    for emotion in ("like", "curious", "grateful", "negative"):
        assert rows["F1", emotion, "classifier"]["value"] > 0.9, rows["F1", emotion, "classifier"]
    assert rows["recall@2", None, "classifier"]["ahead"] is None
    assert rows["recall@2", None, "the training shares"]["ahead"]["low"] > 0
    assert not [key for key in rows if key[1] == "nostalgia"]
    assert run["measures"]["embedded sample, seekers' messages"][0]["n"] > 150
    assert "GoEmotions, test split: recall@2 classifier" in printed
    # Adapters and a head, no more.
    assert (out / "model" / model.WEIGHTS).stat().st_size < 1e6
    page = (out / "summary.html").read_text()
    assert "<svg" in page and "<script" not in page and "Left out: caring." in page
    assert not (out / ".work").exists()
    assert "already complete" in finish(job("train_emotion", "--input", comments, "--output", out, *TRAIN))


def test_whole_dialogues_come_out_with_emotions(pipeline):
    out = pipeline.out / "annotate"
    printed = (pipeline.out / "logs" / "annotate.log").read_text()
    assert "an --input for every other job" in printed and "labels of the input, recall@2" in printed
    run = json.loads((out / "run.json").read_text())
    table = pq.read_table(out / "emotions.parquet").to_pylist()
    assert len(table) == run["rows"]["messages"] > 600 and run["rows"]["failed"] == 0
    before = dialogues(pipeline.out / "prepare")
    after = dialogues(out)
    by_id = {row["turn_id"]: row for row in table}
    assert list(before) == list(after)
    for name, dialogue in after.items():
        assert [m["text"] for m in dialogue["messages"]] == [m["text"] for m in before[name]["messages"]]
        for n, message in enumerate(dialogue["messages"]):
            found = {e["label"]: e["prob"] for e in message["emotions"]}
            expected = {e: by_id[f"{name}:{n}"][e] for e in EMOTIONS if by_id[f"{name}:{n}"][e] > 0.1}
            assert found == pytest.approx(expected)
    thanks = [row["grateful"] for row, m in zip(table, all_messages(after), strict=True) if "hank you" in m["text"]]
    assert len(thanks) > 5 and np.mean(thanks) > 2 * np.mean([row["grateful"] for row in table])
    # The next stage takes it, emotions and all.
    (turn, *_) = [row.value for row in reading.read(reading.find(str(out)), max_message_chars=999, number_rows=False)]
    assert turn["turn_id"] and any(message["emotions"] for message in turn["context"])


def test_labels_of_the_input_stay_and_bad_lines_are_set_aside(cluster, classifier, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    messages = [
        {"senderWorkerId": 1, "text": "I hate that", "emotion": {"surprise": 1.0}},
        {"senderWorkerId": 2, "text": "Thank you for that"},
    ]
    lines = [json.dumps({"conversationId": "a", "initiatorWorkerId": 1, "messages": messages}), "{nonsense"]
    source.write_text("\n".join(lines) + "\n")
    words = ["--input", source, "--annotator", classifier[0] / "model", "--output", out]
    printed = finish(job("annotate", *words), code=3)
    assert "1 input lines in quarantine" in printed and "in.jsonl" in (out / "quarantine.jsonl").read_text()
    first, second = dialogues(out)["a"]["messages"]
    assert first["emotions"] == [{"label": "surprise", "prob": 1.0}]
    assert second["emotions"][0]["label"] == "grateful"


@pytest.mark.long
def test_an_llm_annotates_through_the_scoring_engine(cluster, tmp_path):
    out = tmp_path / "out"
    finish(job("annotate", "--annotator", "ecr-tiny-judge", "--limit", 2, "--output", out))
    run = json.loads((out / "run.json").read_text())
    table = pq.read_table(out / "emotions.parquet").to_pylist()
    assert run["rows"]["dialogues"] == 2 and len(table) == run["rows"]["messages"]
    assert all(0 <= row[emotion] <= 1 for row in table for emotion in EMOTIONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input", "nowhere"], "there is no file or directory 'nowhere'"),
        (["--annotator", "nobody"], "there is no classifier 'nobody'"),
    ],
)
def test_annotation_says_what_is_wrong(cluster, words, said, tmp_path):
    assert said in finish(job("annotate", *words, "--output", tmp_path / "out"), code=1)


def dialogues(location):
    rows = reading.read(reading.find(str(location), "dialogues"), max_message_chars=20_000, number_rows=False)
    return {row.value["dialogue_id"]: row.value for row in rows}


def all_messages(found):
    return [message for dialogue in found.values() for message in dialogue["messages"]]
