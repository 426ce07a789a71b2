import pytest

from ecr_ray.cluster import connect


def test_every_job_tells_its_workers_how_to_wait(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert connect._settings("10.0.0.1:6379")["runtime_env"]["env_vars"]["GOMP_SPINCOUNT"] == "10000"


def test_what_a_cluster_was_started_with_is_not_asked_of_every_worker(monkeypatch):
    monkeypatch.delenv("ECR_RUN_ID", raising=False)
    monkeypatch.setenv(connect._GIVEN, connect._given("10.0.0.1:6379"))
    assert connect._settings("10.0.0.1:6379")["runtime_env"] == {}
    # Another cluster, or another environment here: not the same.
    assert connect._settings("10.0.0.2:6379")["runtime_env"]["env_vars"]["HF_HUB_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert connect._settings("10.0.0.1:6379")["runtime_env"]["env_vars"]["GOMP_SPINCOUNT"] == "7"


# Slow, that is after the quick ones: with a cluster in this process, Prometheus would count what those train here.
@pytest.mark.slow
def test_workers_of_the_cluster_have_it(cluster):
    import ray

    @ray.remote(num_cpus=0)
    def found() -> dict[str, str]:
        import os

        return dict(os.environ)

    here = connect._environment()
    there = ray.get(found.remote())
    assert {name: there[name] for name in here} == here


def test_threads_wait_briefly_unless_the_environment_says_how():
    assert connect.waiting({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": "10000"}
    for asked in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}):
        assert connect.waiting({"PATH": "/bin"} | asked) == asked
