"""How far somebody's scores go with what people said of the same turns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecr_ray.critic import measures
from ecr_ray.data import ratings
from ecr_ray.data.ratings import Rated

LENGTH, MEAN = "words in the response", "the mean for every turn"
CEILING = "one person against the others"


def against(
    turns: Sequence[Rated], predictors: Mapping[str, np.ndarray], ours: str, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Spearman, and AUC of telling above the middle of the scale from the rest, by what people rated.

    Args:
        turns: rated turns that none of the predictors learnt from.
        predictors: name → a score of every turn, (N,); response length and a constant are added.
        ours: the predictor that the others are compared with.
        resamples: of dialogues.
        seed: of these, and of which person is set against the others.

    Returns:
        Rows of measures.compare; `head` is what people rated, `model` CEILING is a person drawn from a turn's raters
        against the mean of the others: no score can be asked for more.
    """
    rows = []
    for aspect in ratings.ASPECTS:
        chosen = [n for n, turn in enumerate(turns) if len(turn.ratings.get(aspect, [])) > 1]
        if not chosen:
            continue
        rated = [turns[n] for n in chosen]
        groups = np.array([turn.dialogue_id for turn in rated])
        middle = sum(ratings.SCALES[aspect]) / 2
        kinds = {"Spearman": measures.MEASURES["Spearman"], "AUC": lambda p, t, m=middle: measures.auc(p, t > m)}
        mean = np.array([np.mean(turn.ratings[aspect]) for turn in rated])
        scores = {name: values[chosen] for name, values in predictors.items()} | {
            LENGTH: np.array([float(len(turn.response.split())) for turn in rated]),
            MEAN: np.full(len(rated), mean.mean()),
        }
        sample = measures.Sample(scores, mean, groups)
        rows += measures.compare(aspect, sample, ours, kinds, resamples=resamples, seed=seed)
        one, others = _one_and_others([turn.ratings[aspect] for turn in rated], seed)
        ceiling = measures.Sample({CEILING: one}, others, groups)
        rows += measures.compare(aspect, ceiling, CEILING, kinds, resamples=resamples, seed=seed)
    return rows


def _one_and_others(values: Sequence[Sequence[float]], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A rating drawn from each row, and the mean of the row's others."""
    rng = np.random.default_rng(seed)
    one, others = np.empty(len(values)), np.empty(len(values))
    for n, row in enumerate(values):
        drawn = rng.integers(len(row))
        one[n], others[n] = row[drawn], np.delete(row, drawn).mean()
    return one, others
