"""Dialogues in, a directory of dialogues and turns out; what cannot be used is set aside with its reason."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from ecr_ray import storage
from ecr_ray.config import PrepareConfig
from ecr_ray.data import reading, redial
from ecr_ray.records import DIALOGUE, TURN, RunRecord, read_run

# Rows a file. Turns come in the order of their dialogues and a file is the unit that Ray Data hands out, so
# consecutive turns stay together; small enough for several engines to share a small data set.
TURNS_PER_FILE = 512
DIALOGUES_PER_FILE = 1024


@dataclass(frozen=True)
class Prepared:
    """How many rows came out of an input, and what was refused."""

    dialogues: int
    turns: int
    quarantined: int
    reasons: dict[str, int]
    inputs: list[dict[str, Any]]

    def summary(self) -> str:
        """The last line of output."""
        return f"{self.dialogues:,} dialogues, {self.turns:,} turns, {self.quarantined:,} lines in quarantine"


def prepare(config: PrepareConfig) -> Prepared:
    """Run the stage and write its artifact.

    Raises:
        InputError: there is no input, or the output directory holds something else.
    """
    started = time.perf_counter()
    claim_output(config.output, "prepare", config.overwrite)
    storage.write_bytes(storage.join(config.output, ".stage-prepare"), b"")
    prepared = write_tables(
        config.input,
        config.output,
        limit=config.limit,
        max_message_chars=config.max_message_chars,
        number_rows=config.number_rows,
    )
    RunRecord(
        stage="prepare",
        config=asdict(config),
        inputs=prepared.inputs,
        rows={"dialogues": prepared.dialogues, "turns": prepared.turns, "quarantined": prepared.quarantined},
        failures=prepared.reasons,
        timings={"total": time.perf_counter() - started},
    ).write(config.output)
    return prepared


def claim_output(output: str, stage: str, overwrite: bool) -> None:
    """Make sure that `output` is free for a stage, or was that stage's before and may be replaced.

    Raises:
        InputError: it holds files of somebody else, or a finished artifact and `overwrite` is not set.
    """
    if not storage.exists(output):
        return
    run = read_run(output)
    if run is None:
        if storage.list_files(output) and not storage.exists(storage.join(output, ".stage-" + stage)):
            raise reading.InputError(f"{output} exists and is not an artifact of this stage: choose another --output")
    elif run["stage"] != stage or not overwrite:
        raise reading.InputError(
            f"{output} holds a finished run of {run['stage']}: choose another --output or --overwrite"
        )
    storage.remove(output)


def write_tables(
    location: str, output: str, *, limit: int | None, max_message_chars: int, number_rows: bool
) -> Prepared:
    """Read `location` and write `dialogues/`, `turns/` and `quarantine.jsonl` below `output`."""
    source = reading.find(location)
    dialogues = PartWriter(storage.join(output, "dialogues"), DIALOGUE, DIALOGUES_PER_FILE)
    turns = PartWriter(storage.join(output, "turns"), TURN, TURNS_PER_FILE)
    reasons: Counter[str] = Counter()
    rows = reading.read(source, max_message_chars=max_message_chars, number_rows=number_rows)
    with Quarantine(storage.join(output, "quarantine.jsonl")) as quarantine:
        for row in rows:
            if isinstance(row, reading.Rejected):
                quarantine.add(row)
                reasons[reason_class(row)] += 1
                continue
            for turn in _turns(row, dialogues):
                if limit is None or turns.rows < limit:
                    turns.add(turn)
            if limit is not None and turns.rows >= limit:
                break
    dialogues.close()
    turns.close()
    return Prepared(
        dialogues.rows, turns.rows, quarantine.rows, dict(reasons), [storage.digest(f) for f in source.files]
    )


def _turns(row: reading.Row, dialogues: "PartWriter") -> Iterator[dict[str, Any]]:
    if row.kind == "turn":
        yield row.value
        return
    dialogues.add(row.value)
    yield from redial.to_turns(row.value)


def reason_class(rejected: reading.Rejected) -> str:
    """A reason without the values that make each line's own, so that reasons can be counted."""
    field = "".join("N" if c.isdigit() else c for c in rejected.field)
    for known in (
        "duplicate",
        "UTF-8",
        "not valid JSON",
        "characters; a message may have",
        "missing",
        "empty text",
    ):
        if known in rejected.reason:
            return f"{field}: {known}"
    return f"{field}: {rejected.reason.split(' but ')[0]}"


class PartWriter:
    """Collects rows and writes them as numbered Parquet files of a fixed size; memory stays flat."""

    def __init__(self, directory: str, schema: pa.Schema, rows_per_file: int) -> None:
        self.directory, self.schema, self.rows_per_file = directory, schema, rows_per_file
        self.rows, self._files = 0, 0
        self._buffer: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) >= self.rows_per_file:
            self.close()

    def close(self) -> None:
        if not self._buffer:
            return
        table = pa.Table.from_pylist(self._buffer, schema=self.schema)
        storage.write_parquet(storage.join(self.directory, f"part-{self._files:05d}.parquet"), table)
        self._files += 1
        self._buffer = []


class Quarantine:
    """The file of refused lines; it appears only where a line is refused."""

    def __init__(self, location: str) -> None:
        self.location, self.rows = location, 0
        self._opened: AbstractContextManager[BinaryIO] = nullcontext()
        self._stream: BinaryIO | None = None

    def add(self, rejected: reading.Rejected) -> None:
        if self._stream is None:
            self._opened = storage.open_atomic(self.location)
            self._stream = self._opened.__enter__()
        self._stream.write(rejected.as_json())
        self.rows += 1

    def __enter__(self) -> "Quarantine":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._stream is not None:
            self._opened.__exit__(*error)
