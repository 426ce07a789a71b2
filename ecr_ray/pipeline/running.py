"""One job as a process: its output on the screen and in a log, signals passed on to it, its exit code."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ecr_ray.cli import EXIT_STOPPED
from ecr_ray.pipeline import child

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_CHUNK = 1 << 16
_LAST_WORDS_S = 5.0


class Relay:
    """While it is entered, signals to this process go to the job that runs; what came is `received`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._job: subprocess.Popen | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Relay":
        self._before = {number: signal.signal(number, self._take) for number in PASSED_ON}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self, job: subprocess.Popen) -> None:
        """Pass signals on to this one, and one that came while it was started."""
        self._job = job
        if self.received is not None:
            self._pass_on(self.received)

    def stopped(self) -> int | None:
        """The exit code of who was told to end before everything was done; None: nobody was."""
        if self.received is None:
            return None
        return EXIT_STOPPED if self.received == signal.SIGUSR1 else 128 + self.received

    def _take(self, number: int, frame: Any) -> None:
        self.received = number
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._job is not None and self._job.poll() is None:
            self._job.send_signal(number)


def run(command: Sequence[str], log: Path, env: Mapping[str, str], relay: Relay) -> int:
    """Run a job to its end; its exit code, as a shell would give it.

    The job is in a session of its own, so that Ctrl-C reaches it once, from here.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, child.__file__, str(os.getpid()), *command]
    with log.open("ab") as kept:
        kept.write(f"$ {' '.join(command)}\n".encode())
        job = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            start_new_session=True,
        )
        relay.watch(job)
        pumps = [_pump(job.stdout, sys.stdout, kept), _pump(job.stderr, sys.stderr, kept)]
        code = job.wait()
        for pump in pumps:
            # Something that the job has left behind may hold its end open.
            pump.join(_LAST_WORDS_S)
    return _exit_code(code)


def _pump(source: BinaryIO | None, screen: Any, kept: BinaryIO) -> threading.Thread:
    """Copy all that comes to the screen and into the log."""
    assert source is not None  # it was asked for
    shown = getattr(screen, "buffer", None)

    def copy() -> None:
        nonlocal shown
        while chunk := os.read(source.fileno(), _CHUNK):
            kept.write(chunk)
            kept.flush()
            if shown is None:
                continue
            try:
                shown.write(chunk)
                shown.flush()
            except OSError:
                # Whoever looked on has gone; the log has it all.
                shown = None

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _exit_code(code: int) -> int:
    if code == -signal.SIGUSR1:
        # It came before the job was ready for it: nothing was begun.
        return EXIT_STOPPED
    return code if code >= 0 else 128 - code
