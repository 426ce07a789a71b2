"""The embedded sample: dialogues and films in ReDial's format, written for this project.

No line of it is anybody's data. README.md beside the files says what it is and which quirks of the released
corpus were built in on purpose.
"""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

_FOLDER = resources.files("ecr_ray.data") / "sample"


def dialogues_path() -> Path:
    """The dialogues, one JSON object a line."""
    return Path(str(_FOLDER / "dialogues.jsonl"))


def movies() -> dict[str, dict[str, Any]]:
    """movie id → `{name, year, genre[], director[], star[]}`."""
    return json.loads((_FOLDER / "movies.json").read_text(encoding="utf-8"))


def texts() -> Iterator[str]:
    """Every message as it reads with names in place of ids, then every film's facts as one line."""
    from ecr_ray.data import redial

    with dialogues_path().open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            for message in redial.parse_dialogue(json.loads(line), split="train")["messages"]:
                yield message["text"]
    for movie in movies().values():
        facts = ", ".join([*movie["genre"], *movie["director"], *movie["star"]])
        yield f"{movie['name']} ({movie['year']}): {facts}"
