"""Talks on Ray actors: killed half-way and held to the end, with an actor that is lost, and a system that is none."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import psutil
import pytest

from ecr_ray.evaluation.simulation import episodes, measures, users
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.evaluation.simulation.partners import POPULAR, Popular, Recommending, Turn
from ecr_ray.evaluation.simulation.tasks import SimulationError, draw_tasks
from ecr_ray.evaluation.simulation.users import UserSpec
from ecr_ray.recommender import catalogue, place
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
OURS, TASKS, TURNS = "ecr_ray", 14, 8
RUN = f"""
import sys
from functools import partial
from ecr_ray.cluster import connect
from ecr_ray.evaluation.simulation import episodes, partners, tasks, users
from ecr_ray.recommender import catalogue, place
connect.connect()
what = catalogue.load("sample")
make = partial(partners.Recommending, place.of("ecr-tiny-recommender"), count=3)
drawn = tasks.draw_tasks(what, {TASKS}, 0)
episodes.run_episodes(drawn, what, "{OURS}", make, users.UserSpec(), turns={TURNS}, output_dir=sys.argv[1], seed=0)
"""


@pytest.fixture(scope="module")
def what():
    return catalogue.load("sample")


@pytest.fixture(scope="module")
def tasks(what):
    return draw_tasks(what, TASKS, 0)


@pytest.fixture(scope="module")
def ours():
    directory = place.of("ecr-tiny-recommender")
    if not (directory / "recommender.json").is_file():
        pytest.skip("the recommender is not in the package")
    return partial(Recommending, directory, count=3)


@pytest.fixture(scope="module")
def expected(what, tasks, ours):
    """The same talks in this process."""
    watch, partner = Watch(what), ours()
    return [
        episodes.converse(users.make(UserSpec(), task, what, watch, 0), partner, task.target, watch, TURNS)
        for task in tasks
    ]


def told(table):
    return [
        (row["success"], row["success_in_reply"], row["turns"], [(m["role"], m["text"]) for m in row["messages"]])
        for row in table.to_pylist()
    ]


def parts(directory):
    return {p.name: p.stat().st_mtime_ns for p in directory.glob("talk-*.parquet")}


def wait_for_parts(directory, count, alive):
    deadline = time.monotonic() + 200
    while len(found := parts(directory)) < count:
        assert alive() and time.monotonic() < deadline, f"{len(found)} talks"
        time.sleep(0.02)
    return found


def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(cluster, tmp_path, what, tasks, ours, expected):
    killed = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, start_new_session=True, env={**os.environ}
    )
    wait_for_parts(tmp_path, 2, lambda: killed.poll() is None)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    held = parts(tmp_path)
    assert 2 <= len(held) < TASKS
    how = {"turns": TURNS, "output_dir": str(tmp_path), "seed": 0}
    table = episodes.run_episodes(tasks, what, OURS, ours, UserSpec(), **how)
    assert told(table) == [
        (e.success, e.success_in_reply, e.turns, [(m.role, m.text) for m in e.messages]) for e in expected
    ]
    after = parts(tmp_path)
    assert len(after) == TASKS and {name: after[name] for name in held} == held
    popular = episodes.run_episodes(tasks, what, POPULAR, partial(Popular, what, {}, count=3), UserSpec(), **how)
    assert len(parts(tmp_path)) == 2 * TASKS
    (success, *_) = measures.differences({OURS: table, POPULAR: popular}, TURNS, seed=0, resamples=200)
    assert success.difference == pytest.approx(
        sum(e.success for e in expected) / TASKS - sum(popular["success"].to_pylist()) / TASKS
    )


def test_an_actor_holds_several_talks_at_the_same_time(cluster, tmp_path, what, tasks):
    class Meeting:
        """Answers when three have asked, and gives up when they do not come."""

        def __init__(self):
            self._three = threading.Barrier(3)

        def reply(self, messages):
            self._three.wait(timeout=60)
            return Turn("How about it?", ())

    how = {"turns": 1, "actors": 1, "at_once": 3, "output_dir": str(tmp_path), "seed": 0}
    table = episodes.run_episodes(tasks[:6], what, "meeting", Meeting, UserSpec(), **how)
    assert table["status"].to_pylist() == ["ok"] * 6
    assert table["task_id"].to_pylist() == [task.task_id for task in tasks[:6]]


@pytest.mark.long
def test_an_actor_that_is_lost_costs_no_talk(cluster, tmp_path, tasks, expected):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, start_new_session=True, env={**os.environ}
    )
    wait_for_parts(tmp_path, 1, lambda: run.poll() is None)
    talkers = [p for p in psutil.process_iter(["cmdline"]) if "ray::Talker" in " ".join(p.info["cmdline"] or [])]
    talkers[0].send_signal(signal.SIGKILL)
    assert run.wait(200) == 0
    table = episodes.read(str(tmp_path), OURS, tasks)
    assert table["status"].to_pylist() == ["ok"] * TASKS
    assert table["success"].to_pylist() == [e.success for e in expected]


def test_a_system_that_cannot_be_made_is_said(cluster, tmp_path, what, tasks):
    make = partial(Recommending, tmp_path / "nowhere")
    with pytest.raises(SimulationError, match=r"the system ours cannot be made: .*nowhere holds no recommender"):
        episodes.run_episodes(tasks, what, "ours", make, UserSpec(), output_dir=str(tmp_path), seed=0)
