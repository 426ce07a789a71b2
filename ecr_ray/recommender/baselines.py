"""What needs no network: popularity, neighbours of the last film, co-occurrence, text. What every model stands beside.

Each gives scores of all items at M turns, (M, I). Only dialogues of the training split are ever looked at.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ecr_ray.recommender import examples
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.examples import Turn

# Breaks ties in favour of what is popular, too little to change any other order.
_POPULARITY = 1e-6
# Of EASE, chosen on the validation split of ReDial.
RIDGE = 200.0


class Baseline(Protocol):
    """Something that scores items."""

    def scores(self, turns: Sequence[Turn]) -> np.ndarray:
        """(M, I)."""


class Popularity:
    """How many dialogues name an item."""

    def __init__(self, train: Sequence[Turn], items: int) -> None:
        self._count_I = examples.popularity(train, items)

    def scores(self, turns: Sequence[Turn]) -> np.ndarray:
        """The same for every turn."""
        return np.tile(self._count_I, (len(turns), 1))


class LastMention:
    """How often an item is named in the same dialogue as the one that was named last."""

    def __init__(self, train: Sequence[Turn], items: int) -> None:
        matrix, _ = examples.mentions_matrix(train, items)
        self._together_II = matrix.T @ matrix
        self._count_I = matrix.sum(0)
        np.fill_diagonal(self._together_II, 0)

    def scores(self, turns: Sequence[Turn]) -> np.ndarray:
        """Popularity where nothing was named."""
        found = np.tile(_POPULARITY * self._count_I, (len(turns), 1))
        for row, turn in enumerate(turns):
            if turn.mentioned:
                found[row] += self._together_II[turn.mentioned[0]]
        return found


class Ease:
    """EASE: the linear model of co-occurrence with a closed form (Steck, "Embarrassingly Shallow Autoencoders for
    Sparse Data", WWW 2019).

    Args:
        bonus: added to items that were mentioned before, which the published protocol rewards; 0: nothing.
    """

    def __init__(self, train: Sequence[Turn], items: int, *, ridge: float = RIDGE, bonus: float = 0.0) -> None:
        matrix, _ = examples.mentions_matrix(train, items)
        self.weights_II, self._count_I, self._bonus = ease(matrix, ridge), matrix.sum(0), bonus

    def scores(self, turns: Sequence[Turn]) -> np.ndarray:
        """Popularity where nothing was named."""
        named = mentioned(turns, len(self._count_I))
        return named @ self.weights_II + _POPULARITY * self._count_I + self._bonus * named


def ease(matrix_DI: np.ndarray, ridge: float) -> np.ndarray:
    """The item-to-item weights B of EASE, (I, I) with a diagonal of 0: the least-squares fit of X by X B.

    B = I − P / diag(P) with P = (XᵀX + λ)⁻¹. An item that nobody named has no weights.

    Raises:
        ValueError: the ridge is 0, and there is no inverse.
    """
    from scipy.linalg import lapack

    gram = (matrix_DI.T @ matrix_DI).astype(np.float64)
    gram[np.diag_indices_from(gram)] += ridge
    # Symmetric and positive: by Cholesky in a third of the time that a general inverse takes.
    factor, failed = lapack.dpotrf(gram, lower=1)
    if failed:
        raise ValueError(f"EASE needs a ridge above 0, not {ridge}")
    lower = np.tril(lapack.dpotri(factor, lower=1)[0])
    inverse = lower + np.tril(lower, -1).T
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)


def mentioned(turns: Sequence[Turn], items: int) -> np.ndarray:
    """Which items were named before each turn, (M, I) of 0 and 1."""
    found = np.zeros((len(turns), items), dtype=np.float32)
    for row, turn in enumerate(turns):
        found[row, turn.mentioned] = 1
    return found


class TextSimilarity:
    """Cosine of the dialogue so far and the texts in which an item was asked for and named, as tf-idf of words."""

    def __init__(self, train: Sequence[Turn], catalogue: Catalogue) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = [[item.title, *(fact.name for fact in item.facts)] for item in catalogue.items]
        for turn in train:
            for item in turn.targets:
                texts[item].append(_said(turn))
        self._words = TfidfVectorizer(sublinear_tf=True, min_df=2)
        self._items = self._words.fit_transform([" ".join(parts) for parts in texts])

    def scores(self, turns: Sequence[Turn]) -> np.ndarray:
        """Cosines."""
        return (self._words.transform([_said(turn) for turn in turns]) @ self._items.T).toarray()


def _said(turn: Turn) -> str:
    return " ".join(turn.texts[-4:])


def all_of(train: Sequence[Turn], catalogue: Catalogue, bonus: float) -> dict[str, Callable[[], Any]]:
    """The baselines by the names that tables call them; each is made when it is called."""
    count = len(catalogue)
    return {
        "popularity": lambda: Popularity(train, count),
        "neighbours of the last film": lambda: LastMention(train, count),
        "EASE": lambda: Ease(train, count),
        "EASE, with a bonus for films mentioned before": lambda: Ease(train, count, bonus=bonus),
        "text similarity": lambda: TextSimilarity(train, catalogue),
    }
