"""GoEmotions' 28 labels as the nine emotions of the ECR paper, and what stands in for the one that it lacks.

GoEmotions: Demszky et al., "GoEmotions: A Dataset of Fine-Grained Emotions", ACL 2020; Reddit comments, labelled by
three people or more. Nobody labelled nostalgia there. It is learnt from sentences written for this project
(`nostalgia.txt`, and `past.txt` about the past without it); a comment counts as nostalgic where it says so outright
(`NOSTALGIC`), and else, with little weight, as not.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ecr_ray.data.reading import InputError
from ecr_ray.records import EMOTIONS

LABELS = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip
# Like what one likes, curious what one wants to know or see, surprise what one did not expect or just understood.
MAPPING = {
    "like": ("admiration", "love"),
    "curious": ("curiosity", "confusion", "desire"),
    "happy": ("joy", "amusement", "excitement", "optimism", "pride", "relief"),
    "grateful": ("gratitude",),
    "negative": (
        "anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief",
        "nervousness", "remorse", "sadness",
    ),
    "neutral": ("neutral",),
    "nostalgia": (),
    "agreement": ("approval",),
    "surprise": ("surprise", "realization"),
}  # fmt: skip
# Care for somebody else is none of the nine. A comment that is only caring is left out.
UNMAPPED = ("caring",)
# How much a comment counts for nostalgia, and a sentence that was written for it: about 3 in 100 weigh for it then,
# as many as the ECR paper found nostalgic in ReDial.
COMMENT_WEIGHT, WRITTEN_WEIGHT = 0.1, 1.5
NOSTALGIA = EMOTIONS.index("nostalgia")
NOSTALGIC = re.compile(
    r"\b(nostalgi\w*|(my|our) childhood|good old(en)? days|takes? (me|us) (right |straight )?back|"
    r"(fond|sweet|happy|great|good) memories)\b",
    re.IGNORECASE,
)
_OF = {LABELS.index(label): EMOTIONS.index(emotion) for emotion, of in MAPPING.items() for label in of}


@dataclass(frozen=True)
class Example:
    """A text, for each of the nine emotions whether it is there, and how much that counts; 0 where nobody knows."""

    text: str
    emotions: tuple[bool, ...]
    weights: tuple[float, ...]


def path(split: str) -> Path:
    """GoEmotions' file of `train`, `dev` or `test` below ECR_DATA_DIR.

    Raises:
        InputError: it is not there.
    """
    folder = os.environ.get("ECR_DATA_DIR")
    if not folder:
        raise InputError("goemotions needs ECR_DATA_DIR, the directory that holds emotion/ with GoEmotions' .tsv files")
    file = Path(folder) / "emotion" / f"{split}.tsv"
    if not file.is_file():
        raise InputError(f"there is no {file}")
    return file


def read(file: Path) -> list[Example]:
    """The comments of a file (text, label numbers with commas, id; tabs between) that have one of the nine emotions.

    Raises:
        InputError: a line is not of this form, by file, line and field.
    """
    found = []
    # Not splitlines(): a comment may hold other characters that end lines.
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        where = f"{file}, line {number}"
        if len(fields) < 2:
            raise InputError(f"{where}: there are {len(fields)} fields, not text, labels and id with tabs between")
        if not fields[0].strip():
            raise InputError(f"{where}, text: it is empty")
        emotions = {_OF[label] for label in _labels(fields[1], where) if label in _OF}
        if emotions:
            if NOSTALGIC.search(fields[0]):
                emotions.add(NOSTALGIA)
            row = tuple(n in emotions for n in range(len(EMOTIONS)))
            weights = tuple(COMMENT_WEIGHT if n == NOSTALGIA else 1.0 for n in range(len(EMOTIONS)))
            found.append(Example(fields[0], row, weights))
    if not found:
        raise InputError(f"{file} holds not one comment with one of the nine emotions")
    return found


def _labels(field: str, where: str) -> Iterator[int]:
    for label in field.split(","):
        if not label.isdigit() or int(label) >= len(LABELS):
            raise InputError(f"{where}, labels: {label!r} is not a number from 0 to {len(LABELS) - 1}")
        yield int(label)


def written() -> list[Example]:
    """The project's own sentences: nostalgic ones, and others about the past. Nothing else of them is known."""
    weights = tuple(WRITTEN_WEIGHT if n == NOSTALGIA else 0.0 for n in range(len(EMOTIONS)))
    found = []
    for name, nostalgic in (("nostalgia.txt", True), ("past.txt", False)):
        lines = (resources.files("ecr_ray.emotion") / name).read_text(encoding="utf-8").splitlines()
        row = tuple(nostalgic and n == NOSTALGIA for n in range(len(EMOTIONS)))
        found += [Example(line, row, weights) for line in lines]
    return found
