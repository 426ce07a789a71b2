"""The curve, the figures and the bar of a fine-tuning run."""

import dataclasses
import json
import math

import pytest

from ecr_ray.config import SftConfig
from ecr_ray.policy import sft_report, sft_worker


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def train(step, loss, seconds):
    return {"step": step, "loss": loss, "seconds": seconds, "grad_norm": 1.0, "learning_rate": 1e-3, "num_tokens": 9.0}


CURVE = [
    train(1, 8.0, 1), train(2, 7.0, 2), {"step": 2, "eval_loss": 6.5, "seconds": 3}, train(3, 6.0, 4),
    # Killed after step 3, gone on from the checkpoint of step 2.
    train(3, 6.1, 1), {"step": 3, "train_runtime": 9.0, "seconds": 2}, {"step": 3, "eval_loss": 6.9, "seconds": 2},
]  # fmt: skip


def test_of_a_step_that_was_done_again_the_last_time_counts(tmp_path):
    rows = sft_report.read_curve(write(tmp_path / "curve.jsonl", *CURVE)).to_pylist()
    assert [(row["step"], row["split"], row["loss"]) for row in rows] == [
        (1, "train", 8.0), (2, "train", 7.0), (2, "valid", 6.5), (3, "train", 6.1), (3, "valid", 6.9),
    ]  # fmt: skip


def test_the_figures_of_a_run(tmp_path):
    curve = sft_report.read_curve(write(tmp_path / "curve.jsonl", *CURVE))
    found = sft_report.result(curve, {"steps": 3, "checkpoint": "/x/checkpoint-2"})
    assert (found["kept_step"], found["valid_loss_first"], found["valid_loss_best"]) == (2, 6.5, 6.5)
    assert found["valid_perplexity_best"] == pytest.approx(math.exp(6.5))
    assert (found["train_loss_first"], found["train_loss_last"]) == (8.0, 6.1)


@pytest.mark.parametrize(("rows", "changes", "steps"), [(33, {}, 9), (32, {}, 6), (33, {"max_steps": 4}, 4)])
def test_steps_of_a_run(rows, changes, steps):
    settings = dataclasses.replace(SftConfig(), epochs=3.0, batch=16, **changes)
    assert sft_report.total_steps(settings, rows) == steps


def test_a_checkpoint_without_its_mark_does_not_count(tmp_path):
    assert sft_worker.latest_checkpoint(tmp_path) is None
    for step in (9, 100, 200):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    for step in (9, 100):
        (tmp_path / "checkpoints" / f"checkpoint-{step}" / sft_worker.COMPLETE).write_text("{}")
    latest = sft_worker.latest_checkpoint(tmp_path)
    assert latest.endswith("checkpoint-100") and sft_worker.step_of(latest) == 100
