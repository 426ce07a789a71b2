"""The critic through its front doors, on real Ray Train workers under DeepSpeed, with workers and drivers killed."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecr_ray import records, storage
from ecr_ray.data import prepare
from ecr_ray.encoders import model, predict, worker
from tests.conftest import turn, write_turns
from tests.integration.jobs import finish, job, processes, until

pytestmark = pytest.mark.slow
ASPECTS = ("empathy", "informativeness", "recommendation", "engagement")
STEPS = 24
COMMON = ["--max-length", 40, "--batch", 16, "--micro-batch", 4, "--max-steps", STEPS, "--epochs", 9, "--people", "no"]
COMMON += ["--eval-every", 8, "--save-every", 8, "--log-every", 1, "--bootstrap", 50, "--train-layers", 2]
COMMON += ["--learning-rate", 5e-4, "--reader", "none"]


def critic(scored, out, *arguments, **how):
    return job("train_critic", "--targets", scored, "--output", out, *COMMON, *arguments, **how)


SAID = ("Try {}, it is warm, wonderful and great fun", "No idea about {}, I know nothing of that kind")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Sixty dialogues of eight turns, with scores that follow from the words: one can see whether they are learnt."""
    folder = tmp_path_factory.mktemp("scored")
    chance = np.random.default_rng(0)
    turns = [turn(n) | {"response": SAID[chance.integers(2)].format(f"film {n % 90}")} for n in range(480)]
    (folder / "turns.jsonl").write_text("\n".join(map(json.dumps, turns)))
    out = folder / "score"
    prepare.write_tables(str(folder / "turns.jsonl"), str(out), limit=None, max_message_chars=20_000, number_rows=False)
    rows = []
    for file in storage.list_files(out / "turns"):
        for found in storage.read_parquet(file).to_pylist():
            value = 0.2 + 0.6 * found["response"].startswith("Try") + chance.normal(0, 0.04)
            scores = dict.fromkeys((*ASPECTS, "overall"), value)
            spread = {f"{name}_spread": None for name in scores}
            ids = {name: found[name] for name in ("turn_id", "dialogue_id", "index")}
            rows.append(ids | scores | spread | {"judges": 1})
    table = pa.Table.from_pylist(rows, schema=records.target_schema(ASPECTS))
    storage.write_parquet(out / "targets.parquet", table)
    storage.write_json(out / "run.json", {"stage": "score", "config": {"rubric": "ecr-ma"}})
    return out


@pytest.fixture(scope="module")
def undisturbed(cluster, scored, tmp_path_factory):
    """One worker, ZeRO-1, by `ray job submit`."""
    out = tmp_path_factory.mktemp("critic") / "critic"
    return out, finish(critic(scored, out, submit=True))


def curve(directory):
    rows = pq.read_table(directory / "curve.parquet").to_pylist()
    return np.array([row["loss"] for row in rows]), [row["valid_error"] for row in rows if row["valid_error"]]


def test_it_learns_and_says_how_well(undisturbed):
    out, printed = undisturbed
    losses, errors = curve(out)
    assert len(losses) == STEPS and len(errors) == 3 and errors[-1] < 0.5
    run = json.loads((out / "run.json").read_text())
    assert run["heads"] == [*ASPECTS, "overall"] and run["overall_from"] == {"judges": 480}
    rows = {(r["head"], r["measure"], r["model"]): r for r in run["measures"]}
    assert rows["overall", "Spearman", "critic"]["value"] > 0.5
    assert rows["overall", "R²", "the training mean"]["ahead"]["low"] > 0
    assert "held out, overall: Spearman critic" in printed
    page = (out / "summary.html").read_text()
    assert page.count("<img") == 5 and "twenty worst" in page and "<script" not in page
    assert {path.name for path in (out / "plots").iterdir()} >= {"predicted.png", "calibration.png", "learning.png"}
    assert not (out / ".work").exists()


def test_the_artifact_holds_a_critic_that_predicts_what_was_measured(undisturbed):
    out, _ = undisturbed
    # Two of MiniLM's six layers and the heads, in sixteen bits; the rest comes with the package.
    assert (out / "model" / model.WEIGHTS).stat().st_size < 8e6
    rows = pq.read_table(out / "predictions.parquet").to_pylist()[:20]
    contexts = dict(read_contexts(out))
    local = predict.Local(str(out))
    found = local.predict([contexts[r["turn_id"]] for r in rows], [r["text"] for r in rows])
    assert np.allclose(found.of("overall"), [r["overall_predicted"] for r in rows], atol=5e-3)


def read_contexts(out):
    run = json.loads((out / "run.json").read_text())
    for file in storage.list_files(storage.join(run["config"]["targets"][0], "turns")):
        for found in storage.read_parquet(file).to_pylist():
            yield found["turn_id"], found["context"]


@pytest.mark.long
def test_killed_and_gone_on_with_other_workers_it_is_the_same_run(undisturbed, scored, tmp_path):
    out = tmp_path / "critic"
    work = out / ".work"
    first = critic(scored, out, "--workers", 2, "--zero-stage", 2)
    until(lambda: worker.checkpoints(work), first)
    first.kill()
    first.communicate()
    refused = critic(scored, out, "--seed", 1)
    assert "unfinished run with other settings" in finish(refused, 1)

    again = critic(scored, out, "--workers", 1, "--zero-stage", 3)
    until(lambda: max(worker.checkpoints(work)) >= 16, again)
    victims = processes("RayTrainWorker")
    assert victims
    for victim in victims:
        victim.kill()
    finish(again)
    (one, errors), (two, others) = curve(undisturbed[0]), curve(out)
    assert len(two) == STEPS
    assert np.allclose(one, two, rtol=0, atol=2e-3) and np.allclose(errors, others, rtol=0, atol=2e-3)
    assert "already complete" in finish(critic(scored, out))


def test_a_finished_critic_judges_turns(undisturbed, tmp_path):
    out, _ = undisturbed
    config = tmp_path / "mine.toml"
    config.write_text(f'[judges.mine]\nbackend = "critic"\nmodel = "{out}"\ndevice = "cpu"\n')
    write_turns(tmp_path / "turns.jsonl", 60)
    words = ["--config", config, "--judges", "mine", "--input", tmp_path / "turns.jsonl"]
    printed = finish(job("score", *words, "--output", tmp_path / "scores"))
    assert "mine: 60 scored, 0 failed" in printed
    scores = pq.read_table(tmp_path / "scores" / "scores.parquet").to_pylist()
    assert all(0 < row["overall"] < 1 and 0 <= row["confidence"] < 1 for row in scores)
    asked = [row["overall"] for row in scores]
    assert np.std(asked) > 0.01
    refused = finish(job("score", *words, "--rubric", "ecr", "--output", tmp_path / "x"), 1)
    assert f"the critic {out} is of the rubric ecr-ma, not of ecr" in refused


SEARCH = """
[critic]
max_length = 40
micro_batch = 8
people = "no"
reader = "none"
epochs = 1.0
eval_every = 5
save_every = 100
max_failures = 0
[space]
learning_rate = [1e-7, 1e-3]
train_layers = [1, 99]
"""


def search(scored, folder):
    """Where its result is, and its arguments."""
    config, out = folder / "search.toml", folder / "tune"
    config.write_text(SEARCH)
    words = ["--config", config, "--targets", scored, "--output", out]
    return out, [*words, "--trials", 3, "--concurrent", 1, "--seed", 0]


def test_a_search_stops_early_and_keeps_its_failures(cluster, scored, tmp_path):
    out, words = search(scored, tmp_path)
    finish(job("tune_critic", *words), 3)
    check_search(scored, out)


@pytest.mark.long
def test_a_search_that_is_killed_goes_on(cluster, scored, tmp_path):
    out, words = search(scored, tmp_path)
    first = job("tune_critic", *words)
    until(lambda: list((out / ".work" / "trials").glob("*/done.json")), first, 400)
    first.kill()
    first.communicate()
    done = {path.parent.name for path in (out / ".work" / "trials").glob("*/done.json")}
    printed = finish(job("tune_critic", *words), 3)
    assert "going on with the unfinished search" in printed
    assert done <= check_search(scored, out)


def check_search(scored, out):
    """What a search of these settings leaves; its trials."""
    run = json.loads((out / "run.json").read_text())
    trials = {trial["trial"]: trial for trial in run["trials"]}
    assert len(trials) == 3
    # The encoder has six layers: a trial that wants 99 fails, and says why.
    bad = [trial for trial in trials.values() if trial["chosen"]["train_layers"] == 99]
    good = [trial for trial in trials.values() if trial["chosen"]["train_layers"] == 1]
    assert bad and good
    assert all(trial["status"] == "failed" and "only 6 layers" in trial["reason"] for trial in bad)
    assert {trial["status"] for trial in good} == {"done", "stopped"} and all(trial["best_error"] for trial in good)
    # Who learns next to nothing is stopped, and frees its place.
    assert all(trial["chosen"]["learning_rate"] == 1e-7 for trial in good if trial["status"] == "stopped")
    assert run["best"]["best_error"] == min(trial["best_error"] for trial in good)
    page = (out / "summary.html").read_text()
    assert "parallel" not in page and page.count("<svg") >= 2 and "only 6 layers" in page
    assert list((out / "tensorboard").rglob("events.out.tfevents.*"))
    # Nothing of a trial is left on the cluster.
    assert not processes("RayTrainWorker")

    from ecr_ray import config as settings

    best = settings.load(settings.CriticConfig, "critic", ["--config", str(out / "best.toml")])
    assert best.learning_rate == pytest.approx(run["best"]["chosen"]["learning_rate"])
    assert best.targets == (str(scored),) and best.train_layers == 1 and best.max_length == 40
    return set(trials)
