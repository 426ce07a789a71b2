"""What people said of ReDial's responses: USS (Sun et al., SIGIR 2021) and ABA-ReDial (Siro et al., SIGIR 2022).

USS: after every recommender turn three or four people rate how satisfied the seeker is, 1 to 5. ABA-ReDial: of up to
three turns a dialogue, relevance, interestingness and overall, by three or more people. Its release does not say the
scales; SCALES has what its values span.
"""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecr_ray.data.reading import InputError
from ecr_ray.data.redial import clean_name, merge_speakers
from ecr_ray.data.splits import held_out

ASPECTS = ("satisfaction", "relevance", "interestingness", "overall")
# Aspect → lowest and highest value.
SCALES = {"satisfaction": (1, 5), "relevance": (0, 4), "interestingness": (1, 3), "overall": (1, 5)}
_QUOTED_TITLE = re.compile(r'"([^"]{1,90}\(\d{4}\))"')
# Of the rated dialogues, the share that nothing is learnt from: judge, critic and reader are measured on it.
HELD_OUT = 0.2
_ROLES = {"USER": "seeker", "SYSTEM": "recommender"}


@dataclass
class Rated:
    """A recommender's turn with people's ratings, by aspect; `dialogue_id` starts with the source's name.

    `reaction` is what the seeker said next, empty where it is not known.
    """

    dialogue_id: str
    index: int
    context: list[dict[str, str]]
    response: str
    ratings: dict[str, list[float]] = field(default_factory=dict)
    reaction: str = ""


def load() -> list[Rated]:
    """All rated turns below ECR_DATA_DIR/human_ratings.

    Raises:
        InputError: they are not there.
    """
    uss, ab, _ = paths()
    return [*read_uss(uss), *read_ab(ab)]


def paths() -> tuple[Path, Path, Path]:
    """USS's file, ABA-ReDial's, and the one that says of which ReDial dialogues they are.

    Raises:
        InputError: one of them is not there.
    """
    folder = Path(os.environ.get("ECR_DATA_DIR") or "", "human_ratings")
    found = (
        folder / "uss_redial" / "ReDial.txt",
        folder / "ab_redial" / "annotated_turns.csv",
        folder / "overlap_with_redial.json",
    )
    for path in found:
        if not path.is_file():
            raise InputError(f"there is no {path}: set ECR_DATA_DIR to the directory that holds human_ratings/")
    return found


def read_uss(path: Path) -> Iterator[Rated]:
    """Every recommender turn that the seeker's next message was rated after; satisfaction, a value a rater."""
    for number, block in enumerate(path.read_text(encoding="utf-8").strip("\n").split("\n\n")):
        lines = [line.split("\t") for line in block.split("\n")]
        messages, waiting = [], None
        for role, text, _, values in (line[:4] for line in lines if len(line) >= 4 and line[1] != "OVERALL"):
            speaker = _ROLES.get(role)
            if speaker is None:
                raise InputError(f"{path}, dialogue {number + 1}: {role!r} is neither USER nor SYSTEM")
            if speaker == "seeker" and waiting is not None and values:
                # The first message after a turn says what it did to the seeker.
                waiting.ratings["satisfaction"] = [float(value) for value in values.split(",")]
                waiting.reaction = _message(speaker, text)["text"]
                yield waiting
            waiting = None
            messages = merge_speakers([*messages, _message(speaker, text)])
            if speaker == "recommender":
                waiting = Rated(f"uss-{number}", len(messages) - 1, messages[:-1], messages[-1]["text"])


def read_ab(path: Path) -> Iterator[Rated]:
    """Every turn with its three aspects; a row of the file is one person's view of up to three turns."""
    found: dict[tuple[str, int], Rated] = {}
    ratings: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            messages: list[dict[str, str]] = []
            for turn in (1, 2, 3):
                said = [row[f"utterance{n}"] for n in range(4 * turn - 4, 4 * turn)]
                if not all(said) or not row[f"overall{turn}"]:
                    break
                # A tab after the speaker, or some other white space.
                parts = [_message(_ROLES[speaker], text) for speaker, text in (line.split(None, 1) for line in said)]
                messages = merge_speakers([*messages, *parts])
                # The last but one is what was judged, the last one what the seeker said to it.
                at = max(n for n, message in enumerate(messages) if message["role"] == "recommender")
                key = (row["ConvId"], turn)
                rated = Rated(f"ab-{row['ConvId']}", at, messages[:at], messages[at]["text"])
                rated.reaction = messages[-1]["text"] if at + 1 < len(messages) else ""
                found.setdefault(key, rated)
                for aspect in ("relevance", "interestingness", "overall"):
                    if row[f"{aspect}{turn}"]:
                        ratings[key][aspect].append(float(row[f"{aspect}{turn}"]))
    for key, rated in found.items():
        rated.ratings = dict(ratings[key])
        yield rated


def is_held_out(dialogue_id: str) -> bool:
    """Whether a dialogue's ratings are kept for measuring, and so neither learnt nor chosen by."""
    return held_out(f"judge|{dialogue_id}", HELD_OUT)


def rated_turns() -> list[Rated]:
    """All rated turns below ECR_DATA_DIR, numbered by ReDial's dialogues."""
    overlap = json.loads(paths()[2].read_text(encoding="utf-8"))
    return list(same_dialogues(load(), overlap))


def same_dialogues(rated: Iterable[Rated], overlap: dict[str, Any]) -> Iterator[Rated]:
    """The same turns, numbered by the ReDial dialogue that they are of: one that both sources have is one dialogue.

    Args:
        overlap: source → its dialogues' ReDial ids, as the ratings' overlap file has them.
    """
    uss, ab = overlap["uss_redial"], overlap["ab_redial"]
    for turn in rated:
        source, _, number = turn.dialogue_id.partition("-")
        known = uss[int(number)] if source == "uss" else ab.get(number)
        if known:
            turn.dialogue_id = known["conversationId"]
        yield turn


def scaled(aspect: str, rating: float) -> float:
    """A rating on its own scale → 0 to 1."""
    low, high = SCALES[aspect]
    return (rating - low) / (high - low)


def _message(role: str, text: str) -> dict:
    # Both write titles in quotation marks; ReDial itself does not.
    return {"role": role, "text": clean_name(_QUOTED_TITLE.sub(r"\1", text)), "movie_ids": [], "emotions": []}
