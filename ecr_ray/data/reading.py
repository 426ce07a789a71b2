"""From what a user has (files, folders, a released zip, a URI) to rows, with every refused line named."""

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecr_ray import storage
from ecr_ray.data import feedback, redial, sample
from ecr_ray.errors import UserError
from ecr_ray.records import SPLITS

SUFFIXES = (".jsonl", ".parquet", ".zip")
REDIAL_FILES = {"train": ("train_data.jsonl", "train_recovered.jsonl"), "test": ("test_data.jsonl",)}
REDIAL_FILES["valid"] = REDIAL_FILES["train"]


class InputError(UserError):
    """The input as a whole cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """Files to read, the split to keep (None keeps all), and whether the lines are thumbs of a served recommender."""

    files: tuple[str, ...]
    keep: str | None = None
    thumbs: bool = False


@dataclass(frozen=True)
class Rejected:
    """A line that cannot be used. `raw` keeps it whole, bytes that are not UTF-8 as \\x escapes."""

    file: str
    line: int
    field: str
    reason: str
    raw: str

    def as_json(self) -> bytes:
        """One line of a quarantine file."""
        return (json.dumps(asdict(self), ensure_ascii=False) + "\n").encode()

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, {self.field}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """A decoded row: a dialogue record, or a turn record of a file that holds turns."""

    kind: str
    value: dict[str, Any]


def find(location: str, artifact: str = "turns") -> Source:
    """What `--input` names.

    Args:
        location: as a user writes it.
        artifact: what the next stage wants of an artifact of this project, `turns` or `dialogues`.

    Raises:
        InputError: there is nothing to read there.
    """
    if location == "sample":
        return Source((str(sample.dialogues_path()),))
    if location.startswith("redial:"):
        return _redial(location.removeprefix("redial:"))
    if not storage.exists(location):
        raise InputError(f"there is no file or directory {location!r}")
    if not storage.is_dir(location):
        return Source((location,))
    names = storage.list_files(location, (".jsonl",))
    if names and all(fnmatch(PurePosixPath(name).name, feedback.PATTERN) for name in names):
        return Source(tuple(names), thumbs=True)
    parts = storage.list_files(storage.join(location, artifact), (".parquet",))
    files = parts or [f for f in storage.list_files(location, SUFFIXES) if not f.endswith("quarantine.jsonl")]
    if not files:
        raise InputError(f"the directory {location!r} holds no {', '.join(SUFFIXES)} file")
    return Source(tuple(files))


def read(source: Source, *, max_message_chars: int, number_rows: bool) -> Iterator[Row | Rejected]:
    """All rows of a source in order, each parsed or rejected; an id that came before is rejected too."""
    first_seen: dict[tuple[str, str], str] = {}
    for lines in [_collected(source.files)] if source.thumbs else map(_decoded, source.files):
        for where, line, raw, value in lines:
            if isinstance(value, Rejected):
                yield value
                continue
            try:
                row = _parse(value, where, line, max_message_chars, number_rows)
                key = (row.kind, row.value["turn_id" if row.kind == "turn" else "dialogue_id"])
                if key in first_seen:
                    field = "turn_id" if row.kind == "turn" else "conversationId"
                    raise redial.RowError(field, f"{key[1]!r} is a duplicate of {first_seen[key]}")
            except redial.RowError as error:
                yield Rejected(where, line, error.field, error.reason, raw or json.dumps(value, default=str))
                continue
            first_seen[key] = f"{PurePosixPath(where).name}, line {line}"
            if source.keep is None or row.value["split"] == source.keep:
                yield row


def _parse(value: Any, where: str, line: int, max_chars: int, number_rows: bool) -> Row:
    if not isinstance(value, Mapping):
        raise redial.RowError("(line)", "not a JSON object")
    split = next((s for s in SPLITS if s in PurePosixPath(where).name), "train")
    if "messages" in value:
        own = any(isinstance(m, Mapping) and "role" in m for m in value["messages"] or [])
        parse = redial.parse_record if own else redial.parse_dialogue
        return Row("dialogue", parse(value, split=split, max_message_chars=max_chars))
    if "context" in value or "response" in value or "resp" in value:
        row_id = f"{PurePosixPath(where).stem}-{line}" if number_rows else ""
        return Row("turn", redial.parse_turn(value, split=split, max_message_chars=max_chars, row_id=row_id))
    raise redial.RowError("(line)", "has neither 'messages' (a dialogue) nor 'context' and 'response' (a turn)")


def _collected(files: tuple[str, ...]) -> Iterator[tuple[str, int, str, Any]]:
    """What is wrong among thumbs, then the dialogues that they are about; a dialogue's line is its number."""
    thumbs = []
    for where, line, raw, value in (row for file in files for row in _decoded(file)):
        if isinstance(value, Rejected):
            yield where, line, raw, value
        elif not feedback.is_thumb(value):
            yield where, line, raw, Rejected(where, line, "(line)", "not a thumb: it lacks a field", raw)
        else:
            thumbs.append(value)
    for number, dialogue in enumerate(feedback.collect(thumbs), start=1):
        yield files[0], number, "", dialogue


def _decoded(file: str) -> Iterator[tuple[str, int, str, Any]]:
    """(file, line number, raw text, value or Rejected) of every non-blank line of a file."""
    if file.endswith(".parquet"):
        yield from _parquet_rows(file)
        return
    for name, stream in _open_lines(file):
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            raw = line.decode("utf-8", errors="backslashreplace").rstrip("\r\n")
            try:
                yield name, number, raw, json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                reason = f"byte {error.start + 1} is not valid UTF-8"
                yield name, number, raw, Rejected(name, number, "(line)", reason, raw)
            except (json.JSONDecodeError, RecursionError) as error:
                what = (
                    f"{error.msg} at character {error.pos + 1}"
                    if isinstance(error, json.JSONDecodeError)
                    else "nested too deep"
                )
                yield name, number, raw, Rejected(name, number, "(line)", f"not valid JSON: {what}", raw)


def _parquet_rows(file: str) -> Iterator[tuple[str, int, str, Any]]:
    number = 0
    try:
        with storage.open_read(file) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield file, number, "", row
    except pa.ArrowInvalid as error:
        raise InputError(f"{file} is not a readable Parquet file: {error}") from error


def _open_lines(file: str) -> Iterator[tuple[str, Any]]:
    """The line streams in a file: itself, or the .jsonl members of a zip."""
    if not file.endswith(".zip"):
        with storage.open_read(file) as stream:
            yield file, io.BufferedReader(_Raw(stream), 1 << 20)
        return
    try:
        with storage.open_read(file) as stream, zipfile.ZipFile(stream) as archive:
            members = sorted(n for n in archive.namelist() if n.endswith(".jsonl") and "__MACOSX" not in n)
            if not members:
                raise InputError(f"{file} holds no .jsonl file")
            for member in members:
                with archive.open(member) as lines:
                    yield f"{file}/{member}", lines
    except (zipfile.BadZipFile, pa.ArrowInvalid) as error:
        raise InputError(f"{file} is not a readable zip file: {error}") from error


class _Raw(io.RawIOBase):
    """A pyarrow stream as a raw stream, so that Python's buffered reader splits it into lines."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _redial(split: str) -> Source:
    if split not in REDIAL_FILES:
        raise InputError(f"redial:{split}: the splits are {', '.join(REDIAL_FILES)}")
    folder = os.environ.get("ECR_DATA_DIR")
    if not folder:
        raise InputError("redial:... needs ECR_DATA_DIR, the directory that holds redial/ with ReDial's .jsonl files")
    for name in REDIAL_FILES[split]:
        path = Path(folder) / "redial" / name
        if path.is_file():
            return Source((str(path),), keep=split)
    raise InputError(f"{Path(folder) / 'redial'} holds none of {', '.join(REDIAL_FILES[split])}")
