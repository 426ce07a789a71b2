"""The one table of metrics."""

import re

import pytest

from ecr_ray.cluster import metrics
from tests.conftest import ROOT


def test_names_are_ones_that_ray_does_not_drop():
    for metric in metrics.METRICS.values():
        assert re.fullmatch(r"ecr_[a-z]+(_[a-z]+)+", metric.name)
        assert all(re.fullmatch(r"[a-z]+", tag) for tag in metric.tags)
        assert bool(metric.boundaries) == (metric.kind == "histogram")
    assert metrics.METRICS["ecr_score_rows"].exported == "ray_ecr_score_rows_total"
    assert metrics.METRICS["ecr_ppo_kl"].exported == "ray_ecr_ppo_kl"


def test_a_wrong_name_or_tag_is_refused_with_a_suggestion():
    with pytest.raises(KeyError, match="did you mean 'ecr_score_rows'"):
        metrics.instrument("ecr_score_row")
    with pytest.raises(KeyError, match="no tag 'judges'; did you mean 'judge'"):
        metrics.instrument("ecr_score_rows", judges="a")


def test_nobody_makes_a_metric_beside_the_table():
    made = [
        str(path)
        for path in (ROOT / "ecr_ray").rglob("*.py")
        if re.search(r"metrics\.(Counter|Gauge|Histogram)\(", path.read_text()) and path.name != "metrics.py"
    ]
    assert made == []


def test_the_table_names_every_metric_once():
    lines = metrics.table().splitlines()[2:]
    assert len(lines) == len(metrics.METRICS)
    assert lines[0].startswith("| `ray_ecr_prepare_rows_total` | counter | `kind` |")


def test_every_metric_is_made_by_some_stage():
    code = [path.read_text() for path in (ROOT / "ecr_ray").rglob("*.py") if path.name != "boards.py"]
    made = {
        name for name in metrics.METRICS if any(re.search(rf'instrument\("{name}"|"{name}":', text) for text in code)
    }
    assert made == set(metrics.METRICS)
