"""A judge behind vLLM's own OpenAI-compatible server, scored in this process, with its metrics read back."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from ecr_ray.cluster import ports
from ecr_ray.config import ScoreConfig
from ecr_ray.models import tiny
from ecr_ray.scoring import engines, run

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def endpoint(cache):
    (port,) = ports.find_free(1)
    judge = run.chosen_judges(ScoreConfig())[0]
    server = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny.resolve_model("tiny:0"),
         "--port", str(port),
         "--host", "127.0.0.1", "--served-model-name", "served", "--max-model-len", "2048", "--enforce-eager",
         "--dtype", "float32", "--max-num-seqs", "16"],
        env={**os.environ, **engines.engine_env(judge)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            break
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, server.stdout.read().decode()[-3000:]
            assert time.monotonic() < deadline, "the server did not come up in 240 s"
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/v1"
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(60)


@pytest.fixture(scope="module")
def scored(cluster, endpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("http")
    (folder / "judges.toml").write_text(f'[judges.api]\nmodel = "served"\nbackend = "http"\nurl = "{endpoint}"\n')
    config = ScoreConfig(
        config=str(folder / "judges.toml"),
        judges=("api",),
        limit=24,
        # A URI in place of a path, as for an object store.
        output=f"file://{folder}/score",
        max_failure_rate=1.0,
    )
    judges = run.chosen_judges(config)
    run.plan(judges)
    return folder / "score", run.score(config, judges, side_by_side=False)


def test_an_openai_endpoint_is_a_judge(scored):
    import pyarrow.parquet as pq

    out, result = scored
    scores, failures = pq.read_table(out / "scores.parquet"), pq.read_table(out / "failures.parquet")
    assert scores.num_rows + failures.num_rows == 24
    assert scores.num_rows > 0, failures["reason"].to_pylist()[:3]
    # Whole digits: JSON has no probabilities, and none are made up.
    assert {round(v * 9, 4) % 1 for v in scores["empathy"].to_pylist()} == {0.0}
    assert scores["confidence"].null_count == scores.num_rows
    assert result.run["judges"][0]["prefix_cache_hit_rate"] is None


def test_prometheus_sees_the_rows(scored):
    import ray

    _, result = scored
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    want = result.run["rows"]["scores"]
    deadline = time.monotonic() + 60
    while True:
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        lines = [x for x in text.splitlines() if x.startswith("ray_ecr_score_rows_total") and 'judge="api"' in x]
        counted = sum(float(x.rsplit(" ", 1)[1]) for x in lines if 'outcome="ok"' in x)
        if counted >= want:
            break
        assert time.monotonic() < deadline, f"{counted} of {want} rows in:\n" + "\n".join(lines)
        time.sleep(1)
    assert "ray_ecr_score_tokens_total" in text
