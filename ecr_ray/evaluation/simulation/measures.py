"""What talks say of a system: how often the film was found, and after how many turns. Pure functions.

A talk in which somebody did not answer has no result: it is neither a failure nor a success, and is counted apart.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecr_ray.data.knowledge import normal
from ecr_ray.evaluation import statistics
from ecr_ray.evaluation.simulation.episodes import OK
from ecr_ray.evaluation.simulation.partners import POPULAR
from ecr_ray.evaluation.simulation.tasks import Task
from ecr_ray.evaluation.statistics import Comparison, Figure

SUCCESS, NAMED = "success rate", "success rate by the reply's words"
TURNS, TURNS_TO_SUCCESS = "turns, failures as the longest talk", "turns to success"
KEPT, STOPPED = "user: messages that tell of its wish, share", "user: stopped from saying the title, times a talk"


def values(talks: pa.Table, turns: int) -> dict[str, np.ndarray]:
    """Measure → a value for each of N talks, (N,); NaN where the talk says nothing of it.

    Args:
        talks: rows of EPISODES.
        turns: of the longest talk, which every failure counts as.
    """
    ok = _ok(talks)
    success = _floats(talks["success"], ok)
    taken = _floats(talks["turns"], ok)
    return {
        SUCCESS: success,
        NAMED: _floats(talks["success_in_reply"], ok),
        TURNS: np.where(success == 0, float(turns), taken),
        TURNS_TO_SUCCESS: np.where(success == 1, taken, np.nan),
    }


def _ok(talks: pa.Table) -> np.ndarray:
    return np.array([status == OK for status in talks["status"].to_pylist()], dtype=bool)


def _floats(column: pa.ChunkedArray, ok: np.ndarray) -> np.ndarray:
    found = pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy()
    return np.where(ok, found, np.nan)


def broken(talks: pa.Table) -> dict[str, int]:
    """Talks that came to nothing, by reason."""
    return dict(Counter(status for status in talks["status"].to_pylist() if status != OK))


def figures(systems: Mapping[str, pa.Table], turns: int, *, seed: int, resamples: int = 1000) -> list[Figure]:
    """Every measure of every system with its interval over talks."""
    found = []
    for system, talks in systems.items():
        tasks, ok_N = _tasks(talks), _ok(talks)
        for measure, value_N in values(talks, turns).items():
            # Failures are no part of the turns to success; talks that broke off are missing everywhere.
            at = ~np.isnan(value_N) | ~ok_N
            found.append(statistics.figure(measure, system, value_N[at], tasks[at], seed=seed, resamples=resamples))
    return found


def of_users(
    systems: Mapping[str, pa.Table], tasks: Sequence[Task], *, seed: int, resamples: int = 1000
) -> list[Figure]:
    """How well the users played: what a success is worth depends on it."""
    wishes = {task.task_id: task for task in tasks}
    found = []
    for system, talks in systems.items():
        rows = talks.to_pylist()
        played = {
            KEPT: [_kept(row, wishes[row["task_id"]]) for row in rows],
            STOPPED: [float(row["leaks_stopped"]) for row in rows],
        }
        ok_N, names = _ok(talks), _tasks(talks)
        for measure, value_N in played.items():
            of_talks = np.where(ok_N, np.array(value_N, dtype=float), np.nan)
            found.append(statistics.figure(measure, system, of_talks, names, seed=seed, resamples=resamples))
    return found


def _kept(row: Mapping[str, Any], wish: Task) -> float:
    """The share of a user's messages that hold something it likes or looks for; thanks for the film aside."""
    said = [message["text"] for message in row["messages"] if message["role"] == "seeker"]
    said = said[:-1] if row["success"] else said
    names = [f" {normal(name)} " for name in (*wish.likes, *(name for _, name in wish.facts))]
    return float(np.mean([any(name in f" {normal(text)} " for name in names) for text in said])) if said else np.nan


def differences(
    systems: Mapping[str, pa.Table], turns: int, *, seed: int, resamples: int = 1000, baseline: str = POPULAR
) -> list[Comparison]:
    """Every system against the baseline, task by task; not of the turns to success, which are of other tasks each.

    Raises:
        ValueError: two systems did not have the same tasks.
    """
    theirs, tasks = values(systems[baseline], turns), _tasks(systems[baseline])
    found = []
    for system, talks in systems.items():
        if system == baseline:
            continue
        if not np.array_equal(_tasks(talks), tasks):
            raise ValueError(f"{system} and {baseline} talked with other users: they cannot be compared task by task")
        mine = values(talks, turns)
        found += [
            statistics.compare(
                measure, system, mine[measure], baseline, theirs[measure], tasks, seed=seed, resamples=resamples
            )
            for measure in (SUCCESS, NAMED, TURNS)
        ]
    return statistics.adjusted(found)


def _tasks(talks: pa.Table) -> np.ndarray:
    return np.array(talks["task_id"].to_pylist())
