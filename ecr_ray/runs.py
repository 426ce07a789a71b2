"""What every resumable stage shares: its output directory, and the proof that a run that goes on is the same run.

Below the output directory `.work/` holds what a run has so far, with a fingerprint of everything that decides its
result. `run.json` is written last; a directory that has one is complete.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ecr_ray import storage
from ecr_ray.data.reading import InputError
from ecr_ray.records import read_run

WORK = ".work"
# Less than the SLURM bootstrap gives a job to end.
LAST_CHECKPOINT_S = 45.0


def finished(output: str, stage: str, fingerprint: Callable[[], Any], *, overwrite: bool) -> dict[str, Any] | None:
    """The record of the run that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and `overwrite` is not set.
    """
    if not storage.exists(output):
        return None
    run = read_run(output)
    if run is None:
        if storage.list_files(output) and not (Path(output) / WORK).is_dir():
            raise InputError(f"{output} exists and is not an artifact of this stage: choose another --output")
        return None
    if run["stage"] == stage and overwrite:
        shutil.rmtree(output)
        return None
    if run["stage"] != stage or run["fingerprint"] != fingerprint():
        raise InputError(
            f"{output} holds a finished run of {run['stage']} with other settings or another input: choose "
            "another --output, or replace it with --overwrite"
        )
    return run


def claim(output: str, fingerprint: Any, *, overwrite: bool) -> Path:
    """The work directory, of the same run if there was one.

    Raises:
        InputError: it is of a run with other settings, and `overwrite` is not set.
    """
    work = Path(storage.absolute(output)) / WORK
    note = work / "settings.json"
    if note.is_file() and json.loads(note.read_text()) != fingerprint:
        if not overwrite:
            raise InputError(
                f"{output} holds an unfinished run with other settings or another input: choose another "
                "--output, or start over with --overwrite"
            )
        shutil.rmtree(output)
    work.mkdir(parents=True, exist_ok=True)
    storage.write_json(note, fingerprint)
    return work


def as_json(value: Any) -> Any:
    """The same as JSON gives it back, to be compared with what was stored."""
    return json.loads(json.dumps(value))


def await_change(latest: Callable[[], Any], before: Any) -> None:
    """Time is nearly up: give the workers, which have been told as well, time to write one more checkpoint.

    Args:
        latest: the newest one there is, or None.
        before: what that was when the training began.
    """
    deadline = time.monotonic() + LAST_CHECKPOINT_S
    while time.monotonic() < deadline:
        if latest() not in (None, before):
            return
        time.sleep(0.2)
    print(
        f"no checkpoint came within {LAST_CHECKPOINT_S:.0f} s; the next start goes on from the one before", flush=True
    )
