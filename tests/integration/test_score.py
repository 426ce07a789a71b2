"""The main job through its front doors, on real Ray and real vLLM engines, with real faults."""

import json
import os
import re
import signal
import time

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecr_ray.data import reading
from tests.conftest import turn
from tests.data.test_redial import DIALOGUE
from tests.integration.jobs import finish, job, processes, until

pytestmark = pytest.mark.slow


def score(*arguments, submit=False):
    return job("score", *arguments, submit=submit)


def table(directory, name="scores"):
    return pq.read_table(directory / f"{name}.parquet")


# -- one good run, two judges, in the pipeline ------------------------------------------------------------------------

JUDGES = {"ecr-tiny-judge", "tiny-b"}


def test_every_turn_has_a_score_from_every_judge(pipeline):
    scores = table(pipeline.out / "score").to_pandas()
    assert scores.groupby("judge").size().to_dict() == dict.fromkeys(JUDGES, 313)
    assert not scores.duplicated(["turn_id", "judge"]).any()
    for aspect in ("empathy", "informativeness", "recommendation", "engagement", "overall", "confidence"):
        assert scores[aspect].between(0, 1).all()
    # The judges read the texts: scores differ from turn to turn, and from judge to judge.
    assert scores.groupby("judge")["overall"].std().min() > 0.005
    assert (scores["answer_tokens"] == 4).all()


def test_the_scores_are_those_of_the_model_itself(pipeline):
    """The same prompts through plain transformers give the same digits' distributions."""
    import torch
    from transformers import AutoModelForCausalLM

    from ecr_ray.config import JudgeConfig
    from ecr_ray.models import tiny
    from ecr_ray.scoring.requests import Asker

    model = AutoModelForCausalLM.from_pretrained(tiny.resolve_model("tiny:1"))
    asker = Asker(JudgeConfig(model="tiny:1", name="tiny-b", max_model_len=2048), "ecr-ma")
    turns = {t["turn_id"]: t for t in pq.read_table(pipeline.out / "annotate" / "turns").to_pylist()}
    scores = table(pipeline.out / "score")
    digits = list(asker.digit_ids)
    for row in scores.filter(pc.equal(scores["judge"], "tiny-b")).slice(0, 12).to_pylist():
        ids, _ = asker.tokens(turns[row["turn_id"]]["context"], turns[row["turn_id"]]["response"])
        for aspect in asker.aspects:
            with torch.no_grad():
                probs = model(torch.tensor([ids])).logits[0, -1, digits].softmax(-1).numpy()
            assert row[aspect] == pytest.approx(float(probs @ np.arange(10) / 9), abs=2e-4)
            ids = [*ids, digits[int(probs.argmax())]]


def test_judges_are_merged_and_compared(pipeline):
    out = pipeline.out / "score"
    scores, targets = table(out).to_pandas(), table(out, "targets").to_pandas()
    assert (targets["judges"] == 2).all() and len(targets) == 313
    mean = scores.groupby("turn_id")["empathy"].mean()
    assert np.allclose(targets.set_index("turn_id")["empathy"].sort_index(), mean.sort_index(), atol=1e-6)
    compared = json.loads((out / "agreement.json").read_text())
    pair = next(r for r in compared if r["aspect"] == "overall" and "spearman" in r)
    assert pair["n"] == 313 and pair["spearman"]["low"] <= pair["spearman"]["value"] <= pair["spearman"]["high"]


def test_the_run_record_and_the_page_say_that_a_judge_is_untrained(pipeline):
    out, printed = pipeline.out / "score", (pipeline.out / "logs" / "score.log").read_text()
    run = json.loads((out / "run.json").read_text())
    assert {j["name"]: j["untrained"] for j in run["judges"]} == {"ecr-tiny-judge": False, "tiny-b": True}
    assert printed.count("[untrained: these scores are noise]") == 1
    assert 0.3 < run["judges"][0]["prefix_cache_hit_rate"] < 1
    assert run["rows"]["turns"] == 313 and run["inputs"][0]["sha256"]
    page = (out / "summary.html").read_text()
    assert "is untrained" in page and "<svg" in page and "Krippendorff" in page
    assert not re.search(r"(src|href)=\"http", page)


def test_the_same_command_again_finds_the_result_and_another_is_refused(survived, dirty):
    out, _ = survived
    assert "already complete" in finish(score("--input", dirty, "--output", out), 3)
    error = finish(score("--output", out, "--limit", "5"), 1)
    assert "holds a finished run of score with other settings" in error


def test_a_judge_that_does_not_fit_is_refused_before_anything_loads(cluster, tmp_path):
    error = finish(score("--profile", "node", "--output", tmp_path / "x"), 1)
    assert "judge llama-2-7b-chat does not fit: it needs 1 GPU and the cluster has none" in error
    assert not (tmp_path / "x").exists()


# -- a thousand good rows and two hundred broken ones, undisturbed and killed -----------------------------------------


def broken(n):
    """The n-th broken line, and what its reason must say."""
    good = turn(5000 + n)
    kinds = [
        (json.dumps(good)[:-10].encode(), "not valid JSON"),
        (json.dumps({**good, "response": 5}).encode(), "not text but a number"),
        (json.dumps({**good, "context": {"a": 1}}).encode(), "not a list but an object"),
        (json.dumps({k: v for k, v in good.items() if k != "turn_id"}).encode(), "missing"),
        (json.dumps(turn(n)).encode(), "duplicate of"),
        (json.dumps({**good, "response": "  "}).encode(), "empty text"),
        (json.dumps({**good, "response": "x" * 2**20}).encode(), "1,048,576 characters"),
        (json.dumps(good).encode().replace(b"film", b"fi\xfflm", 1), "is not valid UTF-8"),
        (json.dumps({**good, "target_movie_ids": [None]}).encode(), "a movie id is null"),
        (
            json.dumps({**DIALOGUE, "conversationId": f"x{n}", "movieMentions": {"null": None}}).encode(),
            "is not a number",
        ),
    ]
    return kinds[n % len(kinds)]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    file = tmp_path_factory.mktemp("dirty") / "turns.jsonl"
    lines = [json.dumps(turn(n)).encode() for n in range(1000)]
    for n in range(200):
        lines.insert(min(len(lines), 400 + 4 * n), broken(n)[0])
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def survived(cluster, dirty, tmp_path_factory):
    """Its driver killed, and started again."""
    out = tmp_path_factory.mktemp("survived") / "score"
    command = ("--input", dirty, "--output", out, "--batch-size", "32", "--concurrent-batches", "2")

    def parts():
        return len(list((out / ".work" / "ecr-tiny-judge").glob("ok-*"))) if out.exists() else 0

    first = score(*command)
    until(lambda: parts() >= 2, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    at_kill = parts()
    assert 0 < at_kill < 1000 / 32
    wait_for(lambda: not processes("VLLM::"), 60, "the dead driver's engine to end")
    return out, finish(score(*command), 3)


def test_good_rows_are_scored_once_and_broken_ones_named(survived, dirty):
    out, printed = survived
    assert f"going on with the unfinished run in {out}" in printed
    assert sorted(table(out)["turn_id"].to_pylist()) == sorted(turn(n)["turn_id"] for n in range(1000))
    refused = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert len(refused) == 200
    by_line = {r["line"]: r for r in refused}
    lines = dirty.read_bytes().split(b"\n")
    expected = {broken(n)[0]: broken(n)[1] for n in range(200)}
    for number, found in by_line.items():
        assert expected[lines[number - 1]] in found["reason"] and found["file"] == str(dirty) and found["field"]
    assert "\n1,000 turns, 1,000 scores, 0 failed, 200 input lines in quarantine" in printed
    run = json.loads((out / "run.json").read_text())
    assert sum(run["failures"].values()) == 200


def test_the_default_judge_is_trained_and_every_output_says_on_what(survived):
    out, printed = survived
    (judge,) = json.loads((out / "run.json").read_text())["judges"]
    assert (judge["name"], judge["untrained"]) == ("ecr-tiny-judge", False) and "noise" not in printed
    assert judge["learnt_from"]["empathy"].startswith("proxy: satisfaction")
    assert f"  empathy <- {judge['learnt_from']['empathy']}" in printed
    page = (out / "summary.html").read_text()
    assert "ecr-tiny-judge is a small model" in page and "is untrained" not in page


@pytest.mark.long
def test_a_killed_engine_leaves_the_same_table(survived, dirty, tmp_path):
    out = tmp_path / "score"
    run = score("--input", dirty, "--output", out, "--batch-size", "32", "--concurrent-batches", "2")
    until(lambda: list((out / ".work" / "ecr-tiny-judge").glob("ok-*")), run)
    (actor,) = processes("ray::MapWorker(MapBatches(vLLMEngineStageUDF")
    actor.kill()
    finish(run, 3)
    killed, whole = table(survived[0]), table(out)
    assert killed["turn_id"].equals(whole["turn_id"])
    for column in ("empathy", "overall", "confidence"):
        assert np.allclose(killed[column], whole[column], atol=1e-4)


def test_no_engine_is_left(survived):
    wait_for(lambda: not processes("VLLM::"), 60, "the engines to end")


# -- failed rows ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failed(cluster, tmp_path_factory):
    """Forty turns, one of them too long for the judge: its arguments, its directory, what it printed."""
    lines = [turn(n) for n in range(40)]
    lines[7]["response"] = "word " * 600
    folder = tmp_path_factory.mktemp("failed")
    (folder / "turns.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["--input", folder / "turns.jsonl", "--output", folder / "score", "--max-model-len", 400]
    return words, folder / "score", finish(score(*words), 4)


def test_failures_are_written_apart_counted_and_fail_the_job(failed):
    _, out, error = failed
    assert "1 of 40 judgments of ecr-tiny-judge failed (2.5%; allowed 1.0%), most often prompt_too_long" in error
    (row,) = table(out, "failures").to_pylist()
    assert row["turn_id"] == turn(7)["turn_id"] and row["overall"] is None and "tokens" in row["reason"]
    assert table(out).num_rows == 39
    assert table(out, "targets").to_pandas().set_index("turn_id").loc[turn(7)["turn_id"], "judges"] == 0
    assert json.loads((out / "run.failed.json").read_text())["failures"] == {"ecr-tiny-judge: prompt_too_long": 1}


@pytest.mark.long
def test_accepting_a_failure_goes_on_with_that_row_alone_and_completes_the_artifact(failed):
    words, out, _ = failed
    printed = finish(score(*words, "--max-failure-rate", 0.05, "--retries", 0), 3)
    assert "going on with the unfinished run" in printed
    run = json.loads((out / "run.json").read_text())
    assert (run["rows"]["scores"], run["rows"]["failed"]) == (39, 1) and not (out / "run.failed.json").exists()


def test_the_input_is_checked_before_a_cluster_is_asked(tmp_path):
    error = finish(score("--input", tmp_path / "nothing.jsonl", "--output", tmp_path / "x"), 1)
    assert error.strip().splitlines()[-1] == f"error: there is no file or directory '{tmp_path / 'nothing.jsonl'}'"


def test_a_directory_of_somebody_else_is_left_alone(cluster, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    error = finish(score("--output", tmp_path), 1)
    assert "is not an artifact of this stage" in error
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_sample_is_what_the_job_reads_without_an_argument():
    assert reading.find("sample").files[0].endswith("data/sample/dialogues.jsonl")
