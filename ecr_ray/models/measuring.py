"""What the measures of the bundled models share: intervals over dialogues, reading."""

from collections.abc import Callable, Iterator

import numpy as np

from ecr_ray.data import reading
from ecr_ray.scoring.agreement import with_interval

RESAMPLES = 1000


def interval(value: Callable[[np.ndarray], float], groups_N: np.ndarray, seed: int) -> dict[str, float]:
    """A figure with its percentile bootstrap's 95 % interval over dialogues.

    Args:
        value: the figure of the rows with these numbers.
        groups_N: the dialogue of every row.
        seed: of the resampling.
    """
    _, numbers = np.unique(groups_N, return_inverse=True)
    rows = np.arange(len(groups_N))[:, None]
    found = with_interval(lambda picked: value(picked[:, 0]), rows, numbers, resamples=RESAMPLES, seed=seed)
    return {**found.as_json(), "n": len(groups_N), "dialogues": int(numbers.max()) + 1}


def read(location: str) -> Iterator[reading.Row | reading.Rejected]:
    """Dialogues by the name that `--input` takes."""
    return reading.read(reading.find(location), max_message_chars=20_000, number_rows=False)
