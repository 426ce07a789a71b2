"""Configuration of Prometheus and Grafana; tests/integration/test_watching.py starts the real Prometheus."""

import json
import shutil
import subprocess

import pytest

from ecr_ray.cluster import watch
from ecr_ray.errors import UserError


def cluster(directory, run):
    directory = directory / "runs" / "slurm" / run
    directory.mkdir(parents=True)
    (directory / "cluster.json").write_text("{}")
    (directory / "prometheus_targets.json").write_text("[]")
    return directory / "prometheus_targets.json"


def test_which_cluster_is_watched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserError, match="no running Ray cluster"):
        watch.find_targets(None, {}, nowhere)
    local = tmp_path / "local.json"
    local.write_text("[]")
    assert watch.find_targets(None, {}, local) == local
    first = cluster(tmp_path, "7.0")
    assert watch.find_targets(None, {}, local) == first
    second = cluster(tmp_path, "8.0")
    with pytest.raises(UserError, match=r"several clusters are up.*7\.0.*8\.0"):
        watch.find_targets(None, {}, local)
    inside = {"SLURM_JOB_ID": "8", "SLURM_SUBMIT_DIR": str(tmp_path)}
    assert watch.find_targets(None, inside, local) == second
    (first.parent / "cluster.json").unlink()
    assert watch.find_targets(None, {}, local) == second
    assert watch.find_targets(str(local), {}, nowhere) == local
    with pytest.raises(UserError, match="no such file"):
        watch.find_targets(str(nowhere), {})


def test_what_is_written(tmp_path):
    config = watch.WatchConfig(directory=str(tmp_path / "watch"), prometheus_port=9999)
    watch.write(config, tmp_path / "targets.json")
    root = tmp_path / "watch"
    source = json.loads((root / "grafana/provisioning/datasources/ecr_ray.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://127.0.0.1:9999"
    provider = json.loads((root / "grafana/provisioning/dashboards/ecr_ray.yaml").read_text())["providers"][0]
    assert {p.name for p in (root / "grafana/boards").iterdir()} == {
        "scoring.json", "training.json", "ppo.json", "serving.json",
    }  # fmt: skip
    assert provider["options"]["path"] == str(root / "grafana/boards")
    assert "http_addr = 127.0.0.1" in (root / "grafana.ini").read_text()


def test_prometheus_own_checker_accepts_it(tmp_path):
    if not shutil.which("promtool"):
        pytest.skip("needs promtool (Debian: apt-get install prometheus)")
    targets = tmp_path / "targets.json"
    targets.write_text('[{"labels": {"job": "ray"}, "targets": ["127.0.0.1:1"]}]')
    watch.write(watch.WatchConfig(directory=str(tmp_path)), targets)
    answer = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_program_that_ends_by_itself_is_reported(tmp_path):
    with watch.running({"a": ["sh", "-c", "echo why; exit 3"], "b": ["sleep", "60"]}, tmp_path) as started:
        assert started["a"].wait(10) == 3
    assert started["b"].returncode == -15
    assert (tmp_path / "a.log").read_text() == "why\n"
