"""How far judges agree, aspect by aspect, with intervals that know that a dialogue's turns are not independent.

Pure functions on arrays. Intervals are percentile bootstraps over dialogues: whole dialogues are drawn with
replacement (Field and Welsh 2007, "Bootstrapping clustered data").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
from scipy import stats

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval; NaN where the data cannot tell (a constant judge, say)."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """NaN as null."""
        return {name: None if np.isnan(v) else round(float(v), 4) for name, v in vars(self).items()}


def pearson(ratings: np.ndarray) -> float:
    """Pearson's r of two judges. ratings: (n, 2)."""
    a, b = ratings[:, 0], ratings[:, 1]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman(ratings: np.ndarray) -> float:
    """Spearman's ρ of two judges, ties at mid-rank. ratings: (n, 2)."""
    return pearson(np.column_stack([stats.rankdata(ratings[:, 0]), stats.rankdata(ratings[:, 1])]))


def mean_bias(ratings: np.ndarray) -> float:
    """Mean of first minus second judge. ratings: (n, 2)."""
    return float(np.mean(ratings[:, 0] - ratings[:, 1]))


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's α for interval data: 1 − D_observed / D_expected, with squared differences.

    Args:
        ratings: (n, judges), NaN where a judge did not speak; units with one rating do not count.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability". For squared differences both sums
    over pairs of values are variances, so no coincidence matrix is built.
    """
    spoke = np.sum(~np.isnan(ratings), axis=1)
    units = ratings[spoke >= 2]
    if not len(units):
        return float("nan")
    values = units[~np.isnan(units)]
    expected = np.var(values, ddof=1)
    if expected == 0:
        return float("nan")
    within = np.nansum((units - np.nanmean(units, axis=1, keepdims=True)) ** 2, axis=1)
    m = spoke[spoke >= 2]
    # The squared differences of all pairs of m values sum to m times their squared deviations from the mean.
    observed = np.sum(within * m / (m - 1)) / np.sum(m)
    return float(1 - observed / expected)


def with_interval(
    statistic: Statistic, ratings: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int
) -> Estimate:
    """A statistic and its percentile bootstrap interval over groups.

    Args:
        ratings: (n, judges).
        groups: (n,) group (dialogue) number of each row, 0…G−1.
        resamples: draws of G groups with replacement.
    """
    value = statistic(ratings)
    if not len(ratings) or resamples == 0:
        return Estimate(value, float("nan"), float("nan"))
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 2))
    members = [order[a:b] for a, b in pairwise(starts) if b > a]
    rng = np.random.default_rng(seed)
    draws = np.array(
        [
            statistic(ratings[np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])])
            for _ in range(resamples)
        ]
    )
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


PAIRWISE: dict[str, Statistic] = {"pearson": pearson, "spearman": spearman, "mean_bias": mean_bias}


def agreement(
    tables: dict[str, pa.Table], aspects: Sequence[str], *, resamples: int, seed: int
) -> list[dict[str, object]]:
    """All agreement statistics of the judges in `tables` (score tables in one common turn order is not needed).

    Returns:
        One entry per aspect and set of judges: `{aspect, judges, n, <statistic>: {value, low, high}}`. Pairs have
        Pearson, Spearman and mean bias (first minus second); the whole panel has Krippendorff's α.
    """
    ratings, groups = _align(tables, [*aspects, "overall"])
    names = list(tables)
    rows: list[dict[str, object]] = []
    for aspect, values in ratings.items():
        both = np.sum(~np.isnan(values), axis=1) >= 2
        alpha = with_interval(krippendorff_alpha, values[both], groups[both], resamples=resamples, seed=seed)
        rows.append({"aspect": aspect, "judges": names, "n": int(both.sum()), "krippendorff_alpha": alpha.as_json()})
        if len(names) == 1:
            continue
        for i, j in combinations(range(len(names)), 2):
            pair = values[:, [i, j]]
            spoke = ~np.isnan(pair).any(axis=1)
            found = {
                name: with_interval(statistic, pair[spoke], groups[spoke], resamples=resamples, seed=seed).as_json()
                for name, statistic in PAIRWISE.items()
            }
            rows.append({"aspect": aspect, "judges": [names[i], names[j]], "n": int(spoke.sum()), **found})
    return rows


def _align(tables: dict[str, pa.Table], columns: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{column: (turns, judges)} with NaN for silence, and the dialogue number of each turn."""
    import pyarrow.compute as pc

    everything = pa.concat_tables([t.select(["turn_id", "dialogue_id"]) for t in tables.values()])
    ids = pc.unique(everything["turn_id"])
    first = pc.index_in(ids, everything["turn_id"].combine_chunks())
    groups = pc.dictionary_encode(everything["dialogue_id"].combine_chunks().take(first)).indices.to_numpy()
    ratings = {column: np.full((len(ids), len(tables)), np.nan) for column in columns}
    for j, table in enumerate(tables.values()):
        at = pc.index_in(table["turn_id"], ids).to_numpy()
        for column in columns:
            ratings[column][at, j] = table[column].cast(pa.float64()).to_numpy()
    return ratings, groups
