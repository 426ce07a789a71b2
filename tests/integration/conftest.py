"""What the integration tests share: the whole pipeline, once, and a Prometheus over the session's Ray cluster."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from ecr_ray.cluster import ports
from tests.conftest import ROOT
from tests.integration.jobs import finish, job

# As few steps as show that a stage reads what the one before it wrote, and that it does its own work.
SHORT = """
[annotate]
labelled = "replace"
[score]
judges = ["ecr-tiny-judge", "tiny-b"]
side_by_side = "yes"
bootstrap = 50
[critic]
max_steps = 2
batch = 16
eval_every = 2
bootstrap = 50
[sft]
max_steps = 2
batch = 4
eval_every = 2
save_every = 2
[ppo]
steps = 6
batch = 16
minibatch = 8
micro_batch = 4
epochs = 1
value_warmup = 1
scale_samples = 16
eval_every = 3
eval_prompts = 8
save_every = 2
max_prompt = 96
max_new_tokens = 16
learning_rate = 1e-3
[recommender]
log_every = 1
bootstrap = 50
[evaluate]
prompts = 24
max_new_tokens = 16
talks = 4
talk_turns = 3
bootstrap = 50
"""


@dataclass(frozen=True)
class Pipeline:
    """A run of it: where its results are, with which settings, what it printed."""

    out: Path
    settings: Path
    printed: str


@pytest.fixture(scope="session")
def pipeline(cluster, tmp_path_factory):
    """From the embedded dialogues to the report, by `ray job submit`."""
    folder = tmp_path_factory.mktemp("pipeline")
    settings, out = folder / "short.toml", folder / "whole"
    settings.write_text(SHORT)
    printed = finish(job("pipeline", "--config", settings, "--output", out, submit=True), seconds=850)
    return Pipeline(out, settings, printed)


class Prometheus:
    """A real one, asked by its HTTP API."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}/api/v1"
        self.started = time.time()

    def get(self, path, **arguments):
        url = f"{self.base}/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def series(self, query):
        """Every series of a board's query from the start on, without values that are no numbers."""
        query = query.replace("$session", ".*").replace("$__rate_interval", "30s")
        data = self.get("query_range", query=query, start=self.started, end=time.time(), step=1)
        found = [(s["metric"], [float(v) for _, v in s["values"]]) for s in data["result"]]
        return [(labels, values) for labels, values in found if any(map(math.isfinite, values))]

    def missing(self, board):
        """Queries of a board without a series, or with one that lacks a label of the legend."""
        found = []
        for panel in board.panels:
            for query, legend in panel.queries:
                series = self.series(query)
                wanted = [part.split("}}")[0] for part in legend.split("{{")[1:]]
                if not (series or panel.may_be_empty) or not all(w in labels for labels, _ in series for w in wanted):
                    found.append((panel.title, query))
        return found


@pytest.fixture(scope="module")
def prometheus(cluster, tmp_path_factory):
    """Started as a user starts it, by `python -m ecr_ray.cluster.watch`, and ended by Ctrl-C."""
    if not shutil.which("prometheus"):
        pytest.skip("needs prometheus (Debian: apt-get install prometheus)")
    (port,) = ports.find_free(1)
    directory = tmp_path_factory.mktemp("watch")
    command = [sys.executable, "-m", "ecr_ray.cluster.watch", "--directory", directory, "--interval-s", "1"]
    process = subprocess.Popen(
        [*map(str, command), "--prometheus-port", str(port)],
        cwd=ROOT,
        # A test run in the background has Ctrl-C ignored, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    found = Prometheus(port)
    deadline = time.monotonic() + 60
    while True:
        try:
            if any(target["health"] == "up" for target in found.get("targets")["activeTargets"]):
                break
        except OSError:
            assert process.poll() is None, (directory / "prometheus.log").read_text()
        assert time.monotonic() < deadline, "Prometheus does not reach Ray's metrics"
        time.sleep(0.2)
    yield found
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    with pytest.raises(OSError):
        found.get("targets")
