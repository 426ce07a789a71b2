"""Rewards by hand."""

import numpy as np
import pytest

from ecr_ray.data.titles import Titles
from ecr_ray.encoders.predict import Predictions
from ecr_ray.policy.ppo import rewards

FOUND = Predictions(("empathy", "overall"), np.array([[0.2, 0.6], [0.4, 0.8]]), np.array([[0.1, 0.2], [0.0, 0.1]]))


def test_aspects_are_weighted_and_doubt_is_taken_off():
    assert rewards.opinion(FOUND, {"overall": 1.0}, 0.0).tolist() == [0.6, 0.8]
    mixed = rewards.opinion(FOUND, {"overall": 3.0, "empathy": 1.0}, 0.5)
    assert mixed.tolist() == pytest.approx([0.25 * 0.15 + 0.75 * 0.5, 0.25 * 0.4 + 0.75 * 0.75])


@pytest.mark.parametrize("weights", [{"warmth": 1.0}, {}, {"overall": 0.0}])
def test_a_head_that_is_not_there_is_named(weights):
    with pytest.raises(rewards.RewardError, match="the critic has the heads empathy, overall"):
        rewards.opinion(FOUND, weights, 0.0)


def test_the_scale_is_that_of_the_samples_it_was_fixed_on():
    scale = rewards.Scale.of(np.array([1.0, 3.0]))
    assert (scale.mean, scale.std) == (2.0, 1.0) and scale.apply(np.array([5.0])).tolist() == [3.0]
    assert rewards.Scale.of(np.array([2.0, 2.0])).apply(np.array([2.5])).tolist() == [0.5]


def test_faults():
    texts = ["See Heat (1995) or Heet (1995) or Hit (1996)", "so good so good so good so good", "Yes"]
    found = rewards.faults(texts, [True, False, True], Titles(["Heat (1995)"]))
    assert found[rewards.NO_END].tolist() == [0, 1, 0]
    assert found[rewards.UNKNOWN_TITLE].tolist() == [2, 0, 0]
    # Six trigrams, two different ones.
    assert found[rewards.REPETITION].tolist() == pytest.approx([0, 4 / 6, 0])
    assert rewards.faults(texts, [True] * 3, None)[rewards.UNKNOWN_TITLE].tolist() == [0, 0, 0]
    assert rewards.MISSING_FILM not in found
    told = rewards.faults(["See heat!", "Hm.", "Hm."], [True] * 3, None, ["Heat (1995)", "Heat (1995)", ""])
    assert told[rewards.MISSING_FILM].tolist() == [0, 1, 0]


def test_what_it_comes_to():
    faults = {rewards.NO_END: np.array([0.0, 1.0]), rewards.UNKNOWN_TITLE: np.array([2.0, 0.0])}
    found = rewards.total(np.array([1.0, 1.0]), faults, {rewards.NO_END: 3.0, rewards.UNKNOWN_TITLE: 0.5})
    assert found.tolist() == [0.0, -2.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reward_that_is_no_number_is_never_learnt(value):
    with pytest.raises(rewards.RewardError, match="1 of 3 rewards are no number, the first of response 2"):
        rewards.total(np.array([0.0, value, 1.0]), {}, {})


def test_a_users_own_reward():
    assert rewards.load("builtins:len") is len
    for name in ("builtins:nothing", "no.such.module:f", "builtins"):
        with pytest.raises(rewards.RewardError, match="write it as module:function"):
            rewards.load(name)
