import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ecr_ray.evaluation import statistics
from ecr_ray.evaluation.statistics import Comparison, Figure

HOW = {"seed": 3, "resamples": 200}


def dialogues(count, each=1):
    return np.repeat([f"d{n}" for n in range(count)], each)


# --- figures ----------------------------------------------------------------------------------------------


def test_a_mean_by_hand():
    values = np.array([1.0, 2.0, 3.0, np.nan, 4.0, 5.0])
    found = statistics.figure("words", "ppo", values, dialogues(6), **HOW)
    assert (found.measure, found.system, found.value, found.n, found.dialogues) == ("words", "ppo", 3.0, 5, 5)
    assert found.low < 3 < found.high and not found.withheld
    assert found == statistics.figure("words", "ppo", values, dialogues(6), **HOW)
    assert found != statistics.figure("words", "ppo", values, dialogues(6), seed=4, resamples=200)


def test_json_has_four_decimals_and_null():
    found = Figure("m", "s", 1 / 3, None, 2 / 3, 7, 5).as_json()
    assert found == {
        "measure": "m", "system": "s", "value": 0.3333, "low": None, "high": 0.6667, "n": 7, "dialogues": 5,
        "withheld": "",
    }  # fmt: skip
    row = Comparison("m", "s", "t", 1 / 3, None, None, 0.00012, None, None, 7, 5).as_json()
    assert (row["difference"], row["p"], row["p_adjusted"], row["left_out"]) == (0.3333, 0.0001, None, 0)


def test_the_interval_of_a_mean_is_over_dialogues():
    # Ten equal rows a dialogue tell no more than one.
    means = np.random.default_rng(0).normal(size=100)
    found = statistics.figure("m", "s", np.repeat(means, 10), dialogues(100, 10), seed=1, resamples=1000)
    assert (found.n, found.dialogues) == (1000, 100)
    assert found.high - found.low == pytest.approx(2 * 1.96 * means.std() / 10, rel=0.15)


def test_a_statistic_of_rows_has_the_interval_of_the_mean_that_it_is():
    values, groups = np.random.default_rng(0).normal(size=300), dialogues(100, 3)
    mean = statistics.figure("m", "s", values, groups, seed=1, resamples=2000)
    same = statistics.figure("m", "s", lambda picked: values[picked].mean(), groups, seed=1, resamples=2000)
    assert same.value == pytest.approx(mean.value)
    assert (same.low, same.high) == (pytest.approx(mean.low, abs=0.02), pytest.approx(mean.high, abs=0.02))
    assert (same.n, same.dialogues) == (300, 100)


def test_too_few_dialogues_are_withheld():
    found = statistics.figure("m", "s", np.ones(40), dialogues(4, 10), **HOW)
    assert (found.value, found.low, found.high, found.n, found.dialogues) == (None, None, None, 40, 4)
    assert found.withheld == "too few dialogues with a value: 4 of the 5 that it takes"
    assert statistics.figure("m", "s", np.ones(40), dialogues(4, 10), **HOW, least=4).value == 1
    # A dialogue whose rows have no value is none.
    values = np.array([1.0, 1, 1, 1, np.nan])
    assert statistics.figure("m", "s", values, dialogues(5), **HOW).dialogues == 4
    assert "0 of the 5" in statistics.figure("m", "s", np.ones(0), dialogues(0), **HOW).withheld


def test_a_judge_that_fails_on_more_than_half_is_withheld():
    values = np.ones(20)
    values[:10] = np.nan
    assert statistics.figure("m", "s", values, dialogues(20), **HOW).value == 1
    values[10] = np.nan
    found = statistics.figure("m", "s", values, dialogues(20), **HOW)
    assert (found.value, found.n, found.withheld) == (None, 9, "11 of 20 have no value")


def test_what_is_no_number_is_withheld():
    for nothing in (np.nan, np.inf):
        found = statistics.figure("m", "s", lambda picked, value=nothing: value, dialogues(6), **HOW)
        assert (found.value, found.withheld) == (None, "these rows do not determine it")


def test_without_resamples_there_is_no_interval():
    for values in (np.ones(6), lambda picked: 1.0):
        found = statistics.figure("m", "s", values, dialogues(6), seed=0, resamples=0)
        assert (found.value, found.low, found.high) == (1.0, None, None)


@settings(max_examples=50, deadline=None)
@given(arrays(float, st.integers(5, 40), elements=st.floats(0, 1)), st.integers(0, 5))
def test_the_interval_holds_the_mean(values, seed):
    found = statistics.figure("m", "s", values, np.arange(len(values)), seed=seed, resamples=200)
    assert found.low - 1e-12 <= found.value <= found.high + 1e-12
    assert values.min() - 1e-12 <= found.low <= found.high <= values.max() + 1e-12


# --- comparisons ------------------------------------------------------------------------------------------


def test_a_comparison_by_hand():
    # Differences 1, 2, 3, 2, 2: mean 2, standard deviation √(2/4); of 32 signs only all + and all − are as far off.
    ours, theirs = np.array([2.0, 4, 6, 3, 5, 9]), np.array([1.0, 2, 3, 1, 3, np.nan])
    found = statistics.compare("score", "ppo", ours, "sft", theirs, dialogues(6), **HOW)
    assert (found.system, found.against, found.difference, found.p) == ("ppo", "sft", 2.0, 2 / 32)
    assert found.effect == pytest.approx(2 / np.sqrt(0.5))
    assert (found.n, found.dialogues, found.left_out, found.p_adjusted) == (5, 5, 1, None)
    assert 1 <= found.low < 2 < found.high <= 3
    back = statistics.compare("score", "sft", theirs, "ppo", ours, dialogues(6), **HOW)
    assert (back.difference, back.p, back.low) == (-2.0, found.p, pytest.approx(-found.high))


def test_comparisons_are_withheld_as_figures_are():
    ours, theirs = np.ones(12), np.zeros(12)
    few = statistics.compare("m", "a", ours, "b", theirs, dialogues(4, 3), **HOW)
    assert (few.difference, few.p, few.effect) == (None, None, None)
    assert few.withheld == "too few dialogues with a value: 4 of the 5 that it takes"
    # Each has a value of half of the rows, and both of none.
    ours[:6] = theirs[6:] = np.nan
    none = statistics.compare("m", "a", ours, "b", theirs, dialogues(12), **HOW)
    assert (none.withheld, none.n, none.left_out) == ("12 of 12 have no value", 0, 12)


def test_equal_systems_and_equal_differences():
    values = np.random.default_rng(0).normal(size=30)
    same = statistics.compare("m", "a", values, "b", values, dialogues(30), **HOW)
    assert (same.difference, same.p, same.effect) == (0.0, 1.0, None)
    # Everywhere 0.1, but for rounding.
    shifted = statistics.compare("m", "a", values + 0.1, "b", values, dialogues(30), **HOW)
    assert (shifted.effect, shifted.p) == (None, 1 / 10_000)


def test_sign_flips_by_hand():
    # ±1 ±2 ±3: 6, 4, 2, 0 twice and once each; 0 is reached by 1 + 2 − 3 and by −1 − 2 + 3.
    assert statistics.sign_flip(np.array([1.0, 2, 3]), seed=0) == 2 / 8
    assert statistics.sign_flip(np.array([1.0, -2, 3]), seed=0) == 6 / 8
    assert statistics.sign_flip(np.array([1.0, 2, -3]), seed=0) == 1


def test_sums_that_are_equal_but_for_rounding_are_as_far_off():
    whole = np.array([1.0, 2, 3, -1, 1, 1])
    assert statistics.sign_flip(whole, seed=0) == statistics.sign_flip(whole / 10, seed=0) == 10 / 64


def test_random_sign_flips_agree_with_the_t_test_of_many_dialogues():
    sums = np.random.default_rng(1).normal(0.15, 1, size=200)
    p = statistics.sign_flip(sums, seed=0)
    assert p == pytest.approx(stats.ttest_1samp(sums, 0).pvalue, abs=0.015)
    assert p == statistics.sign_flip(sums, seed=0) == statistics.sign_flip(-sums, seed=0)
    assert statistics.sign_flip(np.ones(200), seed=0) == 1 / 10_000


def test_exact_and_random_sign_flips_meet(monkeypatch):
    sums = np.random.default_rng(2).normal(0.4, 1, size=13)
    exact = statistics.sign_flip(sums, seed=0)
    monkeypatch.setattr(statistics, "EXACT_DIALOGUES", 0)
    assert statistics.sign_flip(sums, seed=0) == pytest.approx(exact, abs=0.02)


def test_whole_dialogues_are_flipped():
    # Fifty turns of six dialogues that all go one way are six tosses, and not three hundred.
    found = statistics.compare("m", "a", np.ones(300), "b", np.zeros(300), dialogues(6, 50), **HOW)
    assert found.p == 2 / 64


def test_no_difference_gives_a_small_p_as_often_as_it_says():
    rng = np.random.default_rng(0)
    p = [statistics.sign_flip(rng.normal(size=10), seed=0) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.045)


def test_holm_by_hand():
    # 0.01 · 4, 0.02 · 3, 0.03 · 2 (but not below the one before), 0.04 · 1 (the same).
    assert statistics.holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert len(statistics.holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_only_raises(p):
    found = statistics.holm(p)
    assert np.all(found >= p) and np.all(found <= 1) and np.all(found <= np.minimum(1, len(p) * np.array(p) + 1e-12))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(found[order]) >= 0)


def test_withheld_comparisons_are_not_of_the_family():
    def compared(p, withheld=""):
        return Comparison("m", "a", "b", None, None, None, p, None, None, 9, 9, withheld)

    found = statistics.adjusted([compared(0.01), compared(None, "too few"), compared(0.04)])
    assert [row.p_adjusted for row in found] == [0.02, None, 0.04]
    assert [row.p for row in found] == [0.01, None, 0.04]


# --- strengths --------------------------------------------------------------------------------------------


def test_two_systems_by_hand():
    # With the pseudo-wins 30.1 to 10.1.
    found = statistics.bradley_terry(np.array([[0, 30.0], [10, 0]]))
    assert found == pytest.approx(np.array([0.5, -0.5]) * np.log(30.1 / 10.1))


def test_strengths_are_found_again():
    true = np.array([1.0, 0.3, -0.5, -0.8])
    odds = np.exp(true[:, None] - true)
    wins = 10_000 * odds / (1 + odds) * (1 - np.eye(4))
    assert statistics.bradley_terry(wins) == pytest.approx(true, abs=1e-4)


def test_a_step_of_hunters_algorithm_stays_where_it_is():
    wins = np.random.default_rng(0).uniform(0, 20, (5, 5)) * (1 - np.eye(5))
    strength = np.exp(statistics.bradley_terry(wins))
    met = wins + statistics.PSEUDO_WINS * (1 - np.eye(5))
    step = met.sum(1) / ((met + met.T) / (strength[:, None] + strength)).sum(1)
    assert step / strength == pytest.approx(np.full(5, (step / strength)[0]))


def test_who_never_wins_stays_finite():
    found = statistics.bradley_terry(np.array([[0, 1000.0, 1000], [0, 0, 1000], [0, 0, 0]]))
    assert np.all(np.isfinite(found)) and found[0] > found[1] + 5 > found[2] + 10
    assert found.sum() == pytest.approx(0, abs=1e-9)


def test_systems_that_nothing_joins_have_no_scale():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[2, 3] = 5
    with pytest.raises(ValueError, match="no common scale"):
        statistics.bradley_terry(wins)
    wins[1, 2] = 1
    assert np.all(np.diff(statistics.bradley_terry(wins)) < 0)


@settings(deadline=None)
@given(st.integers(2, 7), st.integers(1, 50), st.randoms(use_true_random=False))
def test_a_transitive_tournament_in_any_order_of_systems(count, games, random):
    wins = np.triu(np.full((count, count), float(games)), 1)
    found = statistics.bradley_terry(wins)
    assert np.all(np.diff(found) < 0)
    order = random.sample(range(count), count)
    assert statistics.bradley_terry(wins[np.ix_(order, order)]) == pytest.approx(found[order], abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(arrays(float, (4, 4), elements=st.floats(0.01, 30)), st.permutations(range(4)))
def test_strengths_do_not_depend_on_the_order_of_systems(wins, order):
    wins = wins * (1 - np.eye(4))
    found = statistics.bradley_terry(wins)
    assert statistics.bradley_terry(wins[np.ix_(order, order)]) == pytest.approx(found[list(order)], abs=1e-6)


def test_elo_by_hand():
    # Ten to one is 400 points; of so many comparisons the pseudo-wins are not seen.
    pairs = [("a", "b", 1 / 11, f"d{n}") for n in range(20_000)]
    a, b = statistics.strengths("Elo", pairs, ["a", "b"], seed=0, resamples=20)
    assert a.value == pytest.approx(1200, abs=0.1) and b.value == pytest.approx(800, abs=0.1)
    assert (a.measure, a.system, a.n, a.dialogues) == ("Elo", "a", 20_000, 20_000)


def test_strengths_with_intervals_over_dialogues():
    rng = np.random.default_rng(0)
    pairs = []
    for n in range(60):
        for first, second, share in (("good", "fair", 0.3), ("fair", "bad", 0.25), ("bad", "good", 0.85)):
            pairs.append((first, second, float(np.clip(share + rng.normal(0, 0.1), 0, 1)), f"d{n}"))
    found = {f.system: f for f in statistics.strengths("Elo", pairs, ["bad", "good", "fair", "absent"], **HOW)}
    assert list(found) == ["bad", "good", "fair", "absent"]
    assert found["good"].low > found["fair"].high and found["fair"].low > found["bad"].high
    assert sum(found[name].value for name in ("good", "fair", "bad")) == pytest.approx(3000)
    assert all(found[name].low < found[name].value < found[name].high for name in ("good", "fair", "bad"))
    assert (found["good"].n, found["good"].dialogues) == (120, 60)
    assert (found["absent"].value, found["absent"].withheld) == (None, "it was compared with none")
    # The turns of a dialogue that say the same say it once.
    often = {f.system: f for f in statistics.strengths("Elo", pairs * 5, ["bad", "good", "fair"], **HOW)}
    wide, wider = (found_["good"].high - found_["good"].low for found_ in (often, found))
    assert wide == pytest.approx(wider, rel=0.1)


def test_strengths_are_withheld_where_there_is_no_common_scale():
    apart = [("a", "b", 0.4, f"d{n}") for n in range(9)] + [("c", "d", 0.4, f"d{n}") for n in range(9)]
    found = statistics.strengths("Elo", apart, "abcd", **HOW)
    assert {f.withheld for f in found} == {"no chain of comparisons joins all systems"}
    few = statistics.strengths("Elo", [("a", "b", 0.4, f"d{n % 3}") for n in range(9)], "ab", **HOW)
    assert [f.withheld for f in few] == ["too few dialogues with a value: 3 of the 5 that it takes"] * 2
    none = statistics.strengths("Elo", [], "ab", **HOW)
    assert [(f.value, f.n, f.withheld) for f in none] == [(None, 0, "it was compared with none")] * 2
    plain = statistics.strengths("Elo", apart[:9], "ab", seed=0, resamples=0)
    assert [(f.low, f.high) for f in plain] == [(None, None)] * 2 and plain[0].value > 1000 > plain[1].value


def test_a_resample_may_lack_the_only_comparison_of_a_system():
    pairs = [("a", "b", 0.4, f"d{n}") for n in range(9)] + [("b", "c", 0.4, f"e{n}") for n in range(2)]
    found = statistics.strengths("Elo", pairs, "abc", seed=0, resamples=300, least=2)
    assert all(np.isfinite([f.low, f.value, f.high]).all() for f in found)


# --- length -----------------------------------------------------------------------------------------------


def test_length_bias_is_within_the_prompt():
    # Hard prompts have long replies and low scores; to each prompt the longer reply has the higher score.
    hardness = np.repeat(np.arange(10.0), 3)
    extra = np.tile([0.0, 1, 2], 10)
    words, scores = 10 * hardness + extra, -hardness + 0.1 * extra
    prompts, groups = np.repeat(np.arange(10), 3), dialogues(10, 3)
    assert stats.spearmanr(words, scores).statistic < -0.9
    found = statistics.length_bias("judge", scores, words, prompts, groups, **HOW)
    assert (found.system, found.value, found.n, found.dialogues) == ("judge", pytest.approx(1.0), 30, 10)
    turned = statistics.length_bias("judge", -scores, words, prompts, groups, **HOW)
    assert turned.value == pytest.approx(-1.0)


def test_length_bias_leaves_out_what_cannot_be_compared():
    words, prompts, groups = np.arange(20.0), np.repeat(np.arange(10), 2), dialogues(10, 2)
    scores = np.tile([0.1, 0.4], 10)
    # A reply that there is not, and a judgment that failed: the other reply to its prompt stands alone.
    scores[0], words[2] = np.nan, np.nan
    found = statistics.length_bias("judge", scores, words, prompts, groups, **HOW)
    assert (found.n, found.dialogues, found.value) == (16, 8, pytest.approx(1.0))
    scores[:12] = np.nan
    withheld = statistics.length_bias("judge", scores, words, prompts, groups, **HOW)
    assert (withheld.value, withheld.withheld) == (None, "11 of 19 have no value")
    scores[6:] = 0.5
    constant = statistics.length_bias("judge", scores, words, prompts, groups, **HOW)
    assert (constant.value, constant.withheld) == (None, "these rows do not determine it")
    alone = statistics.length_bias("judge", np.ones(9), np.ones(9), np.arange(9), dialogues(9), **HOW)
    assert (alone.n, alone.withheld) == (0, "too few dialogues with a value: 0 of the 5 that it takes")


def test_a_gain_that_is_all_length_vanishes_at_equal_length():
    rng = np.random.default_rng(0)
    words, groups = rng.integers(-5, 12, 300).astype(float), np.arange(300)
    noise = rng.normal(0, 0.1, 300)
    for gain in (0.0, 0.5):
        found = statistics.at_equal_length("m", "s", gain + 0.2 * words + noise, words, groups, seed=0)
        assert found.value == pytest.approx(gain, abs=0.03) and found.low < gain < found.high
    # By hand: the line through (0, 1) and (2, 2) meets no difference in words at 1.
    line = statistics.at_equal_length(
        "m", "s", np.array([1.0, 2.0] * 8), np.array([0.0, 2.0] * 8), np.arange(16), seed=0, resamples=50
    )
    assert line.value == pytest.approx(1.0)


def test_at_equal_length_where_lengths_never_differ_it_is_the_mean_and_gaps_are_left_out():
    ahead = np.array([1.0, 3.0] * 10 + [np.nan])
    found = statistics.at_equal_length("m", "s", ahead, np.full(21, 2.0), np.arange(21), seed=0, resamples=50)
    assert found.value == pytest.approx(2.0) and found.n == 20
    failed = np.full(21, np.nan)
    assert "21 of 21" in statistics.at_equal_length("m", "s", failed, np.ones(21), np.arange(21), seed=0).withheld
