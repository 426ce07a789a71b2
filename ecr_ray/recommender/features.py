"""Turns → arrays that a network takes: which items were named by whom and how one felt, and what was said.

Shapes: M turns, L mentions (the newest), K speakers' turns of text (the newest), U texts, H their vectors' width, F the
tokens of all texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ecr_ray.recommender.examples import Turn
from ecr_ray.records import EMOTIONS

MENTIONS, TEXTS = 16, 8
# Turns since something was said; what is older counts as this old.
OLDEST = 10
# Speakers' turns before this one; more count as so many.
LONGEST = 24


@dataclass(frozen=True)
class Features:
    """M turns. Places that are not taken have item or text -1."""

    item_ML: np.ndarray
    role_ML: np.ndarray
    age_ML: np.ndarray
    felt_MLE: np.ndarray
    """Probabilities of the nine emotions that go with a mention; all 0 where none was read."""
    text_MK: np.ndarray
    """Which text."""
    speaker_MK: np.ndarray
    length_M: np.ndarray

    def __len__(self) -> int:
        return len(self.length_M)

    def of(self, rows: np.ndarray | slice) -> "Features":
        """Some of the turns."""
        return Features(*(getattr(self, f.name)[rows] for f in fields(self)))

    def save(self, path: Path) -> None:
        """As one .npz file."""
        with path.open("wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Features":
        """What `save` wrote."""
        with np.load(path) as content:
            return cls(**{f.name: content[f.name] for f in fields(cls)})


@dataclass(frozen=True)
class Texts:
    """What was said: every text once, as a vector and as tokens."""

    vector_UH: np.ndarray
    token_F: np.ndarray
    start_U1: np.ndarray
    """Where each text's tokens begin, and the end of all."""

    @classmethod
    def of(cls, vector_UH: np.ndarray, ids: Sequence[Sequence[int]]) -> "Texts":
        """Of vectors, and of the tokens of every text."""
        start = np.cumsum([0, *map(len, ids)])
        token = np.fromiter((token for row in ids for token in row), dtype=np.int32, count=int(start[-1]))
        return cls(vector_UH, token, start)

    def save(self, directory: Path) -> None:
        """As three .npy files."""
        for name, array in (("vector", self.vector_UH), ("token", self.token_F), ("start", self.start_U1)):
            np.save(directory / f"text-{name}.npy", array)

    @classmethod
    def load(cls, directory: Path) -> "Texts":
        """What `save` wrote; vectors stay on the disk until they are looked at."""
        vector = np.load(directory / "text-vector.npy", mmap_mode="r")
        return cls(vector, np.load(directory / "text-token.npy"), np.load(directory / "text-start.npy"))

    def tokens_of(self, text_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of some texts (-1: of none) one after the other, (F',), and where each one's begin, (P,)."""
        there = text_P >= 0
        begin = np.where(there, self.start_U1[text_P], 0)
        count = np.where(there, self.start_U1[text_P + 1] - begin, 0)
        start = np.cumsum(count) - count
        # Token n of a text that begins at s among these, and at b among all, is n + b - s.
        places = np.arange(int(count.sum())) + np.repeat(begin - start, count)
        return self.token_F[places], start


def of_turns(turns: Sequence[Turn], text_number: Mapping[str, int]) -> Features:
    """Arrays of turns.

    Args:
        text_number: of every text that the turns say.
    """
    count = len(turns)
    item = np.full((count, MENTIONS), -1, dtype=np.int32)
    role, age = np.zeros((count, MENTIONS), dtype=np.int8), np.zeros((count, MENTIONS), dtype=np.int8)
    felt = np.zeros((count, MENTIONS, len(EMOTIONS)), dtype=np.float16)
    text, speaker = np.full((count, TEXTS), -1, dtype=np.int32), np.zeros((count, TEXTS), dtype=np.int8)
    for row, turn in enumerate(turns):
        # The newest first.
        for place, mention in enumerate(turn.mentions[: -MENTIONS - 1 : -1]):
            item[row, place], role[row, place] = mention.item, mention.role
            age[row, place] = min(turn.index - mention.index, OLDEST)
            if mention.emotions:
                felt[row, place] = mention.emotions
        said = zip(turn.texts[: -TEXTS - 1 : -1], turn.roles[: -TEXTS - 1 : -1], strict=True)
        for place, (words, who) in enumerate(said):
            text[row, place], speaker[row, place] = text_number[words], who
    length = np.array([min(turn.index, LONGEST) for turn in turns], dtype=np.int8)
    return Features(item, role, age, felt, text, speaker, length)


def texts_of(turns: Sequence[Turn]) -> dict[str, int]:
    """Every text that the network reads of these turns, each with a number."""
    found: dict[str, int] = {}
    for turn in turns:
        for words in turn.texts[: -TEXTS - 1 : -1]:
            found.setdefault(words, len(found))
    return found
