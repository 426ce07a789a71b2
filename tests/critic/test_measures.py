"""The critic's figures against hand-computed ones, and the baselines that stand beside them."""

import math

import numpy as np
import pytest

from ecr_ray.critic import measures

TARGET = np.array([0.0, 0.5, 1.0, 0.5])


def test_r2_and_mae_by_hand():
    # Squared errors .01 + .01 + .04 + 0 against a total of .5.
    predicted = np.array([0.1, 0.6, 0.8, 0.5])
    assert measures.r2(predicted, TARGET) == pytest.approx(1 - 0.06 / 0.5)
    assert measures.mae(predicted, TARGET) == pytest.approx(0.1)
    assert measures.r2(np.full(4, 0.5), TARGET) == 0
    assert math.isnan(measures.r2(predicted, np.full(4, 0.5)))


def test_calibration_by_hand():
    predicted = np.array([0.2, 0.9, 0.1, 0.8])
    # The two groups: .15 against (1 + 0) / 2, and .85 against (.5 + .5) / 2.
    assert measures.calibration_curve(predicted, TARGET, 2) == [
        (pytest.approx(0.15), 0.5, 2),
        (pytest.approx(0.85), 0.5, 2),
    ]
    assert measures.calibration_error(predicted, TARGET, 2) == pytest.approx(0.35)
    assert measures.calibration_error(TARGET, TARGET, 4) == 0


def test_coverage_by_hand():
    std = np.array([0.1, 0.1, 0.1, 0.0])
    assert measures.coverage(np.array([0.16, 0.67, 1.0, 0.5]), std, TARGET) == 0.75


def test_auc_by_hand():
    scores, positive = np.array([1.0, 2.0, 3.0, 3.0]), np.array([False, True, False, True])
    # Of the four pairs two are in order, one is a tie, one is not.
    assert measures.auc(scores, positive) == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert math.isnan(measures.auc(scores, np.array([True] * 4)))
    assert measures.auc(np.zeros(4), positive) == 0.5


def test_a_baseline_is_beaten_on_the_same_resamples():
    rng = np.random.default_rng(0)
    target = rng.uniform(size=200)
    predictors = {
        "critic": np.clip(target + rng.normal(0, 0.1, 200), 0, 1),
        "noise": rng.uniform(size=200),
        "mean": np.full(200, target.mean()),
    }
    sample = measures.Sample(predictors, target, np.repeat(np.arange(50), 4))
    rows = measures.compare("overall", sample, "critic", measures.MEASURES, resamples=200, seed=0)
    cells = {(row["measure"], row["model"]): row for row in rows}
    assert len(rows) == 15 and all(row["dialogues"] == 50 and row["n"] == 200 for row in rows)
    assert cells["R²", "critic"]["ahead"] is None
    for measure in ("R²", "MAE", "Spearman"):
        for baseline in ("noise", "mean"):
            ahead = cells[measure, baseline]["ahead"]
            assert ahead["low"] > 0, (measure, baseline)
            ours, theirs = (cells[measure, name]["value"] or 0 for name in ("critic", baseline))
            assert ahead["value"] == pytest.approx((theirs - ours) if measure == "MAE" else (ours - theirs), abs=2e-4)
    # A constant has no order.
    assert cells["Spearman", "mean"]["value"] is None


def test_a_bag_of_words_finds_what_words_say_and_length_what_length_says():
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(["film", "plot", "actor", "great" if n % 2 else "awful"], 12)) for n in range(300)]
    target = np.array([0.9 if "great" in text else 0.1 for text in texts])
    bag = measures.BagOfWords().fit(texts[:200], target[:200])
    assert measures.r2(bag.predict(texts[200:]), target[200:]) > 0.8
    words = np.arange(10.0)
    assert measures.Length().fit(words, 0.1 + 0.05 * words).predict(np.array([20.0])) == pytest.approx(1.1)
    assert measures.Length().fit(np.ones(3), np.array([0.0, 0.5, 1.0])).predict(np.ones(2)) == pytest.approx(0.5)
