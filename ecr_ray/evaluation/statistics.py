"""Figures with intervals, and systems compared prompt by prompt. Pure functions.

What says too little is withheld, with the reason: a mean over the rows that a judge happened to answer is no figure
of a system. The turns of a dialogue are not independent, so dialogues are what is resampled and what is flipped.

Shapes: N rows, G dialogues, S systems, R resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ecr_ray.recommender.protocol import mean_interval
from ecr_ray.scoring.agreement import spearman, with_interval

RESAMPLES = 1000
# Dialogues below which no figure is given.
LEAST = 5
# Up to so many dialogues (8,192 ways) every sign is tried, beyond it so many at random.
EXACT_DIALOGUES, FLIPS = 13, 9_999
_FLIPS_AT_ONCE = 1_000
# Wins given to both sides of every two systems that met: one that never wins stays finite.
PSEUDO_WINS = 0.1
ELO_MEAN, ELO_PER_NAT = 1000.0, 400 / np.log(10)
_SWEEPS, _STILL = 10_000, 1e-10

# The figure of the rows with these numbers.
OfRows = Callable[[np.ndarray], float]


def _json(row: "Figure | Comparison") -> dict[str, str | int | float | None]:
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in vars(row).items()}


@dataclass(frozen=True)
class Figure:
    """A measure of a system with its 95 % interval; no value where it is `withheld`, which says why.

    `low` and `high` are None where there is no interval.
    """

    measure: str
    system: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    """Rows with a value, and the dialogues that they are of."""
    dialogues: int
    withheld: str = ""

    def as_json(self) -> dict[str, str | int | float | None]:
        """To four decimals."""
        return _json(self)


@dataclass(frozen=True)
class Comparison:
    """How far a system is ahead of another on the same rows; `withheld` says why there is no value."""

    measure: str
    system: str
    against: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    """For all comparisons made together (`adjusted`)."""
    effect: float | None
    """Cohen's d of paired data; None where all differences are one and the same."""
    n: int
    """Rows that have a value of both, and the dialogues that they are of."""
    dialogues: int
    withheld: str = ""
    left_out: int = 0
    """Rows that have no value of one or both."""

    def as_json(self) -> dict[str, str | int | float | None]:
        """To four decimals."""
        return _json(self)


def figure(
    measure: str,
    system: str,
    values: np.ndarray | OfRows,
    groups_N: np.ndarray,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    least: int = LEAST,
) -> Figure:
    """A mean, or any statistic of rows, with its percentile bootstrap interval over dialogues.

    Args:
        values: (N,), whose mean is the figure, NaN where there is none; or a function from row numbers to the figure.
        groups_N: the dialogue of every row.
        seed, resamples: of the interval; without resamples there is none.
        least: dialogues with a value below which the figure is withheld, as it is where more than half of the rows
            have no value.
    """
    known_N = np.ones(len(groups_N), dtype=bool) if callable(values) else ~np.isnan(values)
    kept = groups_N[known_N]
    n, dialogues = len(kept), len(np.unique(kept))
    why = _too_little(known_N, dialogues, least)
    if why:
        return Figure(measure, system, None, None, None, n, dialogues, why)
    if callable(values):
        found = _statistic_interval(values, groups_N, resamples, seed)
    else:
        mean = mean_interval(values[known_N], kept, resamples=resamples, seed=seed)
        found = mean["value"], mean["low"], mean["high"]
    if not np.isfinite(found[0]):
        return Figure(measure, system, None, None, None, n, dialogues, "these rows do not determine it")
    return Figure(measure, system, *found, n, dialogues)


def _too_little(known_N: np.ndarray, dialogues: int, least: int) -> str:
    """Why rows do not suffice for a figure; empty where they do."""
    missing = int((~known_N).sum())
    if 2 * missing > len(known_N):
        return f"{missing} of {len(known_N)} have no value"
    return _too_few(dialogues, least)


def _too_few(dialogues: int, least: int) -> str:
    return f"too few dialogues with a value: {dialogues} of the {least} that it takes" if dialogues < least else ""


def _statistic_interval(
    value: OfRows, groups_N: np.ndarray, resamples: int, seed: int
) -> tuple[float, float | None, float | None]:
    _, numbers = np.unique(groups_N, return_inverse=True)
    rows = np.arange(len(groups_N))[:, None]
    found = with_interval(lambda picked: value(picked[:, 0]), rows, numbers, resamples=resamples, seed=seed)
    return float(found.value), *(None if np.isnan(end) else float(end) for end in (found.low, found.high))


# --- one system against another ---------------------------------------------------------------------------


def compare(
    measure: str,
    system: str,
    values_N: np.ndarray,
    against: str,
    other_N: np.ndarray,
    groups_N: np.ndarray,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    least: int = LEAST,
) -> Comparison:
    """The mean difference of two systems on the same rows, its interval, and how likely chance alone is so far off.

    Args:
        values_N, other_N: of the same rows, NaN where there is none; rows without both are left out.
        groups_N, seed, resamples, least: as for `figure`.
    """
    difference_N = values_N - other_N
    known_N = ~np.isnan(difference_N)
    found = figure(measure, system, difference_N, groups_N, seed=seed, resamples=resamples, least=least)
    size = {"n": found.n, "dialogues": found.dialogues, "left_out": int((~known_N).sum())}
    if found.withheld:
        return Comparison(measure, system, against, *(None,) * 6, withheld=found.withheld, **size)
    kept_N = difference_N[known_N]
    _, numbers = np.unique(groups_N[known_N], return_inverse=True)
    p = sign_flip(np.bincount(numbers, weights=kept_N), seed=seed)
    return Comparison(
        measure, system, against, found.value, found.low, found.high, p, None, paired_effect(kept_N), **size
    )


def paired_effect(difference_N: np.ndarray) -> float | None:
    """Cohen's d of paired data: the differences' mean over their standard deviation; None without a spread.

    Source: d_z of Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", section 2.3.5. It is over rows,
    and says nothing about how sure the difference is.
    """
    spread = float(np.std(difference_N, ddof=1)) if len(difference_N) > 1 else 0.0
    # Equal differences of floating-point numbers are not quite equal.
    return float(np.mean(difference_N)) / spread if spread > 1e-12 * np.abs(difference_N).max(initial=0) else None


def sign_flip(sum_G: np.ndarray, *, seed: int) -> float:
    """Two-sided p of a paired permutation test that swaps the two systems in whole dialogues.

    If nothing sets the systems apart, each dialogue's sum of differences could as well have the other sign. Of few
    dialogues all signs are tried; of many, random ones, and the signs that were found count as one of them, so that p
    is never 0 (Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero").

    Args:
        sum_G: the sum of the differences of every dialogue.
    """
    # Sums that are equal but for rounding are as far off as what was found.
    observed = abs(sum_G.sum()) - 1e-9 * np.abs(sum_G).sum()
    count = len(sum_G)
    if count <= EXACT_DIALOGUES:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((2 * bits - 1) @ sum_G) >= observed))
    rng = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, FLIPS, _FLIPS_AT_ONCE):
        bits = rng.integers(0, 2, (min(_FLIPS_AT_ONCE, FLIPS - start), count), dtype=np.int8)
        as_far += int(np.sum(np.abs((2.0 * bits - 1) @ sum_G) >= observed))
    return (as_far + 1) / (FLIPS + 1)


def holm(p_M: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number, so that the chance of one false find among them stays what p says.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    p = np.asarray(p_M, dtype=float)
    order = np.argsort(p, kind="stable")
    found = np.empty(len(p))
    found[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return found


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with `p_adjusted` over all of them that are not withheld."""
    found = list(comparisons)
    told = [n for n, comparison in enumerate(found) if comparison.p is not None]
    for n, p in zip(told, holm([found[n].p for n in told]), strict=True):
        found[n] = replace(found[n], p_adjusted=float(p))
    return found


# --- strengths from comparisons two by two ----------------------------------------------------------------


def bradley_terry(wins_SS: np.ndarray) -> np.ndarray:
    """Most likely log-strengths x, (S,), with the sum 0: system i beats j with odds of exp(x_i − x_j).

    Args:
        wins_SS: how often the system of the row beat that of the column; shares of a win count as such. Every two that
            met are given `PSEUDO_WINS` more each.

    Raises:
        ValueError: not every system is joined to every other by a chain of comparisons: there is no common scale.
    """
    met_SS = _met(wins_SS)
    if _parts(met_SS) > 1:
        raise ValueError("systems that no chain of comparisons joins have no common scale")
    return _fit((wins_SS + PSEUDO_WINS * met_SS)[None])[0]


def _met(wins_SS: np.ndarray) -> np.ndarray:
    return (wins_SS + wins_SS.T) > 0


def _parts(met_SS: np.ndarray) -> int:
    """Of how many pieces the graph of comparisons consists."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(met_SS, directed=False)[0])


def _fit(wins_RSS: np.ndarray) -> np.ndarray:
    """Log-strengths of R tables of wins at once, (R, S).

    The maximum is the one of Hunter 2004, "MM Algorithms for Generalized Bradley-Terry Models", whose iteration takes
    100,000 steps where some systems hardly ever win; that of Newman 2023, "Efficient Computation of Rankings from
    Pairwise Comparisons", equation 9, has the same fixed point and takes tens.
    """
    strength_RS = np.ones(wins_RSS.shape[:2])
    for _ in range(_SWEEPS):
        before = strength_RS.copy()
        for s in range(strength_RS.shape[1]):
            both_RS = strength_RS[:, [s]] + strength_RS
            won = (wins_RSS[:, s] * strength_RS / both_RS).sum(axis=1)
            strength_RS[:, s] = won / (wins_RSS[:, :, s] / both_RS).sum(axis=1)
        strength_RS /= np.exp(np.log(strength_RS).mean(axis=1, keepdims=True))
        if np.abs(np.log(strength_RS / before)).max() < _STILL:
            break
    return np.log(strength_RS)


def strengths(
    measure: str,
    pairs: Sequence[tuple[str, str, float, str]],
    systems: Sequence[str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    least: int = LEAST,
) -> list[Figure]:
    """How strong every system is by comparisons two by two (Bradley and Terry), with intervals over dialogues.

    The scale is Elo's: the mean of the systems is 1000, and 400 more are odds of ten to one. It is relative: another
    set of systems gives other numbers. `n` are a system's comparisons.

    Args:
        pairs: (first, second, share won by the second in 0-1, dialogue).
        systems: in the order of the figures. One that was never compared, or in too few dialogues, is withheld; all
            are where no chain of comparisons joins them.
    """
    wins_GSS = _wins(pairs, systems)
    games_GS = (wins_GSS + wins_GSS.swapaxes(1, 2)).sum(axis=2)
    dialogues_S, n_S = (games_GS > 0).sum(axis=0), np.rint(games_GS.sum(axis=0)).astype(int)
    took = np.flatnonzero(dialogues_S)
    wins_GKK = wins_GSS[:, took][:, :, took]
    apart = len(took) and _parts(_met(wins_GKK.sum(axis=0))) > 1
    values = {} if apart or not len(took) else _elo(wins_GKK, took, resamples, seed)
    found = []
    for s, system in enumerate(systems):
        size = {"n": int(n_S[s]), "dialogues": int(dialogues_S[s])}
        why = _too_few(size["dialogues"], least)
        if not size["n"]:
            why = "it was compared with none"
        elif apart:
            why = "no chain of comparisons joins all systems"
        value = (None,) * 3 if why else values[s]
        found.append(Figure(measure, system, *value, **size, withheld=why))
    return found


def _wins(pairs: Sequence[tuple[str, str, float, str]], systems: Sequence[str]) -> np.ndarray:
    """(G, S, S) how often the first of two systems won over the second in every dialogue."""
    at = {system: s for s, system in enumerate(systems)}
    names, numbers = np.unique([dialogue for *_, dialogue in pairs], return_inverse=True)
    wins_GSS = np.zeros((len(names), len(at), len(at)))
    for (first, second, share, _), g in zip(pairs, numbers, strict=True):
        wins_GSS[g, at[second], at[first]] += share
        wins_GSS[g, at[first], at[second]] += 1 - share
    return wins_GSS


def _elo(
    wins_GKK: np.ndarray, names: np.ndarray, resamples: int, seed: int
) -> dict[int, tuple[float, float | None, float | None]]:
    """Of each system (value, low, high) on Elo's scale."""
    whole_KK = wins_GKK.sum(axis=0)
    value_K = ELO_MEAN + ELO_PER_NAT * bradley_terry(whole_KK)
    if not resamples:
        return {int(s): (float(value), None, None) for s, value in zip(names, value_K, strict=True)}
    count = len(wins_GKK)
    drawn_RG = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    # A resample may lack comparisons that the whole has; the pseudo-wins of the whole keep it in one piece.
    wins_RKK = np.tensordot(drawn_RG, wins_GKK, axes=1) + PSEUDO_WINS * _met(whole_KK)
    low_K, high_K = np.percentile(ELO_MEAN + ELO_PER_NAT * _fit(wins_RKK), [2.5, 97.5], axis=0)
    return {
        int(s): (float(value), float(low), float(high))
        for s, value, low, high in zip(names, value_K, low_K, high_K, strict=True)
    }


# --- a judge's taste for length ---------------------------------------------------------------------------


def length_bias(
    judge: str,
    score_N: np.ndarray,
    words_N: np.ndarray,
    prompt_N: np.ndarray,
    groups_N: np.ndarray,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    least: int = LEAST,
) -> Figure:
    """Spearman's ρ of a judge's scores with the length of replies, among the replies to one prompt.

    Both are taken as deviations from their mean over the prompt's replies, so that prompts which call for long answers,
    or which are hard, do not count. A system that writes more and is better raises it, too: it is a hint, no proof.

    Args:
        score_N: NaN where the judge failed.
        words_N: NaN where there is no reply; such rows do not count.
        prompt_N: the prompt of every row; prompts with one score say nothing and are left out.
        groups_N, seed, resamples, least: as for `figure`.
    """
    measure = "length and score of replies to the same prompt, Spearman"
    there = ~np.isnan(words_N)
    score_N, words_N, prompt_N, groups_N = (values[there] for values in (score_N, words_N, prompt_N, groups_N))
    judged = ~np.isnan(score_N)
    _, number_N = np.unique(prompt_N, return_inverse=True)
    kept = judged & (np.bincount(number_N, weights=judged, minlength=1)[number_N] > 1)
    why = _too_little(judged, len(np.unique(groups_N[kept])), least)
    if why:
        return Figure(measure, judge, None, None, None, int(kept.sum()), len(np.unique(groups_N[kept])), why)
    _, number_M = np.unique(prompt_N[kept], return_inverse=True)
    both_M2 = np.column_stack([_deviation(values[kept], number_M) for values in (score_N, words_N)])
    return figure(
        measure,
        judge,
        lambda picked: spearman(both_M2[picked]),
        groups_N[kept],
        seed=seed,
        resamples=resamples,
        least=least,
    )


def at_equal_length(
    measure: str,
    system: str,
    difference_N: np.ndarray,
    words_N: np.ndarray,
    groups_N: np.ndarray,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    least: int = LEAST,
) -> Figure:
    """How far a system is ahead of another where both replies are equally long.

    The intercept of the least-squares line of the scores' difference over the difference in words; so that a gain which
    is all length vanishes. As in Dubois et al. 2024, "Length-Controlled AlpacaEval", with a straight line.

    Args:
        difference_N: of the scores on the same prompt, NaN where one is missing.
        words_N: of the replies' words on the same prompt.
        groups_N, seed, resamples, least: as for `figure`.
    """
    known_N = ~np.isnan(difference_N) & ~np.isnan(words_N)
    kept = groups_N[known_N]
    why = _too_little(known_N, len(np.unique(kept)), least)
    if why:
        return Figure(measure, system, None, None, None, len(kept), len(np.unique(kept)), why)
    y, x = difference_N[known_N], words_N[known_N].astype(float)

    def intercept(picked: np.ndarray) -> float:
        words, ahead = x[picked], y[picked]
        spread = float(np.var(words))
        slope = float(np.mean((words - words.mean()) * (ahead - ahead.mean()))) / spread if spread else 0.0
        return float(ahead.mean() - slope * words.mean())

    return figure(measure, system, intercept, kept, seed=seed, resamples=resamples, least=least)


def _deviation(value_N: np.ndarray, number_N: np.ndarray) -> np.ndarray:
    """Each value less the mean of those with its number."""
    # Rounded, or equal values would differ by an error of floating point, and ranks would take it for an order.
    return np.round(value_N - (np.bincount(number_N, weights=value_N) / np.bincount(number_N))[number_N], 12)
