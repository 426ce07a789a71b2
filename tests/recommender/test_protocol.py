"""The measures of a ranking, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.recommender import protocol
from ecr_ray.recommender.protocol import Examples

SCORES = np.array([0.5, 0.9, 0.5, 0.1])


def test_a_rank_by_hand():
    assert protocol.rank(SCORES, 1) == 1 and protocol.rank(SCORES, 3) == 4
    # Two share the places 2 and 3.
    assert protocol.rank(SCORES, 0) == protocol.rank(SCORES, 2) == 2.5
    assert protocol.rank(SCORES, 0, [1]) == 1.5 and protocol.rank(SCORES, 0, [1, 2, 2]) == 1
    with pytest.raises(ValueError, match="it is masked"):
        protocol.rank(SCORES, 1, [1])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_ranks_of_all_items_add_up(scores, data):
    scores = np.array(scores, dtype=float)
    masked = data.draw(st.lists(st.integers(0, len(scores) - 1)))
    shown = [i for i in range(len(scores)) if i not in masked]
    total = sum(protocol.rank(scores, i, masked) for i in shown)
    assert total == len(shown) * (len(shown) + 1) / 2


def test_what_a_rank_is_worth_by_hand():
    ranks = np.array([1.0, 3.0, 11.0])
    assert protocol.recall(ranks, 10).tolist() == [1, 1, 0]
    assert protocol.reciprocal(ranks, 10).tolist() == [1, 1 / 3, 0]
    assert protocol.gain(ranks, 50) == pytest.approx([1, 0.5, 1 / np.log2(12)])


def test_auc_by_hand():
    # Liked .8 and .4 against disliked .4 and .1: three pairs are right, one is a tie.
    assert protocol.pairwise_auc(np.array([0.8, 0.4]), np.array([0.4, 0.1])) == 3.5 / 4
    assert np.isnan(protocol.pairwise_auc(np.array([0.8]), np.array([])))
    # The published one: batches of two; in the second is no pair, the third is wrong.
    p, liked = np.array([0.9, 0.1, 0.5, 0.5, 0.2, 0.3]), np.array([1, 0, 1, -1, 1, 0])
    assert protocol.published_auc(p, liked, batch=2) == 0.5
    # By dialogue: the films of one are not compared with those of another.
    examples = Examples(np.zeros(6, int), liked, np.array([7, 8, 7, 8, 7, 7]))
    values, dialogues = protocol.user_auc(p, examples)
    assert dialogues.tolist() == [7] and values.tolist() == [2 / 3]


def test_an_interval_is_over_dialogues():
    # One dialogue with many rows, another with one: the mean is between 0 and 1, and so is nearly every resample.
    values, groups = np.array([1.0] * 9 + [0.0]), np.array([3] * 9 + [5])
    found = protocol.mean_interval(values, groups, resamples=200, seed=0)
    assert (found["value"], found["low"], found["high"], found["n"], found["dialogues"]) == (0.9, 0.0, 1.0, 10, 2)
    assert protocol.mean_interval(values[:0], groups[:0], resamples=10, seed=0)["value"] is None
    once = protocol.mean_interval(values, np.arange(10), resamples=500, seed=1)
    assert once["low"] == pytest.approx(0.7, abs=0.11) and once["high"] == 1


def test_a_whole_table_by_hand():
    # Two turns over four items; at the second item 1 was mentioned before.
    scores = np.log(np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1]]))
    examples = Examples(np.array([0, 2, 1]), np.array([1, 0, -1]), np.array([0, 1, 1]))
    ranked = protocol.place(scores, examples, np.array([0, 1, 1]), [[], [1]])
    assert ranked.rank_N.tolist() == [1, 2, 1]
    assert ranked.masked_rank_N[:2].tolist() == [1, 1] and np.isnan(ranked.masked_rank_N[2])
    assert ranked.probability_N == pytest.approx([0.4, 0.2, 0.6])
    assert ranked.top_NK[0].tolist() == [0, 1, 2, 3] and ranked.top_NK[1, 0] == 2
    rows = protocol.by_name(protocol.figures(ranked, examples, np.array([5, 9, 1, 1]), resamples=20, seed=0))
    assert rows["published", "R@1"]["value"] == pytest.approx(2 / 3) and rows["published", "R@1"]["n"] == 3
    assert rows["masked", "R@1"]["value"] == 1 and rows["masked", "R@1"]["n"] == 2
    assert rows["published", "RT@1"]["value"] == 1 and rows["published", "RT@1"]["n"] == 1
    assert rows["published", "AUC, batches of 32"]["value"] == 1
    assert rows["both", "AUC per dialogue"]["value"] is None
    # Places by popularity: 5 third of four, 9 the first, twice 1 below.
    assert protocol.popularity_places(np.array([5, 9, 1, 1])).tolist() == [0.625, 0.875, 0.25, 0.25]
    assert rows["both", "popularity of what was asked for"]["value"] == pytest.approx((0.625 + 0.25 + 0.875) / 3)
    (coverage,) = [row["value"] for (_, name), row in rows.items() if name.startswith("coverage")]
    assert coverage == 1
