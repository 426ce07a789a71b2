"""Figures of talks, by hand."""

import numpy as np
import pyarrow as pa
import pytest

from ecr_ray.evaluation.simulation import measures
from ecr_ray.evaluation.simulation.episodes import EPISODES
from ecr_ray.evaluation.simulation.tasks import Task


def talks(*found, system="s"):
    """Of each (success, named, turns), or a status."""
    rows = []
    for n, one in enumerate(found):
        success, named, turns = (None, None, 2) if isinstance(one, str) else one
        rows.append(
            {
                "system": system,
                "task_id": f"t{n}",
                "target": "1",
                "success": success,
                "success_in_reply": named,
                "turns": turns,
                "turn_named": None,
                "messages": [],
                "leaks_stopped": 0,
                "status": one if isinstance(one, str) else "ok",
                "reason": "",
            }
        )
    return pa.Table.from_pylist(rows, EPISODES)


OURS = talks((True, True, 2), (True, False, 4), (False, True, 8), (True, True, 1), (False, False, 8), "http_500")
THEIRS = talks(
    (False, False, 8), (True, True, 1), (False, False, 8), (False, False, 8), (True, True, 6), "ok?", system="popular"
)


def test_values_of_talks():
    found = measures.values(OURS, turns=8)
    nan = np.nan
    np.testing.assert_array_equal(found[measures.SUCCESS], [1, 1, 0, 1, 0, nan])
    np.testing.assert_array_equal(found[measures.NAMED], [1, 0, 1, 1, 0, nan])
    np.testing.assert_array_equal(found[measures.TURNS], [2, 4, 8, 1, 8, nan])
    np.testing.assert_array_equal(found[measures.TURNS_TO_SUCCESS], [2, 4, nan, 1, nan, nan])
    # A failure counts as the longest talk, however short it was.
    np.testing.assert_array_equal(measures.values(OURS, turns=10)[measures.TURNS], [2, 4, 10, 1, 10, nan])
    assert measures.broken(OURS) == {"http_500": 1}


def test_figures_of_systems():
    found = {(f.measure, f.system): f for f in measures.figures({"s": OURS}, 8, seed=0, resamples=200)}
    success = found[measures.SUCCESS, "s"]
    assert success.value == pytest.approx(3 / 5) and success.n == success.dialogues == 5
    assert 0 <= success.low < success.value < success.high <= 1
    assert found[measures.TURNS, "s"].value == pytest.approx(23 / 5)
    # Three successes are too few for a figure.
    assert found[measures.TURNS_TO_SUCCESS, "s"].value is None and found[measures.TURNS_TO_SUCCESS, "s"].withheld


def test_turns_to_success_are_of_successes_alone():
    many = talks(*[(True, True, n) for n in range(1, 7)], *[(False, False, 8)] * 20)
    found = {f.measure: f for f in measures.figures({"s": many}, 8, seed=0, resamples=50)}
    assert found[measures.TURNS_TO_SUCCESS].value == pytest.approx(3.5) and found[measures.TURNS_TO_SUCCESS].n == 6


def test_where_most_talks_broke_off_nothing_is_said():
    broken = talks((True, True, 1), *["http_unreachable"] * 9)
    assert all(f.value is None and f.withheld for f in measures.figures({"s": broken}, 8, seed=0))


def test_systems_are_compared_task_by_task():
    found = {c.measure: c for c in measures.differences({"s": OURS, "popular": THEIRS}, 8, seed=0, resamples=200)}
    assert set(found) == {measures.SUCCESS, measures.NAMED, measures.TURNS}
    # 1 − 0, 1 − 1, 0 − 0, 1 − 0, 0 − 1; and 2 − 8, 4 − 1, 8 − 8, 1 − 8, 8 − 6.
    assert found[measures.SUCCESS].difference == pytest.approx(1 / 5) and found[measures.SUCCESS].n == 5
    assert found[measures.TURNS].difference == pytest.approx(-8 / 5)
    assert found[measures.TURNS].p_adjusted >= found[measures.TURNS].p


def test_systems_with_other_tasks_are_not_compared():
    with pytest.raises(ValueError, match="talked with other users"):
        measures.differences({"s": OURS, "popular": THEIRS.slice(1)}, 8, seed=0)


def said(*texts, success=False, leaks=0):
    """A talk with these words of the user."""
    messages = [{"role": "seeker", "text": text, "film_ids": []} for text in texts]
    messages.insert(1, {"role": "recommender", "text": "Some Drama with Ada Moon?", "film_ids": []})
    return talks((success, success, 1)).to_pylist()[0] | {"messages": messages, "leaks_stopped": leaks}


def of_users(*rows):
    rows = [row | {"task_id": f"t{n}"} for n, row in enumerate(rows)]
    tasks = [
        Task(row["task_id"], "1", ("Old Love",), (("genre", "Drama"), ("star", "Ada Moon")), "sad") for row in rows
    ]
    table = pa.Table.from_pylist(rows, EPISODES)
    return {f.measure: f for f in measures.of_users({"s": table}, tasks, seed=0, resamples=100)}


def test_how_well_a_user_played():
    rows = [
        # Likes and facts count, whatever their spelling; words that only hold a name do not; nor do the other's.
        said("I adore OLD LOVE!", "A drama, please.", "Dramatic.", "No."),
        # The thanks for the film are no message of the wish.
        said("With ada moon?", "Yes, that is the one!", success=True, leaks=2),
        said("Hello.", "Who are you?"),
        said("Hello.", "Drama.", leaks=1),
        said("Drama", "Drama"),
    ]
    found = of_users(*rows)
    assert found[measures.KEPT].value == pytest.approx((0.5 + 1 + 0 + 0.5 + 1) / 5)
    assert found[measures.STOPPED].value == pytest.approx(3 / 5) and found[measures.KEPT].n == 5


def test_of_a_user_who_did_not_answer_nothing_is_said():
    silent = said("Drama") | {"status": "http_500", "success": None}
    found = of_users(*[silent] * 9, said("Drama", "Hm"))
    assert found[measures.KEPT].value is None and found[measures.KEPT].withheld
