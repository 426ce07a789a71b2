"""Whole runs in one process: they learn, go on after a kill as if nothing had happened, and notice what is wrong."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecr_ray import optimizers
from ecr_ray.config import PpoConfig
from ecr_ray.policy import engines, rollouts
from ecr_ray.policy.ppo import checkpoints, loop, report, run, worker
from ecr_ray.policy.ppo.delivery import PolicySyncError
from ecr_ray.policy.ppo.group import Alone
from ecr_ray.policy.ppo.rewards import Rewarder, RewardError
from ecr_ray.policy.ppo.verifiable import asks

SMALL = PpoConfig(
    limit=60, steps=4, batch=8, minibatch=4, micro_batch=4, epochs=1, zero_stage=0, max_prompt=96, max_new_tokens=16,
    value_warmup=0, scale_samples=8, eval_prompts=4, eval_every=2, save_every=2,
    reward="ecr_ray.policy.ppo.verifiable:asks", no_end_cost=0.0, repetition_cost=0.0, learning_rate=1e-3,
)  # fmt: skip


def job(folder: Path, settings: PpoConfig = SMALL) -> worker.Job:
    """A prepared run."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = replace(settings, output=str(folder))
    tokenizer = run.check(settings)
    if not (folder / "data.json").exists():
        run.prepare(settings, tokenizer, folder)
    return run.make_job(settings, tokenizer, folder, "cpu")


def start(this: worker.Job, *, reward=asks, engine=engines.InProcess, hurry=lambda: False):
    local = rollouts.Local(engine(this.engine()))
    worker.run(this, Alone(), local, Rewarder(reward, None, {}), hurry=hurry)


def curve(folder: Path) -> list[dict]:
    timeless = ("at", "elapsed", "seconds")
    rows = report.read_curve(folder / worker.CURVE).to_pylist()
    return [{k: v for k, v in row.items() if not k.startswith(timeless)} for row in rows]


def test_it_learns_what_can_be_checked(tmp_path):
    settings = replace(
        SMALL, limit=None, steps=16, batch=32, minibatch=16, micro_batch=16, epochs=2, learning_rate=3e-3, beta=0.0,
        eval_prompts=32, eval_every=16, max_new_tokens=12,
    )  # fmt: skip
    start(job(tmp_path, settings))
    rows = curve(tmp_path)
    before = np.mean([row["opinion"] for row in report.of_step(report.read_samples(tmp_path), 0)])
    after = rows[-1]["held_out_opinion"]
    assert before < 0.6 and after >= 0.9, f"{before:.2f} -> {after:.2f}"
    assert all(abs(row["first_ratio"] - 1) < 1e-3 for row in rows)
    assert all(row["moved"] > 100 * row["sync_error"] for row in rows)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_and_started_again_it_is_the_same_run(tmp_path, method):
    settings = replace(SMALL, method=method, target_kl=1.0)
    start(job(tmp_path / "whole", settings))
    cut = job(tmp_path / "cut", settings)

    def dies(dialogues, responses, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt("as if by kill -9, in the middle of step 3")
        return asks(dialogues, responses)

    with pytest.raises(KeyboardInterrupt):
        start(cut, reward=dies)
    assert checkpoints.steps(tmp_path / "cut") == [2]
    start(cut)
    whole, again = curve(tmp_path / "whole"), curve(tmp_path / "cut")
    assert len(whole) == 4 and [row["step"] for row in again] == [1, 2, 3, 4]
    for a, b in zip(whole, again, strict=True):
        assert {k: v for k, v in a.items() if v != pytest.approx(b[k], nan_ok=True, abs=1e-9)} == {}
    done = [json.loads((tmp_path / name / worker.DONE).read_text()) for name in ("whole", "cut")]
    assert done[0] == done[1]


def test_told_to_hurry_it_saves_and_stops(tmp_path):
    this = job(tmp_path)
    asked = []

    def hurry():
        asked.append(1)
        return len(asked) == 3

    start(this, hurry=hurry)
    assert checkpoints.steps(tmp_path) == [2, 3] and not (tmp_path / worker.DONE).exists()
    start(this)
    assert (tmp_path / worker.DONE).exists()


class Deaf(engines.InProcess):
    """Takes the first version and answers later ones with their digest only."""

    def load(self, sent):
        if self.version is None:
            return super().load(sent)
        self.version = sent.version
        return sent.digest


class Mangled(engines.InProcess):
    """Loads something, but not what was sent."""

    def load(self, sent):
        super().load(sent)
        return "0" * 64


class Old(engines.InProcess):
    """Says that its samples are of the first version."""

    def generate(self, *asked):
        self.version = 0
        return super().generate(*asked)


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        (Deaf, "rollout engine 0 loaded version 1 of the policy but answers like the (base model|version before)"),
        (Mangled, "rollout engine 0 answers with digest 000000000000 for version 0"),
        (Old, r"8 of 8 samples for step 2 are of an older version of the policy"),
    ],
)
def test_a_broken_delivery_is_an_error(tmp_path, engine, sentence):
    with pytest.raises(PolicySyncError, match=sentence):
        start(job(tmp_path), engine=engine)


def test_an_adapter_of_another_rank_is_an_error(tmp_path):
    this = job(tmp_path)
    other = replace(this.engine(), lora=replace(this.lora, r=4))
    with pytest.raises(PolicySyncError, match=r"has shape \(16, 256\), the engine's has \(4, 256\)"):
        worker.run(this, Alone(), rollouts.Local(engines.InProcess(other)), Rewarder(asks, None, {}))


def test_a_reward_that_is_no_number_ends_the_run_and_its_checkpoint_stays(tmp_path):
    this = job(tmp_path)

    def breaks(dialogues, responses, calls=[]):  # noqa: B006
        calls.append(1)
        return [float("nan")] * len(responses) if len(calls) == 6 else asks(dialogues, responses)

    with pytest.raises(RewardError, match="8 of 8 rewards are no number"):
        start(this, reward=breaks)
    assert checkpoints.steps(tmp_path) == [2]


def test_a_damaged_checkpoint_is_named(tmp_path):
    this = job(tmp_path)
    start(this)
    broken = tmp_path / "checkpoints" / "checkpoint-4" / "weights.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    with pytest.raises(checkpoints.CheckpointError, match=r"weights.safetensors is not what was written: remove"):
        start(this)


def test_a_disk_that_is_full_is_one_sentence_and_nothing_is_lost(tmp_path, monkeypatch):
    this = job(tmp_path)
    start(replace(this, settings=replace(this.settings, steps=2)))
    state: optimizers.State = checkpoints.load(tmp_path)[1]

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_policy", full)
    with pytest.raises(checkpoints.CheckpointError, match=r"cannot write the checkpoint of step 3 .*No space left"):
        checkpoints.save(tmp_path, checkpoints.Progress(step=3), state, this.base, this.lora, this.tokenizer)
    assert checkpoints.steps(tmp_path) == [2] and len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of ten megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs to mount a small file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_real_full_disk(small_disk):
    this = job(small_disk)
    with pytest.raises(checkpoints.CheckpointError, match=r"No space left on device.*the one before is as it was"):
        start(this)
    assert checkpoints.steps(small_disk) == [2]
    progress, state = checkpoints.load(small_disk)
    assert progress.step == 2 and state["weights"]


def test_seeds_differ_by_step_and_purpose_and_are_the_same_again():
    drawn = [tuple(loop.seeds(0, purpose, 3)) for purpose in (-2, -1, 1, 2)]
    assert len(set(drawn)) == 4 and drawn[2] == tuple(loop.seeds(0, 1, 3)) != tuple(loop.seeds(1, 1, 3))


def test_distinct_by_hand():
    assert loop.distinct(["a b a", "b a"], 1) == 2 / 5 and loop.distinct(["a b a", "b a"], 2) == 2 / 3
    assert loop.distinct(["", "a"], 2) == 0
