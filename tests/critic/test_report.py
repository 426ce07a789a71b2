"""What a critic's run shows."""

import json

import numpy as np
import pyarrow as pa

from ecr_ray.critic import evaluate, report
from ecr_ray.encoders import learning


def test_of_a_step_that_was_done_again_the_last_time_counts(tmp_path):
    path = tmp_path / "curve.jsonl"
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "valid_error": 0.9}, {"step": 2, "loss": 2.5}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = learning.read_curve(path).to_pylist()
    assert [(row["step"], row["loss"], row["valid_error"]) for row in rows] == [(1, 3.0, None), (2, 2.5, None)]


def found():
    rng = np.random.default_rng(0)
    so = rng.uniform(0, 1, 60)
    known = np.arange(60) % 5 > 0
    predicted = np.clip(so + rng.normal(0, 0.1, 60), 0, 1)
    predicted[7] = so[7] - 1.5
    columns = {name: [f"{name}-{n}" for n in range(60)] for name in ("turn_id", "dialogue_id", "last", "text")}
    columns["text"][7] = "<b>missed</b>"
    columns |= {"overall": pa.array(so, pa.float32(), mask=~known), "overall_predicted": predicted}
    figures = {"n": 48, "dialogues": 48, "low": 0.1, "high": 0.2}
    row = {"head": "overall", "measure": "R²", "model": "critic", "value": 0.15, "ahead": None} | figures
    base = row | {"model": "the training mean", "value": 0.0, "ahead": {"value": 0.15, "low": -0.1, "high": 0.3}}
    doubt = {
        "head": "overall",
        "coverage_90": figures | {"value": 0.9},
        "doubt_and_error_spearman": figures | {"value": 0},
    }
    return evaluate.Found("valid", ("overall",), [row, base], [], [doubt], pa.table(columns))


RUN = {
    "config": {"learn": "scores", "encoder": "minilm", "bootstrap": 9}, "failures": {},
    "rows": {"train_turns": 9, "valid_turns": 60, "test_turns": 0},
    "heads": ["overall"], "rubric": "ecr-ma", "known_targets": {"overall": 9}, "overall_from": {"judges": 69},
    "result": {"step": 2, "best": 0.5, "best_step": 2, "since_best": 0, "stopped_early": False}, "doubt": [],
    "command": ["jobs/train_critic.py"], "code": {"version": "0", "commit": None, "changed": False},
    "packages": {}, "hardware": {"cpu": "x", "cores": 2, "memory_gib": 4}, "seed": 0, "timings_s": {}, "inputs": [],
}  # fmt: skip


def test_page_and_plots_and_what_was_missed_most(tmp_path):
    curve = pa.Table.from_pylist([{"step": 1, "loss": 1.0, "valid_error": 0.9}], schema=learning.CURVE)
    report.write(tmp_path, RUN | {"doubt": found().doubt}, curve, found())
    names = {"learning", "predicted", "residuals", "calibration", "correlation"}
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())
    page = (tmp_path / "summary.html").read_text()
    assert page.count("<img") == 5 and page.count('alt="') >= 5
    # The worst row comes first, and is text, not markup.
    assert page.index("&lt;b&gt;missed&lt;/b&gt;") and "<b>missed" not in page
    worst = [line for line in page.splitlines() if "turn_id-" in line]
    assert "turn_id-7" in worst[0] and not any("turn_id-5<" in line for line in worst)


def test_a_run_without_held_out_rows_has_its_curve(tmp_path):
    curve = pa.Table.from_pylist([{"step": 1, "loss": 1.0}], schema=learning.CURVE)
    report.write(tmp_path, RUN, curve, evaluate.Found("", ("overall",)))
    assert [path.stem for path in (tmp_path / "plots").iterdir()] == ["learning"]
