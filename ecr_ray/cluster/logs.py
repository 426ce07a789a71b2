"""Logs: the run's name in every record, what to show of a node's files, and keeping them."""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

TAIL_LINES = 12
# A file beyond this is kept by its end.
KEPT_BYTES = 20 * 2**20
_BAD = re.compile(
    r"Traceback \(most recent call last\)|\b(ERROR|CRITICAL|FATAL)\b|[A-Za-z]+(Error|Exception)\b|[EF] \d*:?"
)
# Stack frames of Ray's own processes have no names.
_NOISE = re.compile(r"^\s*$|ray_usage|metrics agent|MetricsAgent|OpenTelemetry|logging\.cc:\d+: .*@")


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a file, none if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def tail_of_ray(temp_dir: Path, log_dir: Path) -> list[str]:
    """The ends of the files that say why a node's Ray has ended, each line led by its file's name."""
    found: list[str] = []
    for path in (
        temp_dir / "ray-start.log",
        log_dir / "gcs_server.out",
        log_dir / "raylet.out",
        log_dir / "raylet.err",
    ):
        found += [f"{path.name}: {line}" for line in tail(path) if line.strip()]
    return found


def useful_lines(log_dir: Path, limit: int = 25) -> list[str]:
    """The last lines of a node's workers' and daemons' logs that speak of something going wrong.

    Of each file the last traceback, or the last few lines with an error in them; the newest files first.
    """
    files = [*log_dir.glob("worker-*.err"), *log_dir.glob("worker-*.out"), *log_dir.glob("raylet.*")]
    files += [*log_dir.glob("job-driver-*.log")]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    found: list[str] = []
    for path in files:
        if len(found) >= limit:
            break
        lines = [line for line in tail(path, 400) if not _NOISE.search(line)]
        picked = _last_traceback(lines) or [line for line in lines if _BAD.search(line)][-3:]
        found += [f"{path.name}: {line}" for line in picked]
    return found[:limit]


def _last_traceback(lines: list[str]) -> list[str]:
    """How the last traceback began and how it ended: its frames are many, and help less."""
    starts = [n for n, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    if not starts:
        return []
    start = starts[-1]
    # The exception is the first line that is not indented.
    end = next((n for n in range(start + 1, len(lines)) if not lines[n].startswith((" ", "\t"))), len(lines) - 1)
    block = lines[start : end + 1]
    return block if len(block) <= 6 else [*block[:1], "  ...", *block[-4:]]


def save(temp_dir: Path, target: Path) -> None:
    """Copy the logs of the node's Ray session into `target`; what is too long is kept by its end."""
    sources = sorted((temp_dir / "session_latest" / "logs").rglob("*"))
    for path in [*sources, temp_dir / "ray-start.log"]:
        if not path.is_file() or not path.stat().st_size:
            continue
        copy = target / (path.relative_to(sources[0].parent) if path in sources else path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.stat().st_size <= KEPT_BYTES:
            shutil.copyfile(path, copy)
        else:
            with path.open("rb") as file, copy.open("wb") as out:
                file.seek(-KEPT_BYTES, 2)
                shutil.copyfileobj(file, out)


def add_run_id() -> None:
    """Give every log record of this process the run's id (`ECR_RUN_ID`), for Ray's JSON format to print."""
    make = logging.getLogRecordFactory()

    def with_run_id(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        record.run_id = os.environ.get("ECR_RUN_ID", "")
        return record

    logging.setLogRecordFactory(with_run_id)
