"""Fixtures that the whole session shares: one model cache, one Ray cluster."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
