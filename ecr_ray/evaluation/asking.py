"""What every system is asked: turns of dialogues, of as many dialogues as there are, with what people answered."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import storage
from ecr_ray.config import EvaluateConfig
from ecr_ray.data import reading, redial
from ecr_ray.data.reading import InputError

_MESSAGE = pa.struct([("role", pa.string()), ("text", pa.string())])
PROMPTS = pa.schema(
    [
        ("turn_id", pa.string()),
        ("dialogue_id", pa.string()),
        ("context", pa.list_(_MESSAGE)),
        ("response", pa.string()),
        ("target_movie_ids", pa.list_(pa.string())),
        ("target_liked", pa.list_(pa.int8())),
    ]
)


@dataclass(frozen=True)
class Prompts:
    """The prompts, and what was not taken."""

    rows: list[dict[str, Any]]
    left_out: dict[str, int]
    quarantined: int

    @property
    def groups(self) -> np.ndarray:
        """The dialogue of every prompt, (N,)."""
        return np.array([row["dialogue_id"] for row in self.rows])


def choose(settings: EvaluateConfig) -> Prompts:
    """The prompts of an evaluation; the same for the same input and seed.

    Raises:
        InputError: not one turn can be a prompt.
    """
    left_out: Counter[str] = Counter()
    rejected = 0
    turns: list[dict[str, Any]] = []
    source = reading.find(settings.input)
    for row in reading.read(source, max_message_chars=settings.max_message_chars, number_rows=False):
        if isinstance(row, reading.Rejected):
            rejected += 1
            continue
        for turn in _turns(row):
            reason = _unfit(turn, settings.split)
            if reason:
                left_out[reason] += 1
            else:
                turns.append(turn)
    if not turns:
        raise InputError(
            f"{settings.input} has no turn to ask with --split {settings.split} (left out: {dict(left_out) or 'none'}, "
            f"in quarantine: {rejected} lines)"
        )
    picked = spread([turn["dialogue_id"] for turn in turns], settings.prompts, settings.seed)
    return Prompts([_row(turns[n]) for n in picked], dict(left_out), rejected)


def _turns(row: reading.Row) -> Iterator[Mapping[str, Any]]:
    return redial.to_turns(row.value) if row.kind == "dialogue" else iter([row.value])


def _unfit(turn: Mapping[str, Any], split: str) -> str:
    if split != "all" and turn["split"] != split:
        return "of another split"
    if not any(message["role"] == "seeker" for message in turn["context"]):
        return "the seeker has not said anything yet"
    return ""


def _row(turn: Mapping[str, Any]) -> dict[str, Any]:
    context = [{"role": message["role"], "text": message["text"]} for message in turn["context"]]
    return {name: turn[name] for name in PROMPTS.names} | {"context": context}


def spread(dialogues: list[str], count: int, seed: int) -> list[int]:
    """Numbers of so many rows: the first of every dialogue's in a drawn order, then the second ones; in file order."""
    order = np.random.default_rng(seed).permutation(len(dialogues))
    seen: Counter[str] = Counter()
    keyed = []
    for place, n in enumerate(order):
        keyed.append((seen[dialogues[n]], place, int(n)))
        seen[dialogues[n]] += 1
    return sorted(n for _, _, n in sorted(keyed)[:count])


def write(prompts: Prompts, path: Path) -> None:
    """As Parquet, and beside it what was left out."""
    storage.write_parquet(path, pa.Table.from_pylist(prompts.rows, schema=PROMPTS))
    storage.write_json(path.with_suffix(".json"), {"left_out": prompts.left_out, "quarantined": prompts.quarantined})


def read(path: Path) -> Prompts:
    """What `write` wrote."""
    note = storage.read_json(path.with_suffix(".json"))
    return Prompts(storage.read_parquet(path).to_pylist(), note["left_out"], note["quarantined"])
