"""What is shown of a node's logs, and what is kept."""

import json
import subprocess
import sys

from ecr_ray.cluster import logs
from tests.conftest import ROOT


def test_the_last_traceback_is_what_helps(tmp_path):
    lines = [
        "starting",
        "Traceback (most recent call last):",
        *(f"  frame {n}" for n in range(20)),
        "ValueError: no such film",
        "INFO going down",
    ]
    (tmp_path / "worker-a.err").write_text("\n".join(lines))
    (tmp_path / "raylet.out").write_text("I all is well\n[2026] ERROR disk full\nI all is well\n")
    found = logs.useful_lines(tmp_path)
    assert "worker-a.err: ValueError: no such film" in found
    assert "worker-a.err:   frame 3" not in found
    assert "raylet.out: [2026] ERROR disk full" in found
    assert not any("all is well" in line or "going down" in line for line in found)


def test_a_node_without_logs_has_nothing_to_say(tmp_path):
    assert logs.useful_lines(tmp_path / "nowhere") == []
    assert logs.tail_of_ray(tmp_path, tmp_path / "nowhere") == []


def test_logs_are_kept_and_long_ones_by_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "KEPT_BYTES", 10)
    session = tmp_path / "session_latest" / "logs"
    (session / "serve").mkdir(parents=True)
    (session / "serve" / "a.log").write_text("short")
    (session / "long.log").write_text("0123456789 the end")
    (session / "empty.log").touch()
    (tmp_path / "ray-start.log").write_text("started")
    logs.save(tmp_path, tmp_path / "kept")
    kept = {str(p.relative_to(tmp_path / "kept")): p.read_text() for p in (tmp_path / "kept").rglob("*.log")}
    assert kept == {"serve/a.log": "short", "long.log": "89 the end", "ray-start.log": "started"}


def test_every_record_names_the_run():
    code = """
import logging
from ray._common.formatters import JSONFormatter
from ecr_ray.cluster import logs
logs.add_run_id()
handler = logging.StreamHandler()
handler.setFormatter(JSONFormatter())
logging.getLogger().addHandler(handler)
logging.warning("hello")
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={"ECR_RUN_ID": "7.1"}
    )
    assert json.loads(answer.stderr)["run_id"] == "7.1"
