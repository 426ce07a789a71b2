"""How good a critic is, with intervals over dialogues, beside what is trivial. Pure functions.

Baselines: the training targets' mean for every row, the length of the response, and ridge regression on a bag of
words. A difference to a baseline has an interval of its own: both are computed on the same resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from ecr_ray.scoring.agreement import pearson, spearman, with_interval

Measure = Callable[[np.ndarray, np.ndarray], float]


def r2(predicted_N: np.ndarray, target_N: np.ndarray) -> float:
    """Share of the targets' variance that is explained; 0 for their mean, NaN where they are all the same."""
    total = float(((target_N - target_N.mean()) ** 2).sum())
    return float("nan") if total == 0 else 1 - float(((target_N - predicted_N) ** 2).sum()) / total


def mae(predicted_N: np.ndarray, target_N: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.abs(target_N - predicted_N).mean())


def calibration_error(predicted_N: np.ndarray, target_N: np.ndarray, bins: int = 10) -> float:
    """Mean distance between what is predicted and what comes, over groups of like predictions of equal size."""
    return float(sum(abs(p - t) * n for p, t, n in calibration_curve(predicted_N, target_N, bins)) / len(target_N))


def calibration_curve(predicted_N: np.ndarray, target_N: np.ndarray, bins: int) -> list[tuple[float, float, int]]:
    """(mean prediction, mean target, rows) of groups of like predictions of equal size."""
    order = np.argsort(predicted_N, kind="stable")
    return [
        (float(predicted_N[rows].mean()), float(target_N[rows].mean()), len(rows))
        for rows in np.array_split(order, min(bins, len(order)))
    ]


def coverage(predicted_N: np.ndarray, std_N: np.ndarray, target_N: np.ndarray) -> float:
    """Share of targets within 1.645 standard deviations of the prediction; 0.9 if the doubt is right."""
    return float((np.abs(target_N - predicted_N) <= 1.645 * std_N).mean())


def auc(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Probability that a positive row has the higher score than a negative one, ties counting half (Mann–Whitney)."""
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(scores_N)
    return float((ranks[positive_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _pair(statistic: Callable[[np.ndarray], float]) -> Measure:
    return lambda predicted, target: statistic(np.column_stack([predicted, target]))


MEASURES: dict[str, Measure] = {
    "R²": r2,
    "MAE": mae,
    "Pearson": _pair(pearson),
    "Spearman": _pair(spearman),
    "calibration error": calibration_error,
}
# Where less is better, and so what a baseline is beaten by.
LESS_IS_BETTER = {"MAE", "calibration error"}


@dataclass(frozen=True)
class Sample:
    """Held-out rows of one head: what was predicted by whom, and what is so."""

    predictors: Mapping[str, np.ndarray]
    target_N: np.ndarray
    groups_N: np.ndarray
    """The dialogue of every row."""


def interval(
    value: Callable[[np.ndarray], float], groups_N: np.ndarray, *, resamples: int, seed: int
) -> dict[str, float | int | None]:
    """A figure of the rows with these numbers, with its 95 % interval from resampling dialogues."""
    _, numbers = np.unique(groups_N, return_inverse=True)
    rows = np.arange(len(groups_N))[:, None]
    found = with_interval(lambda picked: value(picked[:, 0]), rows, numbers, resamples=resamples, seed=seed)
    return {**found.as_json(), "n": len(groups_N), "dialogues": int(numbers.max()) + 1}


def compare(
    head: str, sample: Sample, ours: str, measures: Mapping[str, Measure], *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Every measure of every predictor, and for each baseline how far `ours` is ahead of it.

    Returns:
        `{head, measure, model, value, low, high, n, dialogues, ahead: {value, low, high} | None}` a row. `ahead` is
        ours minus theirs (theirs minus ours where less is better): above zero, ours is the better one.
    """
    again = {"resamples": resamples, "seed": seed}
    rows = []
    for name, measure in measures.items():
        for model in sample.predictors:
            found = interval(partial(_value, sample, model, measure), sample.groups_N, **again)
            ahead = None
            if model != ours:
                ahead = interval(partial(_ahead, sample, ours, model, name, measure), sample.groups_N, **again)
            rows.append({"head": head, "measure": name, "model": model, **found, "ahead": ahead})
    return rows


def _value(sample: Sample, model: str, measure: Measure, picked: np.ndarray) -> float:
    return measure(sample.predictors[model][picked], sample.target_N[picked])


def _ahead(sample: Sample, ours: str, theirs: str, name: str, measure: Measure, picked: np.ndarray) -> float:
    difference = _number(_value(sample, ours, measure, picked)) - _number(_value(sample, theirs, measure, picked), name)
    return -difference if name in LESS_IS_BETTER else difference


def _number(value: float, measure: str = "") -> float:
    """A constant has no correlation, which is as good as one of 0."""
    return 0.0 if np.isnan(value) and measure in ("Pearson", "Spearman") else value


# --- baselines --------------------------------------------------------------------------------------------


class BagOfWords:
    """Ridge regression on a hashed, length-normalised bag of the words of response and last message."""

    def __init__(self, alpha: float = 1.0) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import Ridge

        self._words = HashingVectorizer(n_features=2**16, ngram_range=(1, 2), alternate_sign=False)
        self._ridge = Ridge(alpha=alpha, solver="lsqr", random_state=0)

    def fit(self, texts: Sequence[str], target_N: np.ndarray) -> "BagOfWords":
        """Learn from the training rows."""
        self._ridge.fit(self._words.transform(texts), target_N)
        return self

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) in 0–1."""
        return np.clip(self._ridge.predict(self._words.transform(texts)), 0, 1)


class Length:
    """The least-squares line through the number of the response's words."""

    def fit(self, words_N: np.ndarray, target_N: np.ndarray) -> "Length":
        """Learn from the training rows."""
        self._slope, self._start = np.polyfit(words_N, target_N, 1) if np.ptp(words_N) else (0.0, target_N.mean())
        return self

    def predict(self, words_N: np.ndarray) -> np.ndarray:
        """(N,)."""
        return self._start + self._slope * words_N
