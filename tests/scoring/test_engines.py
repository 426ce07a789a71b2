from ecr_ray.config import load_judges
from ecr_ray.scoring import engines


def test_an_engine_among_other_work_waits_less(monkeypatch):
    judge = load_judges("tiny", None)["tiny-a"]
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert engines.engine_env(judge)["GOMP_SPINCOUNT"] == "3000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in engines.engine_env(judge)
