"""Fixtures that the whole session shares: one model cache, one Ray cluster."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def turn(n: int) -> dict:
    """The n-th of many small turns, eight a dialogue."""
    context = [{"role": "seeker", "text": f"Number {n}: I want a film about {'very ' * (n % 7)}old ships."}]
    return {
        "turn_id": f"d{n // 8}:{2 * (n % 8) + 1}",
        "context": context,
        "response": f"Try film {n % 90} of {1930 + n % 90}.",
    }


def write_turns(path: Path, rows: int) -> Path:
    """A file of that many turns."""
    path.write_text("\n".join(json.dumps(turn(n)) for n in range(rows)))
    return path


def pytest_collection_modifyitems(items):
    """What is quick first; of the slow, what Prometheus watches.

    Ray's page of metrics grows with every dataset, and Prometheus reads it once a second there. And the pipeline, whose
    results other tests look at, too, has to run while it is watched.
    """

    def turn(item):
        folder = item.path.parent.name
        watched = (item.path.name != "test_watching.py", {"serving": 0, "serving_apart": 1}.get(folder, 2))
        return item.get_closest_marker("slow") is not None, *watched

    items.sort(key=turn)


def pytest_runtest_logreport(report):
    """Say at once what failed: a run that is ended from outside shows no summary."""
    if report.failed:
        print(f"\n{report.outcome}: {report.nodeid} ({report.when})\n{report.longreprtext[-3000:]}", flush=True)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A model cache of this session's own, so that a stale one on the machine cannot help or hurt."""
    os.environ["ECR_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ["ECR_CACHE_DIR"])


@pytest.fixture(scope="session")
def redial() -> Path:
    """The directory of the real ReDial files."""
    folder = Path(os.environ.get("ECR_DATA_DIR", "/nonexistent")) / "redial"
    if not (folder / "test_data.jsonl").is_file():
        pytest.skip("needs the real ReDial: set ECR_DATA_DIR to a directory with redial/test_data.jsonl")
    return folder


@pytest.fixture(scope="session")
def cluster(cache):
    """A Ray cluster with its dashboard (the jobs API needs it); jobs under test join it by RAY_ADDRESS."""
    import ray

    from ecr_ray.cluster import connect

    os.environ.pop("RAY_ADDRESS", None)
    connect.connect()
    context = ray.get_runtime_context()
    os.environ["RAY_ADDRESS"] = context.gcs_address
    yield context
    os.environ.pop("RAY_ADDRESS", None)
    ray.shutdown()
