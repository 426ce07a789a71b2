"""A real Prometheus over the session's Ray cluster; the boards' queries put to it after real runs of the stages.

The serving board is in serving/test_board.py.
"""

import json
import os
import subprocess
import sys

import pytest

from ecr_ray.cluster import boards
from tests.conftest import ROOT, write_turns

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scored(prometheus, tmp_path_factory):
    """A scoring run that Prometheus has seen."""
    out = tmp_path_factory.mktemp("watched") / "score"
    # A rate takes two values, and Ray hands on a process's values every ten seconds: fast machines are done by then.
    often = {**os.environ, "RAY_metrics_report_interval_ms": "1000"}
    turns = write_turns(out.with_name("turns.jsonl"), 1500)
    command = [sys.executable, "jobs/score.py", "--input", turns, "--output", out, "--batch-size", "64"]
    done = subprocess.run(command, cwd=ROOT, env=often, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def trained(prometheus, request):
    """The session's pipeline, which has to run while Prometheus watches: nobody has asked for it before."""
    return request.getfixturevalue("pipeline").out


def test_the_scoring_board_shows_a_scoring_run(prometheus, scored):
    assert prometheus.missing(boards.SCORING) == []
    rows = json.loads((scored / "run.json").read_text())["rows"]
    counted = prometheus.series(boards.of("ecr_score_rows", judge="ecr-tiny-judge", outcome="ok"))
    assert max(max(values) for _, values in counted) == rows["turns"]
    left = prometheus.series(boards.of("ecr_score_rows_left", judge="ecr-tiny-judge"))
    assert max(max(values) for _, values in left) <= rows["turns"]
    read = prometheus.series(boards.of("ecr_prepare_rows", kind="turns"))
    assert max(max(values) for _, values in read) == rows["turns"]


def test_the_training_board_shows_every_stage_that_trains(prometheus, trained):
    assert prometheus.missing(boards.TRAINING) == []
    steps = {
        labels["stage"]: max(values)
        for labels, values in prometheus.series(f"sum by (stage) ({boards.of('ecr_train_steps')})")
    }
    # The last values of a process that ends at once may not arrive: at most as many as there were.
    assert set(steps) == {"critic", "sft", "ppo", "recommender"}, steps
    assert steps["ppo"] <= 6 and steps["sft"] <= 2


def test_the_ppo_board_shows_a_policy_that_learns(prometheus, trained):
    assert prometheus.missing(boards.PPO) == []
    told = prometheus.series(boards.latest("ecr_ppo_first_ratio"))
    assert told[0][1][-1] == pytest.approx(1, abs=1e-3)
