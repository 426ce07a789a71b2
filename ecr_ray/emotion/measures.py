"""How good a classifier of several labels is, with intervals, beside what is trivial. Pure functions.

Shapes: N messages, K emotions; `probability_NK` in 0-1, `label_NK` of bool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 10


def f1(predicted_N: np.ndarray, label_N: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN); 0 where nothing is right, NaN where there is no such label and none is predicted."""
    right = int((predicted_N & label_N).sum())
    wrong = int((predicted_N ^ label_N).sum())
    return float("nan") if right + wrong == 0 else 2 * right / (2 * right + wrong)


def macro_f1(predicted_NK: np.ndarray, label_NK: np.ndarray) -> float:
    """The mean of the emotions' F1."""
    return float(np.nanmean([f1(predicted_NK[:, k], label_NK[:, k]) for k in range(label_NK.shape[1])]))


def recall_at(probability_NK: np.ndarray, label_NK: np.ndarray, top: int) -> float:
    """The share of a message's labels that are among its `top` likeliest emotions, a mean over messages with labels.

    Of equally likely emotions the one that stands first counts as likelier.
    """
    order = np.argsort(-probability_NK, axis=1, kind="stable")[:, :top]
    found = np.take_along_axis(label_NK, order, axis=1).sum(1)
    labels = label_NK.sum(1)
    return float((found[labels > 0] / labels[labels > 0]).mean())


def calibration_error(probability_N: np.ndarray, label_N: np.ndarray) -> float:
    """Mean distance between probability and share of labels, over ten bins of equal width (Guo et al., ICML 2017)."""
    bins = np.minimum((probability_N * BINS).astype(int), BINS - 1)
    gaps = (
        abs(probability_N[bins == b].mean() - label_N[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)
    )
    return float(sum(gaps) / len(label_N))


def average_precision(probability_N: np.ndarray, label_N: np.ndarray) -> float:
    """Mean precision over the ranks of the labelled messages; what is drawn at random has the label's share."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(label_N, probability_N)) if label_N.any() else float("nan")


def thresholds(probability_NK: np.ndarray, label_NK: np.ndarray) -> np.ndarray:
    """The probability from which an emotion counts as there, (K,): the one of the highest F1, or ½ where it has no
    label."""
    found = []
    for k in range(label_NK.shape[1]):
        order = np.argsort(-probability_NK[:, k], kind="stable")
        probability, right = probability_NK[order, k], np.cumsum(label_NK[order, k])
        if not right[-1]:
            found.append(0.5)
            continue
        scores = 2 * right / (np.arange(1, len(order) + 1) + right[-1])
        # Equal probabilities fall on the same side.
        last = np.append(probability[1:] < probability[:-1], True)
        found.append(float(probability[np.argmax(np.where(last, scores, -1))]))
    return np.array(found)


@dataclass(frozen=True)
class Predicted:
    """What somebody says of the messages: probabilities, and from where on an emotion counts as there."""

    probability_NK: np.ndarray
    threshold_K: np.ndarray

    def labels(self) -> np.ndarray:
        """(N, K) of bool."""
        return self.probability_NK >= self.threshold_K


def table(
    models: Mapping[str, Predicted],
    label_NK: np.ndarray,
    emotions: Sequence[str],
    *,
    resamples: int,
    seed: int,
    leave_out: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Every measure of every model, of all emotions and of each, with percentile intervals over messages.

    All models are measured on the same resamples; `ahead` is how far the first model is ahead of another (above zero:
    better, also where less is better), None for the first.

    Args:
        leave_out: emotions that nobody labelled: no measure counts them.

    Returns:
        `{emotion (None: all), measure, model, value, low, high, n, positive, ahead}` a row.
    """
    kept = [k for k, emotion in enumerate(emotions) if emotion not in leave_out]
    label_NK = label_NK[:, kept]
    cut = {name: (m.probability_NK[:, kept], m.labels()[:, kept]) for name, m in models.items()}
    rng = np.random.default_rng(seed)
    count = len(label_NK)
    draws = [np.arange(count), *(rng.integers(0, count, count) for _ in range(resamples))]
    found = {name: [_figures(p[rows], y[rows], label_NK[rows]) for rows in draws] for name, (p, y) in cut.items()}
    first = next(iter(models))
    rows = []
    for key in found[first][0]:
        measure, k = key
        sign = -1 if measure in LESS_IS_BETTER else 1
        ours = np.array([draw[key] for draw in found[first]])
        for name in models:
            values = np.array([draw[key] for draw in found[name]])
            rows.append(
                {
                    "emotion": None if k is None else emotions[kept[k]],
                    "measure": measure,
                    "model": name,
                    **_interval(values),
                    "n": count,
                    "positive": int(label_NK.sum() if k is None else label_NK[:, k].sum()),
                    "ahead": None if name == first else _interval(sign * (ours - values)),
                }
            )
    return rows


F1, RECALL, CALIBRATION, PRECISION = "F1", "recall@2", "calibration error", "average precision"
LESS_IS_BETTER = {CALIBRATION}


def _figures(
    probability_NK: np.ndarray, predicted_NK: np.ndarray, label_NK: np.ndarray
) -> dict[tuple[str, int | None], float]:
    each = range(label_NK.shape[1])
    of = {
        F1: [f1(predicted_NK[:, k], label_NK[:, k]) for k in each],
        PRECISION: [average_precision(probability_NK[:, k], label_NK[:, k]) for k in each],
        CALIBRATION: [calibration_error(probability_NK[:, k], label_NK[:, k]) for k in each],
    }
    found: dict[tuple[str, int | None], float] = {(RECALL, None): recall_at(probability_NK, label_NK, 2)}
    for measure, values in of.items():
        found[measure, None] = float(np.nanmean(values))
        found |= {(measure, k): values[k] for k in each}
    return found


def _interval(values: np.ndarray) -> dict[str, float | None]:
    """The first value, and the middle 95 % of the others."""
    draws = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(draws, [2.5, 97.5]) if len(draws) else (None, None)
    return {
        "value": None if np.isnan(values[0]) else float(values[0]),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }
