"""PPO through its front doors: real rollout actors and Ray Train workers under DeepSpeed, killed on the way."""

import json

import pyarrow.parquet as pq
import pytest

from ecr_ray.policy.ppo import checkpoints, worker
from tests.integration.jobs import finish, job, processes, until

pytestmark = pytest.mark.slow
# As many as the pipeline's of tests/integration/conftest.py.
STEPS = 6
COMMON = [
    "--steps", STEPS, "--limit", 120, "--batch", 16, "--minibatch", 8, "--micro-batch", 4, "--epochs", 1,
    "--max-prompt", 96, "--max-new-tokens", 16, "--scale-samples", 16, "--eval-prompts", 8, "--eval-every", 3,
    "--save-every", 2, "--value-warmup", 1, "--learning-rate", 1e-3,
]  # fmt: skip
CHECKED = ["--reward", "ecr_ray.policy.ppo.verifiable:asks"]


def ppo(*arguments):
    return job("ppo", *COMMON, *arguments)


def curve(directory):
    return {row["step"]: row for row in pq.read_table(directory / "curve.parquet").to_pylist()}


def steps_done(work):
    path = work / worker.CURVE
    return path.read_text().count("\n") if path.exists() else 0


def kill(name):
    """SIGKILL to one of Ray's processes of this name."""
    found = processes(name)
    assert found, f"no process {name}"
    found[-1].kill()


def test_a_run_says_what_it_did(pipeline):
    out = pipeline.out / "ppo"
    printed = (pipeline.out / "logs" / "ppo.log").read_text()
    rows = curve(out)
    assert sorted(rows) == list(range(1, STEPS + 1))
    assert all(abs(row["first_ratio"] - 1) < 1e-3 for row in rows.values())
    assert rows[3]["moved"] > 100 * rows[3]["sync_error"] and rows[1]["moved"] < 1e-6, "the value warms up first"
    run = json.loads((out / "run.json").read_text())
    found = run["result"]
    assert found["gain"]["opinion"]["n"] == 8 and found["gain"]["opinion"]["low"] <= found["gain"]["opinion"]["value"]
    assert f"{found['gain']['opinion']['value']:+.3f}" in printed
    assert set(found["seconds"]) == {"a_step", *(f"{p}_share" for p in ("rollout", "reward", "learn", "sync", "other"))}
    samples = pq.read_table(out / "samples.parquet")
    assert sorted(set(samples["step"].to_pylist())) == [0, 3, 6] and samples.num_rows == 24
    page = (out / "summary.html").read_text()
    assert page.count("<svg") == 8 and "<script" not in page
    assert not (out / ".work").exists()


def test_the_adapter_is_pefts(pipeline):
    config = json.loads((pipeline.out / "ppo" / "model" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 16


@pytest.mark.long
def test_two_workers_under_zero_3_with_rollout_actor_and_learner_killed_give_the_same_run(cluster, tmp_path):
    undisturbed = tmp_path / "one"
    finish(ppo("--output", undisturbed))
    assert "already complete" in finish(ppo("--output", undisturbed))
    out, work = tmp_path / "two", tmp_path / "two" / ".work"
    process = ppo("--output", out, "--workers", 2, "--zero-stage", 3)
    until(lambda: steps_done(work) >= 1, process)
    kill("ray::RolloutActor")
    until(lambda: checkpoints.steps(work), process)
    kill("RayTrainWorker")
    finish(process)
    one, two = curve(undisturbed), curve(out)
    assert sorted(two) == sorted(one)
    for step in one:
        for name in ("opinion", "kl", "tokens", "value_loss"):
            assert two[step][name] == pytest.approx(one[step][name], abs=0.02, rel=0.02), (step, name)


ASYNC = ["--engine", "vllm", "--mode", "one_step_async", "--zero-stage", 0, *CHECKED]


def test_vllm_in_one_step_async_weighs_what_is_a_step_old(cluster, tmp_path):
    finish(ppo("--output", tmp_path / "async", *ASYNC))
    check_async(tmp_path / "async")


@pytest.mark.long
def test_vllm_in_one_step_async_goes_on_after_the_driver_is_killed(cluster, tmp_path):
    out, work = tmp_path / "async", tmp_path / "async" / ".work"
    how = ["--output", out, *ASYNC]
    process = ppo(*how)
    until(lambda: checkpoints.steps(work), process)
    process.kill()
    process.wait()
    process.communicate()
    finish(ppo(*how))
    check_async(out)


def check_async(out):
    rows = curve(out)
    assert sorted(rows) == list(range(1, STEPS + 1))
    # From the third step on the answers are of the policy before the last update, and weighed.
    assert any(abs(rows[step]["weight"] - 1) > 1e-4 for step in (4, 5, 6))
    assert all(row["rollout_drift"] < 0.5 and 0 < row["weight"] <= 2 for row in rows.values())


@pytest.mark.long
def test_a_reward_that_breaks_is_one_sentence_and_not_tried_again(cluster, tmp_path):
    # Two workers: the second waits for what the first will never send.
    how = ["--workers", 2, "--zero-stage", 0, "--reward", "tests.integration.broken:nan"]
    process = ppo("--output", tmp_path / "nan", *how)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.strip().splitlines()[-1].startswith("error: 16 of 16 rewards are no number, the first of response 1")
