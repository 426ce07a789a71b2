"""What is set side by side: people, a policy, the best of several of its answers, an endpoint, a file of replies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ecr_ray.config import ConfigError
from ecr_ray.policy import weights

PEOPLE = "human"
_BEST_OF = re.compile(r"best-of-(\d+):(.+)")
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class System:
    """One of them."""

    name: str
    kind: Literal["people", "policy", "endpoint", "file"]
    where: str = ""
    """A policy's directory or name, an endpoint's base address, a file."""
    tries: int = 1
    """Answers of which the critic chooses one."""
    model: str = ""
    """An endpoint's."""


def parse(words: Sequence[str]) -> list[System]:
    """Systems as `--systems` names them.

    Raises:
        ConfigError: a word that is none, or a name twice.
    """
    found = [_one(word) for word in words]
    names = [system.name for system in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"--systems names {twice} twice: give every system a name of its own, NAME=WHAT")
    return found


def _one(word: str) -> System:
    if word == PEOPLE:
        return System(PEOPLE, "people")
    name, equals, what = word.partition("=")
    if not equals or not what or not _NAME.fullmatch(name):
        raise ConfigError(f"--systems {word}: write NAME=WHAT, as in ppo=runs/ppo/model, or {PEOPLE}")
    if what == PEOPLE:
        return System(name, "people")
    if what.startswith(("http://", "https://")):
        base, _, model = what.partition("#")
        if not model:
            raise ConfigError(f"--systems {word}: name the endpoint's model after a #, as in http://host:8000/v1#model")
        return System(name, "endpoint", base.rstrip("/"), model=model)
    if what.endswith((".jsonl", ".parquet")):
        if not Path(what).is_file():
            raise ConfigError(f"--systems {word}: there is no file {what}")
        return System(name, "file", what)
    best = _BEST_OF.fullmatch(what)
    tries, model = (int(best[1]), best[2]) if best else (1, what)
    if tries < 1:
        raise ConfigError(f"--systems {word}: the best of at least one answer")
    weights.base_of(model)
    return System(name, "policy", model, tries)
