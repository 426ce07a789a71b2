"""The jobs as a user starts them, from the repository's root."""

import os
import subprocess
import sys
import time

import psutil

from tests.conftest import ROOT


def job(name, *arguments, submit=False):
    """Start `python jobs/NAME.py`; with `submit` by `ray job submit`."""
    ray = [os.path.join(os.path.dirname(sys.executable), "ray"), "job", "submit", "--"] if submit else []
    words = [*ray, sys.executable, f"jobs/{name}.py", *map(str, arguments)]
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process, code=0, seconds=600):
    """Wait for a job's end; what it printed. Where it was to fail, with its standard error.

    3 is an end without some rows, no failure.
    """
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, f"exit {process.returncode}\n{out[-5000:]}\n{err[-5000:]}"
    return out if code in (0, 3) else out + err


def until(condition, process, seconds=300):
    """Until the condition holds, while the job runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def processes(name):
    """Processes with this in their command line."""
    return [p for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])]
