from ecr_ray.cluster import connect


def test_every_job_tells_its_workers_how_to_wait(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert connect._settings()["runtime_env"]["env_vars"]["GOMP_SPINCOUNT"] == "10000"


def test_threads_wait_briefly_unless_the_environment_says_how():
    assert connect.waiting({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": "10000"}
    for asked in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}):
        assert connect.waiting({"PATH": "/bin"} | asked) == asked
