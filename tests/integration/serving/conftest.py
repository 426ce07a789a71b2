"""One endpoint for all tests of serving: the real job, in the session's Ray cluster, with the bundled models."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ecr_ray.cluster import ports
from ecr_ray.models import tiny
from ecr_ray.serving import keys
from tests.conftest import ROOT

START_S = 240


@dataclass
class Endpoint:
    """Where it is, and what opens it."""

    url: str
    output: Path
    key: str
    admin: str

    def client(self, key=None, **settings):
        """An HTTP client with a key."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60, **settings)

    def ask(self, *said, key=None, **fields):
        """POST /v1/recommend; the answer must be 200."""
        roles = ("user", "assistant")
        last = len(said) - 1
        messages = [{"role": roles[(last - n) % 2], "content": text} for n, text in enumerate(said)]
        with self.client(key) as client:
            found = client.post("/v1/recommend", json={"messages": messages, **fields})
        assert found.status_code == 200, found.text
        return found.json()

    def adapters(self):
        """Versions by id, and the whole state."""
        with self.client() as client:
            state = client.get("/v1/adapters").json()
        return {version["id"]: version for version in state["versions"]}, state

    def drop(self, name, change=None):
        """Put an adapter into the directory, as somebody who has trained one would."""
        folder = self.output / "adapters" / name
        shutil.copytree(tiny.HERE / "ecr-tiny-ppo", folder)
        if change:
            change(folder)
        return folder


def wait_for(what, found, seconds=60):
    """Until `found()` is true, and give it."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.25)
    return value


@contextmanager
def running(output, *more):
    """An endpoint; ended as a user would end it, which must go well."""
    (port,) = ports.find_free(1)
    made = [keys.make(name, admin=name == "admin") for name in ("user", "admin")]
    keys.write(output / "keys.json", [key for _, key in made])
    words = ["--port", port, "--output", output, "--canary-share", 0.5, "--canary-answers", 8]
    words += ["--waiting", 100, *more]
    words += ["--requests-per-minute", 100_000, "--requests-at-once", 2000, "--body-timeout-s", 2]
    log = output / "log.txt"
    with log.open("w") as out:
        job = subprocess.Popen(
            [sys.executable, "jobs/serve.py", *map(str, words)],
            cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ},
        )  # fmt: skip
    deadline = time.monotonic() + START_S
    while "ready: " not in log.read_text():
        assert job.poll() is None, log.read_text()[-5000:]
        assert time.monotonic() < deadline, f"not ready in {START_S} s\n{log.read_text()[-5000:]}"
        time.sleep(0.5)
    yield Endpoint(f"http://127.0.0.1:{port}", output, made[0][0], made[1][0])
    job.send_signal(signal.SIGTERM)
    assert job.wait(90) == 0, log.read_text()[-5000:]


@pytest.fixture(scope="package")
def endpoint(cluster, tmp_path_factory):
    """As it starts by itself, but for the recommender, of which there may be two."""
    with running(tmp_path_factory.mktemp("serve"), "--recommender-replicas", 1, 2) as found:
        yield found


def events(response):
    """Server-sent events of a response that is being read: (name, data)."""
    name = None
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
