"""Scores against people's ratings."""

import numpy as np
import pytest

from ecr_ray.critic import people
from ecr_ray.data.ratings import Rated


def turn(dialogue, words, *values):
    return Rated(dialogue, 1, [], "word " * words, {"satisfaction": list(values)} if values else {})


# Means 1, 2, 4, 5; the last two are not rated, or by one person only.
TURNS = [turn("a", 1, 1, 1), turn("a", 4, 1, 3), turn("b", 2, 4, 4), turn("c", 3, 5, 5), turn("c", 9), turn("d", 9, 5)]


def test_spearman_and_auc_against_the_mean_of_the_raters():
    scores = {"ours": np.array([0.1, 0.2, 0.4, 0.3, 0.9, 0.0]), "worse": np.array([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])}
    rows = people.against(TURNS, scores, "ours", resamples=50, seed=0)
    found = {(row["measure"], row["model"]): row for row in rows}
    # Ranks 1 2 4 3 against 1 2 3 4: 1 - 6 * 2 / (4 * 15).
    assert found["Spearman", "ours"]["value"] == pytest.approx(0.8)
    assert found["Spearman", "worse"]["value"] == pytest.approx(-1)
    # Above the middle of the scale, 3, are the third and the fourth.
    assert found["AUC", "ours"]["value"] == 1 and found["AUC", "worse"]["value"] == 0
    assert found["AUC", people.MEAN]["value"] == 0.5 and found["Spearman", people.MEAN]["value"] is None
    # Words 1 4 2 3 against 1 2 3 4.
    assert found["Spearman", people.LENGTH]["value"] == pytest.approx(0.4)
    assert found["Spearman", "ours"]["n"] == 4 and found["Spearman", "ours"]["dialogues"] == 3
    assert found["Spearman", "worse"]["ahead"]["value"] == pytest.approx(1.8)


def test_one_person_against_the_others_is_beside_it():
    agreed = [turn(str(n), 1, n, n, n) for n in (1, 2, 4, 5)]
    rows = people.against(agreed, {"ours": np.arange(4.0)}, "ours", resamples=20, seed=0)
    (ceiling,) = [row for row in rows if row["model"] == people.CEILING and row["measure"] == "Spearman"]
    assert ceiling["value"] == pytest.approx(1)


def test_what_nobody_rated_is_not_in_it():
    rows = people.against(TURNS, {"ours": np.zeros(6)}, "ours", resamples=20, seed=0)
    assert {row["head"] for row in rows} == {"satisfaction"}
