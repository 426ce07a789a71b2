"""A real Prometheus over the shared Ray cluster, started as a user starts it; the boards' queries put to it."""

import json
import math
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from ecr_ray.cluster import boards, metrics
from tests.conftest import ROOT, write_turns

pytestmark = pytest.mark.slow


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Prometheus:
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


@pytest.fixture(scope="module")
def prometheus(cluster, tmp_path_factory):
    if not shutil.which("prometheus"):
        pytest.skip("needs prometheus (Debian: apt-get install prometheus)")
    port = free_port()
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


@pytest.fixture(scope="module")
def scored(prometheus, tmp_path_factory):
    """A scoring run that Prometheus has seen."""
    out = tmp_path_factory.mktemp("watched") / "score"
    # Long enough for a rate: Ray hands its values on only every few seconds.
    turns = write_turns(out.with_name("turns.jsonl"), 4000)
    command = [sys.executable, "jobs/score.py", "--input", turns, "--output", out, "--batch-size", "64"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def later_stages(prometheus):
    """What the stages that are still to be written will export, by the functions that they will use; and a real
    Serve deployment, whose own metrics the serving board shows."""
    from ray import serve

    @serve.deployment
    def hello():
        return "hello"

    serve.run(hello.bind(), route_prefix="/hello")
    later = [m for m in metrics.METRICS.values() if m.name.split("_")[1] in ("train", "ppo", "serve")]
    made = [(m, metrics.instrument(m.name, **dict.fromkeys(m.tags, "x"))) for m in later]
    deadline = time.monotonic() + 120
    last = next(m for m in reversed(later) if m.kind == "counter").exported
    # Ray hands its values on every few seconds, and a rate needs two of them.
    while not prometheus.series(f"rate({last}[10s]) > 0") and time.monotonic() < deadline:
        for metric, instrument in made:
            getattr(instrument, {"counter": "inc", "gauge": "set", "histogram": "observe"}[metric.kind])(0.5)
        time.sleep(1)
    yield
    serve.shutdown()


def check(prometheus, board):
    for panel in board.panels:
        for query, legend in panel.queries:
            found = prometheus.series(query)
            # Without a GPU there is nothing to see, but the query must be one.
            assert found or panel.gpu, f"{panel.title}: nothing for {query}"
            for label in [part.split("}}")[0] for part in legend.split("{{")[1:]]:
                assert all(label in labels for labels, _ in found), (panel.title, label)


def test_the_scoring_board_shows_a_scoring_run(prometheus, scored):
    check(prometheus, boards.SCORING)
    rows = json.loads((scored / "run.json").read_text())["rows"]
    counted = prometheus.series(boards.of("ecr_score_rows", judge="ecr-tiny-judge", outcome="ok"))
    assert max(max(values) for _, values in counted) == rows["turns"]
    left = prometheus.series(boards.of("ecr_score_rows_left", judge="ecr-tiny-judge"))
    assert max(max(values) for _, values in left) <= rows["turns"]
    read = prometheus.series(boards.of("ecr_prepare_rows", kind="turns"))
    assert max(max(values) for _, values in read) == rows["turns"]


@pytest.mark.parametrize("board", boards.BOARDS[1:], ids=lambda board: board.name)
def test_the_boards_of_later_stages(prometheus, later_stages, board):
    check(prometheus, board)
