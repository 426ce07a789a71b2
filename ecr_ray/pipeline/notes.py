"""What the pipeline writes down of every stage, below .pipeline/ of its output, and what it finds there again.

Before a stage starts: the results that it reads, each by the digest of its run.json. A stage's own fingerprint knows
its settings and the files that it learns from, but not all of what others made: this does. After its end: every file
of its result, how it ended and how long it took.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ecr_ray import storage
from ecr_ray.config import PipelineConfig
from ecr_ray.errors import UserError
from ecr_ray.pipeline import stages
from ecr_ray.pipeline.plan import Found
from ecr_ray.pipeline.stages import Stage

DIRECTORY = ".pipeline"
FORCED = "forced.json"
RECORD = "run.json"


@dataclass(frozen=True)
class Note:
    """Of one stage."""

    reads: Mapping[str, str]
    """Stage → digest of its run.json."""
    settings: Mapping[str, Any]
    """With which it was begun."""
    seconds: float = 0.0
    """Of all starts of which the pipeline saw the end."""
    exit_code: int | None = None
    """None: its end was not seen yet."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """File below the stage's directory → bytes, time of change, sha256."""


def read(settings: PipelineConfig, stage: str) -> Note | None:
    """What was written down of a stage."""
    path = _path(settings, stage)
    return Note(**json.loads(path.read_text())) if path.is_file() else None


def write(settings: PipelineConfig, stage: str, note: Note) -> None:
    """Write it down."""
    storage.write_json(_path(settings, stage), asdict(note))


def forced(settings: PipelineConfig) -> tuple[str, ...]:
    """The forced stages that are still to begin: a command that is repeated after a crash does not force them twice."""
    path = Path(settings.output, DIRECTORY, FORCED)
    known = storage.read_json(path) if path.is_file() else {}
    begun = known["begun"] if known.get("asked") == list(settings.force) else []
    return tuple(name for name in settings.force if name not in begun)


def write_forced(settings: PipelineConfig, begun: Sequence[str]) -> None:
    """Note which of the forced stages have begun."""
    content = {"asked": list(settings.force), "begun": list(begun)}
    storage.write_json(Path(settings.output, DIRECTORY, FORCED), content)


def forget_forced(settings: PipelineConfig) -> None:
    """The command has come to its end; the next one with the same words forces its stages again."""
    Path(settings.output, DIRECTORY, FORCED).unlink(missing_ok=True)


def look(settings: PipelineConfig, chosen: Sequence[str]) -> dict[str, Found]:
    """What lies in every stage's directory; of those chosen also whether it is of their settings."""
    found: dict[str, Found] = {}
    for stage in stages.STAGES:
        own = _look(settings, stage)
        if stage.name in chosen and own.state == "unfinished":
            own = replace(own, other=_changed(settings, stage))
        # Its input can be read only where that is whole.
        if stage.name in chosen and own.state == "complete" and all(found[r].state == "complete" for r in stage.reads):
            own = replace(own, other=_other(settings, stage))
        found[stage.name] = own
    return found


def record_of(settings: PipelineConfig, stage: str) -> str:
    """The digest of a stage's run.json."""
    return storage.digest(stages.place(settings, stage, RECORD))["sha256"]


def files_of(directory: Path) -> dict[str, dict[str, Any]]:
    """Every file of a result."""
    found = {}
    for file in map(Path, storage.list_files(directory)):
        kept, status = storage.digest(file), file.stat()
        found[str(file.relative_to(directory))] = {
            "bytes": status.st_size, "changed_ns": status.st_mtime_ns, "sha256": kept["sha256"],
        }  # fmt: skip
    return found


def _path(settings: PipelineConfig, stage: str) -> Path:
    return Path(settings.output, DIRECTORY, f"{stage}.json")


def _look(settings: PipelineConfig, stage: Stage) -> Found:
    directory, note = Path(stages.place(settings, stage.name)), read(settings, stage.name)
    if not directory.exists() or (directory.is_dir() and not os.listdir(directory)):
        return Found()
    if note is None or not directory.is_dir():
        return Found("foreign", f"{directory} was not made by this pipeline")
    if not (directory / RECORD).is_file():
        # Of a result that was whole, run.json has been taken away.
        state = "damaged" if note.files else "unfinished"
        return Found(state, f"{RECORD} is missing", reads=note.reads)
    why = _damage(directory, note, stage.name)
    if why:
        return Found("damaged", why, reads=note.reads)
    return Found("complete", "", record_of(settings, stage.name), note.reads, note.exit_code is not None)


def _damage(directory: Path, note: Note, stage: str) -> str:
    """What has happened to a result since its stage's end."""
    try:
        run = json.loads((directory / RECORD).read_bytes())
    except ValueError:
        return f"{RECORD} is damaged"
    if not isinstance(run, dict) or run.get("stage") != stage:
        return f"{RECORD} is of another stage"
    for name, kept in note.files.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        status = file.stat()
        if (status.st_size, status.st_mtime_ns) != (kept["bytes"], kept["changed_ns"]) and (
            status.st_size != kept["bytes"] or storage.digest(file)["sha256"] != kept["sha256"]
        ):
            return f"{name} has changed"
    return ""


def _changed(settings: PipelineConfig, stage: Stage) -> str:
    """What is different of an unfinished stage's settings; whether it can go on with that, it knows itself."""
    note = read(settings, stage.name)
    changed = stages.changes(note.settings, stages.load(settings, stage)) if note else ""
    return f"other settings ({changed})" if changed else ""


def _other(settings: PipelineConfig, stage: Stage) -> str:
    """That a result is of other settings or another input than its stage would have now; empty: it is not."""
    own = stages.load(settings, stage)
    try:
        stage.finished(own)
    except UserError:
        run = storage.read_json(stages.place(settings, stage.name, RECORD))
        changed = stages.changes(run["config"], own)
        return f"other settings ({changed})" if changed else "another input"
    return ""
