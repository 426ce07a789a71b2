"""How a judge learns from people: the judges' own prompt, answered with the digits that people's ratings amount to.

People rated satisfaction (USS) and relevance, interestingness and overall (ABA-ReDial); the rubric `ecr-ma` asks for
four other things. What each aspect is learnt from stands in LABELS, and that it is only a proxy is said in the model's
card and in every run record of the judge.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from ecr_ray import prompts
from ecr_ray.data import ratings
from ecr_ray.data.ratings import Rated, scaled
from ecr_ray.data.splits import held_out
from ecr_ray.policy.tokens import Example

RUBRIC = prompts.RUBRICS["ecr-ma"]
# Aspect → (what it is learnt from, whether that is a proxy).
LABELS = {
    "empathy": ("satisfaction with the turn (USS; ABA-ReDial: overall)", True),
    "informativeness": ("films, people and genres that the response names, by a rule", True),
    "recommendation": ("relevance (ABA-ReDial); elsewhere satisfaction where a film is named, else 0", True),
    "engagement": ("interestingness (ABA-ReDial); elsewhere satisfaction", True),
}
_TITLE = re.compile(r"[\w'&:,.\-! ]{1,60}\(\d{4}\)")
_GENRE = re.compile(
    r"\b(action|adventure|animat\w+|comed\w+|crime|documentar\w+|drama\w*|famil\w+|fantasy|horror|music\w*|"
    r"myster\w+|roman\w+|sci-?fi|thriller\w*|war|western\w*)\b",
    re.IGNORECASE,
)
_PERSON = re.compile(r"\b[A-Z][a-z]+ (?:[A-Z]\. )?[A-Z][a-z]+\b")
_ENOUGH = 4


def part(rated: Iterable[Rated], which: Literal["all", "first-half", "second-half"]) -> Iterator[Rated]:
    """The turns of all rated dialogues, or of one of two halves that have no dialogue in common."""
    for turn in rated:
        second = held_out(f"half|{turn.dialogue_id}", 0.5)
        if which == "all" or second == (which == "second-half"):
            yield turn


def examples(rated: Iterable[Rated], seed: int, valid_share: float) -> Iterator[Example]:
    """Every person's view of every rated turn as a conversation with a judge, but for the dialogues to measure on.

    A view on one aspect becomes one digit; 1 to 5 falls between the digits, and which of the two it becomes is drawn
    so that the mean is right (`expectation over the digits` is what scoring reads).
    """
    for turn in rated:
        if ratings.is_held_out(turn.dialogue_id):
            continue
        question = prompts.judge_question(turn.context, turn.response)
        asked = prompts.judge_messages(RUBRIC, question)
        split = "valid" if held_out(turn.dialogue_id, valid_share) else "train"
        for number, view in enumerate(views(turn)):
            rng = random.Random(hashlib.sha256(f"{seed}|{turn.dialogue_id}|{turn.index}|{number}".encode()).digest())
            digits = "".join(digit(view[aspect], rng) for aspect in RUBRIC.aspects)
            answer = {"role": "assistant", "content": digits}
            yield Example(f"{turn.dialogue_id}:{turn.index}/{number}", split, (*asked, answer))


def views(turn: Rated) -> list[dict[str, float]]:
    """What each of its raters says on every aspect, 0 to 1."""
    # Both are of the turn as a whole, on the same scale.
    satisfied = turn.ratings.get("satisfaction") or turn.ratings.get("overall") or []
    relevance, interest = turn.ratings.get("relevance", []), turn.ratings.get("interestingness", [])
    named = bool(_TITLE.search(turn.response))
    found = []
    for said, relevant, interesting in zip_longest(satisfied, relevance, interest):
        if said is None:
            continue
        about = scaled("satisfaction", said)
        found.append(
            {
                "empathy": about,
                "informativeness": information(turn.response),
                "recommendation": scaled("relevance", relevant) if relevant is not None else about * named,
                "engagement": scaled("interestingness", interesting) if interesting is not None else about,
            }
        )
    return found


def information(response: str) -> float:
    """How many films, people and genres a response names, four or more being 1."""
    titles = _TITLE.findall(response)
    rest = _TITLE.sub(" ", response)
    genres = {genre.lower() for genre in _GENRE.findall(rest)}
    return min(1.0, (len(titles) + len(genres) + len(set(_PERSON.findall(rest)))) / _ENOUGH)


def digit(value: float, rng: random.Random) -> str:
    """0 to 1 → a digit whose expectation is nine times the value."""
    whole, part = divmod(value * 9, 1)
    return str(int(whole) + (rng.random() < part))


def write_marker(model: Path) -> None:
    """Say in a judge's directory what its aspects are learnt from."""
    aspects = {name: {"learnt_from": text, "proxy": proxy} for name, (text, proxy) in LABELS.items()}
    (model / "ecr_ray.json").write_text(
        json.dumps({"untrained": False, "judge": {RUBRIC.name: aspects}}, indent=2) + "\n"
    )
