"""Planted cheats are caught, and honest systems are not accused."""

import numpy as np
import pytest

from ecr_ray.evaluation import warnings
from ecr_ray.evaluation.lineage import Overlap
from ecr_ray.evaluation.simulation.measures import KEPT, SUCCESS
from ecr_ray.evaluation.statistics import Comparison, Figure
from tests.evaluation.test_measures import said

# Every reply of words of its own.
HONEST = [" ".join(f"w{n}x{k}" for k in range(12)) for n in range(20)]


def kinds(found):
    return {(warning.kind, warning.about) for warning in found}


def test_a_policy_that_repeats_a_phrase_is_caught():
    hacked = [f"Oh {n}, I am so happy for you my friend!" for n in range(20)]
    found = warnings.of_texts(said(hacked=hacked, honest=HONEST))
    assert kinds(found) == {("repeated phrase", "hacked")}
    assert found[0].text.startswith("100% of hacked's replies say “")


def test_one_reply_for_everybody_is_caught():
    assert ("same reply", "one") in kinds(warnings.of_texts(said(honest=HONEST, one=["Hi there."] * 20)))


def test_replies_that_are_cut_off_are_counted():
    replies = said(ours=HONEST)
    replies.ended["ours"][:10] = [False] * 10
    assert ("cut off", "ours") in kinds(warnings.of_texts(replies))


def test_a_system_on_its_own_training_dialogues_is_caught():
    found = warnings.of_training({"a": Overlap(3, 10), "b": Overlap(0, 10), "c": Overlap(0, 10, "its data is gone")})
    assert kinds(found) == {("own training data", "a"), ("training data unknown", "c")}
    assert found[0].text.startswith("3 of the 10 prompts")


def figure(name, value, low, high):
    return Figure(name, "j", value, low, high, 100, 50)


def judge(name="j", **more):
    return {"name": name, "untrained": False, "learnt_from": None, **more}


def test_a_judge_with_a_taste_for_length_or_place_is_caught():
    length, place = {"j": figure("length", 0.6, 0.5, 0.7)}, {"j": figure("place", -0.2, -0.25, -0.15)}
    found = warnings.of_judges([judge()], set(), length, place)
    assert kinds(found) == {("length bias", "j"), ("position bias", "j")}
    assert "leans to what stands first" in found[1].text
    fair = warnings.of_judges([judge()], set(), {"j": figure("l", 0.2, 0.1, 0.4)}, {"j": figure("p", 0.01, 0.0, 0.02)})
    assert fair == []


def test_a_judge_that_taught_the_critic_or_was_never_taught_is_marked():
    judges = [judge("teacher"), judge("noise", untrained=True), judge("half", learnt_from={"a_b": "not learnt"})]
    found = warnings.of_judges(judges, {"teacher"}, {}, {})
    assert kinds(found) == {("not independent", "teacher"), ("untrained", "noise"), ("not taught", "half")}
    assert "never taught to rate a b" in found[2].text


def gain(measure, low):
    return Comparison(measure, "ppo", "sft", low + 0.1, low, low + 0.2, 0.01, 0.01, 0.5, 100, 50)


def test_a_gain_that_only_the_critic_sees_is_told():
    assert kinds(warnings.of_gains([gain("critic", 0.1), gain("j: overall, 0-9", -0.1)], ["j"])) == {
        ("critic alone", "ppo")
    }
    assert warnings.of_gains([gain("critic", 0.1), gain("j: overall, 0-9", 0.1)], ["j"]) == []
    assert warnings.of_gains([gain("critic", -0.1), gain("j: overall, 0-9", -0.2)], ["j"]) == []
    # Nobody independent was asked: that is another warning's matter.
    assert warnings.of_gains([gain("critic", 0.1)], []) == []
    assert np.isfinite(gain("critic", 0.1).difference)


def test_a_gain_that_goes_with_the_length_is_told():
    def equal(value, low):
        return Figure(
            "j: ahead of sft at equal length, 0-9", "ppo", value, low, None if low is None else low + 1, 50, 50
        )

    better = [gain("j: overall, 0-9", 0.1)]
    (told,) = warnings.of_length([equal(0.05, -0.4)], better, ["j"])
    assert (told.kind, told.about) == ("length alone", "ppo") and "0.05 of it is left" in told.text
    assert warnings.of_length([equal(0.3, 0.2)], better, ["j"]) == []
    # Where there is no gain there is nothing to explain.
    assert warnings.of_length([equal(0.05, -0.4)], [gain("j: overall, 0-9", -0.1)], ["j"]) == []
    assert "nobody can say" in warnings.of_length([equal(None, None)], better, ["j"])[0].text


@pytest.mark.parametrize(("value", "high", "warned"), [(0.3, 0.4, True), (0.4, 0.55, False), (0.9, 0.95, False)])
def test_users_who_do_not_say_what_they_look_for_are_caught(value, high, warned):
    figures = [
        Figure(KEPT, "popular", value, value - 0.1, high, 40, 40),
        Figure(SUCCESS, "popular", 0.1, 0.05, 0.15, 40, 40),
        Figure(KEPT, "ours", None, None, None, 2, 2, "too few"),
    ]
    found = warnings.of_users(figures)
    assert [(warning.kind, warning.about) for warning in found] == [("simulated user", "popular")] * warned
    assert not warned or "30% of the messages" in found[0].text


def test_talks_that_broke_off_are_told():
    (found,) = warnings.of_broken({"served": {"http_503": 2, "error": 1}})
    assert (found.kind, found.about) == ("talks broke off", "served")
    assert found.text.startswith("3 of the talks with served broke off (2 http_503, 1 error)")
    assert warnings.of_broken({}) == []
