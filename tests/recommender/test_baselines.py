"""The baselines, by hand."""

import numpy as np
import pytest

from ecr_ray.data.knowledge import Fact, Film
from ecr_ray.recommender import baselines, catalogue
from ecr_ray.recommender.examples import Mention, Turn

FILMS = [
    Film("1", "Heat", 1995, (Fact("", "genre", "crime"), Fact("", "director", "Michael Mann"))),
    Film("2", "Alien", 1979, (Fact("", "genre", "horror"),)),
    Film("3", "Jaws", 1975, (Fact("", "genre", "horror"),)),
]
CATALOGUE = catalogue.of_films(FILMS)


def turn(dialogue, targets, *mentions, text=""):
    named = tuple(Mention(item, 0, 0) for item in mentions)
    return Turn(dialogue, 1, (text,), (0,), named, tuple(targets), (None,) * len(targets))


TRAIN = [
    turn("a", [1], 0, text="something about a robbery, horror please"),
    turn("b", [1], 2, text="horror in space, horror"),
    turn("c", [1, 2], text="horror at sea"),
    turn("d", [0], text="a robbery"),
]


def test_popularity_and_neighbours():
    asked = [turn("x", [1], 2), turn("x", [1])]
    assert baselines.Popularity(TRAIN, 3).scores(asked).tolist() == [[2, 3, 2]] * 2
    near = baselines.LastMention(TRAIN, 3).scores(asked)
    # Jaws stands twice with Alien and never with Heat; without a mention popularity decides.
    assert near[0].round(3).tolist() == [0, 2, 0] and near[1].argmax() == 1


def test_ease_is_the_least_squares_fit_without_a_diagonal():
    rng = np.random.default_rng(0)
    x = (rng.random((40, 5)) < 0.4).astype(np.float32)
    weights = baselines.ease(x, 3.0)
    assert np.diag(weights).tolist() == [0] * 5
    # Of each column: ridge regression on the others, by the normal equations.
    for column in range(5):
        others = [n for n in range(5) if n != column]
        expected = np.linalg.solve(x[:, others].T @ x[:, others] + 3 * np.eye(4), x[:, others].T @ x[:, column])
        assert weights[others, column] == pytest.approx(expected, abs=1e-4)


def test_a_bonus_is_for_what_was_mentioned():
    asked = [turn("x", [1], 2)]
    plain, with_bonus = (baselines.Ease(TRAIN, 3, ridge=1.0, bonus=b).scores(asked) for b in (0.0, 5.0))
    assert (with_bonus - plain).round(5).tolist() == [[0, 0, 5]]


def test_text_finds_what_was_asked_for_in_such_words():
    found = baselines.TextSimilarity(TRAIN, CATALOGUE).scores(
        [turn("x", [], text="a robbery"), turn("x", [], text="horror")]
    )
    assert found[0].argmax() == 0 and found[1].argmax() != 0


def test_every_baseline_scores_every_item():
    for name, make in baselines.all_of(TRAIN, CATALOGUE, 0.05).items():
        found = make().scores([turn("x", [1], 2, text="horror"), turn("y", [0])])
        assert found.shape == (2, 3) and np.isfinite(found).all(), name
