"""What the ratings say: every system's means, how far raters agree, and how far each judge agrees with them.

Pure functions. The unit is a reply, that is a system and a turn; a rater's second rating of a reply counts for
consistency alone. All intervals are over dialogues. What cannot be known is withheld, with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from ecr_ray import prompts
from ecr_ray.evaluation import statistics
from ecr_ray.evaluation.replies import OK
from ecr_ray.evaluation.study.design import MEASURES
from ecr_ray.evaluation.study.ratings import Rating
from ecr_ray.scoring.agreement import Statistic, krippendorff_alpha, pearson, spearman


@dataclass(frozen=True)
class Panel:
    """Ratings by reply: U replies, R raters who have rated any."""

    replies: list[tuple[str, str]]
    """(system, turn), U of them."""
    dialogues: np.ndarray
    """(U,)."""
    raters: list[int]
    ratings: dict[str, np.ndarray]
    """Measure → (U, R); NaN where a rater has not rated."""
    twice: dict[str, np.ndarray]
    """Measure → (pairs, 2): a rater's first and second rating of a reply."""
    twice_dialogues: np.ndarray
    twice_raters: np.ndarray
    """(pairs,) each."""

    @classmethod
    def of(cls, ratings: Iterable[Rating]) -> "Panel":
        """From ratings of every rater."""
        first: dict[tuple[int, str, str], Mapping[str, int]] = {}
        again: dict[tuple[int, str, str], Mapping[str, int]] = {}
        dialogue: dict[tuple[str, str], str] = {}
        for rating in ratings:
            reply = (rating.item.system, rating.item.turn_id)
            dialogue[reply] = rating.item.dialogue_id
            (again if rating.item.again else first)[rating.rater, *reply] = rating.values
        replies = sorted(dialogue)
        at = {reply: n for n, reply in enumerate(replies)}
        raters = sorted({rater for rater, *_ in [*first, *again]})
        values = {measure: np.full((len(replies), len(raters)), np.nan) for measure in MEASURES}
        # Where the first rating is missing, the second one is the rating.
        for (rater, *reply), given in [*again.items(), *first.items()]:
            for measure, value in given.items():
                values[measure][at[tuple(reply)], raters.index(rater)] = value
        both = [key for key in first if key in again]
        return cls(
            replies,
            np.array([dialogue[reply] for reply in replies]),
            raters,
            values,
            {measure: _twice([(first[key], again[key]) for key in both], measure) for measure in MEASURES},
            np.array([dialogue[key[1:]] for key in both]),
            np.array([key[0] for key in both]),
        )


def _twice(pairs: Sequence[tuple[Mapping[str, int], Mapping[str, int]]], measure: str) -> np.ndarray:
    found = [[given.get(measure, np.nan) for given in pair] for pair in pairs]
    return np.array(found, dtype=float).reshape(-1, 2)


@dataclass(frozen=True)
class Resampling:
    """Of the intervals."""

    resamples: int
    seed: int


def of_systems(panel: Panel, systems: Sequence[str], how: Resampling) -> list[dict[str, Any]]:
    """Every system's mean of every measure, over the raters' means of its replies."""
    rows = []
    for measure, values in panel.ratings.items():
        for system in systems:
            own = np.array([name == system for name, _ in panel.replies], dtype=bool)
            found = statistics.figure(measure, system, _mean(values[own]), panel.dialogues[own], **asdict(how))
            rows.append(found.as_json())
    return rows


def of_raters(panel: Panel, how: Resampling) -> list[dict[str, Any]]:
    """How far raters agree: Krippendorff's α of all, Spearman's ρ of every two.

    Returns:
        `{measure, raters, statistic, value, low, high, n, dialogues, withheld}` a row.
    """
    rows = []
    for measure, values in panel.ratings.items():
        several = np.sum(~np.isnan(values), axis=1) >= 2
        alone = "fewer than two raters" if len(panel.raters) < 2 else ""
        alpha = estimate(krippendorff_alpha, values[several], panel.dialogues[several], how, alone)
        rows.append({"measure": measure, "raters": panel.raters, "statistic": "krippendorff_alpha", **alpha})
        for a, b in combinations(range(len(panel.raters)), 2):
            pair, groups = _complete(values[:, [a, b]], panel.dialogues)
            names = [panel.raters[a], panel.raters[b]]
            found = estimate(spearman, pair, groups, how)
            rows.append({"measure": measure, "raters": names, "statistic": "spearman", **found})
    return rows


def of_repeats(panel: Panel, how: Resampling) -> list[dict[str, Any]]:
    """How consistent raters are on replies that came twice: the mean difference, in points, without its sign.

    Returns:
        `{measure, rater, value, low, high, n, dialogues, withheld}` a row: by measure, all raters together (`rater` is
        null), and by rater, all measures together (`measure` is null).
    """
    rows = []
    for measure, pairs in panel.twice.items():
        found = estimate(_distance, *_complete(pairs, panel.twice_dialogues), how)
        rows.append({"measure": measure, "rater": None, **found})
    for rater in panel.raters:
        own = panel.twice_raters == rater
        pairs = np.concatenate([pairs[own] for pairs in panel.twice.values()])
        groups = np.tile(panel.twice_dialogues[own], len(panel.twice))
        rows.append({"measure": None, "rater": rater, **estimate(_distance, *_complete(pairs, groups), how)})
    return rows


def of_judges(
    panel: Panel, judgments: Sequence[Mapping[str, Any]] | None, why_none: str, how: Resampling
) -> list[dict[str, Any]]:
    """How far each judge's scores go with the raters' mean, and the ceiling: one rater against the mean of the others.

    Args:
        panel: people's ratings.
        judgments: `system`, `turn_id`, `judge`, `status` and measures, a row each; None: there are none.
        why_none: why that is so.
        how: of the intervals.

    Returns:
        `{judge, measure, statistic, value, low, high, n, dialogues, withheld, ceiling: {value, …}}` a row. The ceiling
        is a mean over the raters. A judge may pass it by a little: the mean of all raters is known better than that of
        all but one.
    """
    if judgments is None:
        return [{"judge": None, "measure": None, "statistic": None, **_withheld(why_none)}]
    judges = list(dict.fromkeys(row["judge"] for row in judgments))
    rows = []
    for measure, values in panel.ratings.items():
        why = "" if measure in prompts.RUBRICS["ecr"].aspects else "judges do not rate it"
        rated, mean = ~np.isnan(values).all(axis=1), _mean(values)
        for name, statistic in (("spearman", spearman), ("pearson", pearson)):
            one = partial(one_and_others, statistic)
            ceiling = estimate(one, values[rated], panel.dialogues[rated], how, why)
            for judge in judges:
                pairs = np.column_stack([_scores(panel, judgments, judge, measure), mean])
                found = estimate(statistic, *_complete(pairs, panel.dialogues), how, why)
                rows.append({"judge": judge, "measure": measure, "statistic": name, **found, "ceiling": ceiling})
    return rows


def _scores(panel: Panel, judgments: Sequence[Mapping[str, Any]], judge: str, measure: str) -> np.ndarray:
    """A judge's score of every reply, (U,); NaN where there is none."""
    said = {(r["system"], r["turn_id"]): r for r in judgments if r["judge"] == judge and r["status"] == OK}
    scores = [said.get(reply, {}).get(measure) for reply in panel.replies]
    return np.array([np.nan if score is None else score for score in scores], dtype=float)


def one_and_others(statistic: Statistic, ratings: np.ndarray) -> float:
    """How far a rater agrees with the mean of the others, mean over raters; NaN where nobody has others. (n, R)."""
    found = []
    for rater in range(ratings.shape[1]):
        others = np.delete(ratings, rater, axis=1)
        both = ~np.isnan(ratings[:, rater]) & ~np.isnan(others).all(axis=1)
        found.append(statistic(np.column_stack([ratings[both, rater], _mean(others[both])])))
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def estimate(
    statistic: Statistic, ratings: np.ndarray, groups: np.ndarray, how: Resampling, why: str = ""
) -> dict[str, Any]:
    """A statistic with its interval over dialogues, or why it is withheld.

    Args:
        statistic: of (n, k).
        ratings: (n, k).
        groups: the dialogue of every row, (n,).
        how: of the interval.
        why: withhold it for this reason.
    """
    if why:
        return _withheld(why, len(ratings), len(np.unique(groups)))
    found = statistics.figure("", "", lambda picked: statistic(ratings[picked]), groups, **asdict(how)).as_json()
    return {name: value for name, value in found.items() if name not in ("measure", "system")}


def _withheld(why: str, n: int = 0, dialogues: int = 0) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "n": n, "dialogues": dialogues, "withheld": why}


def _complete(pairs: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of which both are there."""
    both = ~np.isnan(pairs).any(axis=1)
    return pairs[both], groups[both]


def _mean(values: np.ndarray) -> np.ndarray:
    """Of each row's numbers, (n,); NaN where there is none."""
    known = np.sum(~np.isnan(values), axis=1)
    return np.where(known > 0, np.nansum(values, axis=1) / np.maximum(known, 1), np.nan)


def _distance(pairs: np.ndarray) -> float:
    return float(np.abs(pairs[:, 0] - pairs[:, 1]).mean())
