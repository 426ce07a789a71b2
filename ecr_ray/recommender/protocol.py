"""How a ranking is measured: the published protocol, and beside it the honest one. Pure functions.

Published (ECR, RecSys 2024, and UniCRS): every pair of a turn and a film that it recommends is one example; the film's
rank is among the whole catalogue, films that were mentioned before included. So who repeats titles is rewarded.
Honest: films that were mentioned are left out of the ranking, and examples that ask for one are not counted.

Shapes: N examples, I items of the catalogue, G dialogues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CUTS = (1, 10, 50)
# The ECR evaluation's batch, on which its AUC depends.
PUBLISHED_BATCH = 32


@dataclass(frozen=True)
class Examples:
    """What is asked: `target_N` items by number, `liked_N` 1, 0 or -1 (did not say, or nobody asked), `dialogue_N`."""

    target_N: np.ndarray
    liked_N: np.ndarray
    dialogue_N: np.ndarray

    def __len__(self) -> int:
        return len(self.target_N)

    def of(self, rows: np.ndarray) -> "Examples":
        """Some of them."""
        return Examples(self.target_N[rows], self.liked_N[rows], self.dialogue_N[rows])


def rank(score_I: np.ndarray, target: int, masked: Sequence[int] = ()) -> float:
    """The target's place, from 1; among equal scores the middle one. Masked items are not ranked.

    Raises:
        ValueError: the target is masked, or its score is not a number.
    """
    if target in masked or np.isnan(score_I[target]):
        raise ValueError(f"item {target} has no rank: it is masked, or has no score")
    higher, equal = score_I > score_I[target], score_I == score_I[target]
    if len(masked):
        hidden = np.unique(np.asarray(masked))
        return float(higher.sum() - higher[hidden].sum() + (equal.sum() - equal[hidden].sum() + 1) / 2)
    return float(higher.sum() + (equal.sum() + 1) / 2)


def recall(rank_N: np.ndarray, cut: int) -> np.ndarray:
    """Whether the one relevant item is among the first `cut`, (N,); recall, as there is one."""
    return (rank_N <= cut).astype(float)


def reciprocal(rank_N: np.ndarray, cut: int) -> np.ndarray:
    """1 / rank within the first `cut`, else 0, (N,)."""
    return np.where(rank_N <= cut, 1 / rank_N, 0.0)


def gain(rank_N: np.ndarray, cut: int) -> np.ndarray:
    """Discounted gain of one relevant item, 1 / log2(rank + 1) within the first `cut`, (N,); the ideal is 1."""
    return np.where(rank_N <= cut, 1 / np.log2(rank_N + 1), 0.0)


def pairwise_auc(positive_P: np.ndarray, negative_Q: np.ndarray) -> float:
    """The share of all pairs in which the liked one has the higher score, ties counting half; NaN without a pair."""
    if not len(positive_P) or not len(negative_Q):
        return float("nan")
    difference = positive_P[:, None] - negative_Q[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def published_auc(probability_N: np.ndarray, liked_N: np.ndarray, batch: int = PUBLISHED_BATCH) -> float:
    """AUC as published: within every batch of consecutive examples, a mean over batches with both kinds.

    It compares films of different users and turns, and depends on the batch and on the order; here to compare with
    the published figures only.

    Args:
        probability_N: the system's probability of each example's item.
    """
    found = []
    for at in range(0, len(liked_N), batch):
        p, liked = probability_N[at : at + batch], liked_N[at : at + batch]
        found.append(pairwise_auc(p[liked == 1], p[liked == 0]))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def user_auc(probability_N: np.ndarray, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """AUC within each dialogue that has liked and disliked films, (G',), and these dialogues, (G',)."""
    values, names = [], []
    order = np.argsort(examples.dialogue_N, kind="stable")
    cuts = np.flatnonzero(np.diff(examples.dialogue_N[order])) + 1
    for rows in np.split(order, cuts) if len(order) else ():
        p, liked = probability_N[rows], examples.liked_N[rows]
        value = pairwise_auc(p[liked == 1], p[liked == 0])
        if not np.isnan(value):
            values.append(value)
            names.append(examples.dialogue_N[rows[0]])
    return np.array(values), np.array(names, dtype=int)


def mean_interval(
    value_N: np.ndarray, group_N: np.ndarray, *, resamples: int, seed: int
) -> dict[str, float | int | None]:
    """A mean with its percentile bootstrap's 95 % interval over groups (dialogues).

    Returns:
        `{value, low, high, n, dialogues}`; all None but n where there is no row.
    """
    if not len(value_N):
        return {"value": None, "low": None, "high": None, "n": 0, "dialogues": 0}
    _, number_N = np.unique(group_N, return_inverse=True)
    count = int(number_N.max()) + 1
    sum_G = np.bincount(number_N, weights=value_N, minlength=count)
    rows_G = np.bincount(number_N, minlength=count)
    found = {"value": float(value_N.mean()), "low": None, "high": None, "n": len(value_N), "dialogues": count}
    if resamples:
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        low, high = np.percentile((drawn @ sum_G) / (drawn @ rows_G), [2.5, 97.5])
        found |= {"low": float(low), "high": float(high)}
    return found


@dataclass(frozen=True)
class Ranked:
    """What one system made of all examples."""

    rank_N: np.ndarray
    """With nothing masked, as published."""
    masked_rank_N: np.ndarray
    """With mentioned films masked; NaN where the film that is asked for was mentioned."""
    probability_N: np.ndarray
    """Of each example's item."""
    top_NK: np.ndarray
    """The first ten items of each example's ranking, mentioned ones masked."""


TOP = 10


def place(score_MI: np.ndarray, examples: Examples, turn_N: np.ndarray, mentioned: Sequence[Sequence[int]]) -> Ranked:
    """Rank every example.

    Args:
        score_MI: what a system says at each of M turns of every item.
        turn_N: the turn (row of the scores) of every example.
        mentioned: items that were mentioned before each turn, M lists.
    """
    ranks = np.empty(len(examples))
    masked, probability = np.full(len(examples), np.nan), np.empty(len(examples))
    top_MK = np.empty((len(score_MI), min(TOP, score_MI.shape[1])), dtype=int)
    total_M = np.empty(len(score_MI))
    for m, score_I in enumerate(score_MI):
        total_M[m] = np.exp(score_I - score_I.max()).sum()
        shown = score_I.astype(float)
        shown[list(mentioned[m])] = -np.inf
        top_MK[m] = np.argsort(-shown, kind="stable")[: top_MK.shape[1]]
    for n, (turn, target) in enumerate(zip(turn_N, examples.target_N, strict=True)):
        score_I = score_MI[turn]
        ranks[n] = rank(score_I, target)
        if target not in mentioned[turn]:
            masked[n] = rank(score_I, target, mentioned[turn])
        probability[n] = np.exp(score_I[target] - score_I.max()) / total_M[turn]
    return Ranked(ranks, masked, probability, top_MK[turn_N])


def figures(
    ranked: Ranked, examples: Examples, popularity_I: np.ndarray, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Every measure of one system.

    Args:
        popularity_I: how often each item was mentioned in training.

    Returns:
        `{protocol: published | masked | both, measure, value, low, high, n, dialogues}` a row. Those of the published
        AUC have no interval: it is a mean over batches that mix dialogues.
    """
    rows: list[dict[str, Any]] = []

    def add(protocol: str, measure: str, value_N: np.ndarray, group_N: np.ndarray) -> None:
        found = mean_interval(value_N, group_N, resamples=resamples, seed=seed)
        rows.append({"protocol": protocol, "measure": measure, **found})

    liked = examples.liked_N == 1
    for name, rank_N in (("published", ranked.rank_N), ("masked", ranked.masked_rank_N)):
        asked = ~np.isnan(rank_N)
        for cut in CUTS:
            add(name, f"R@{cut}", recall(rank_N[asked], cut), examples.dialogue_N[asked])
        for cut in CUTS:
            kept = asked & liked
            add(name, f"RT@{cut}", recall(rank_N[kept], cut), examples.dialogue_N[kept])
        for cut in CUTS[1:]:
            add(name, f"MRR@{cut}", reciprocal(rank_N[asked], cut), examples.dialogue_N[asked])
            add(name, f"NDCG@{cut}", gain(rank_N[asked], cut), examples.dialogue_N[asked])
    auc = published_auc(ranked.probability_N, examples.liked_N)
    both = int((examples.liked_N >= 0).sum())
    rows.append(
        {
            "protocol": "published",
            "measure": f"AUC, batches of {PUBLISHED_BATCH}",
            "value": None if np.isnan(auc) else auc,
            "low": None,
            "high": None,
            "n": both,
            "dialogues": len(np.unique(examples.dialogue_N)),
        }
    )
    add("both", "AUC per dialogue", *user_auc(ranked.probability_N, examples))
    place_I = popularity_places(popularity_I)
    add("masked", "popularity of the first ten", place_I[ranked.top_NK].mean(1), examples.dialogue_N)
    add("both", "popularity of what was asked for", place_I[examples.target_N], examples.dialogue_N)
    shown = len(np.unique(ranked.top_NK)) / len(popularity_I) if len(examples) else None
    rows.append(
        {
            "protocol": "masked",
            "measure": "coverage: share of the catalogue in somebody's first ten",
            "value": shown,
            "low": None,
            "high": None,
            "n": len(examples),
            "dialogues": len(np.unique(examples.dialogue_N)),
        }
    )
    return rows


def ahead(
    ours: Ranked, theirs: Ranked, examples: Examples, *, resamples: int, seed: int
) -> dict[tuple[str, str], dict[str, Any]]:
    """How far one system's recall is above another's on the same examples, by protocol and measure."""
    found = {}
    for protocol, name in (("published", "rank_N"), ("masked", "masked_rank_N")):
        mine, other = getattr(ours, name), getattr(theirs, name)
        asked = ~np.isnan(mine)
        for cut in CUTS:
            difference = recall(mine[asked], cut) - recall(other[asked], cut)
            groups = examples.dialogue_N[asked]
            found[protocol, f"R@{cut}"] = mean_interval(difference, groups, resamples=resamples, seed=seed)
    return found


def popularity_places(popularity_I: np.ndarray) -> np.ndarray:
    """Where each item stands by popularity, 0 the rarest, 1 the most popular; equals in the middle, (I,)."""
    from scipy.stats import rankdata

    return (rankdata(popularity_I) - 0.5) / len(popularity_I)


def by_name(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The rows of `figures` by protocol and measure."""
    return {(row["protocol"], row["measure"]): row for row in rows}
