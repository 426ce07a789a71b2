"""What a report repeats of the recommender's own run."""

import json

import pytest

from ecr_ray.evaluation import recommendation
from ecr_ray.models import tiny


def row(model, protocol, measure, value):
    return {"model": model, "protocol": protocol, "measure": measure, "value": value, "low": 0.1, "high": 0.9, "n": 7}


@pytest.fixture
def trained(tmp_path):
    rows = [row("ecr_ray", "published", "R@10", 0.5), row("ecr_ray", "masked", "R@10", 0.4)]
    rows += [row("network 1", "published", "R@10", 0.3), row("popularity", "published", "R@10", 0.2)]
    run = {"stage": "recommender", "config": {"input": "nowhere"}, "finished": "2026-01-02T03:04", "seed": 3}
    (tmp_path / "model").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({**run, "measures": {"test": rows}}))
    return str(tmp_path / "model")


def test_its_figures_stand_beside_the_baselines(trained):
    found = recommendation.figures(trained)
    assert found["models"] == ["ecr_ray", "popularity"]
    cells = {r["measure"]: {name: cell["value"] for name, cell in r["cells"].items()} for r in found["rows"]}
    assert cells == {"R@10, published": {"ecr_ray": 0.5, "popularity": 0.2}, "R@10, masked": {"ecr_ray": 0.4}}
    assert "2026-01-02, seed 3" in found["about"] and "7 such films" in found["about"]


def test_the_bundled_one_brings_its_record():
    found = recommendation.figures("ecr-tiny-recommender")
    record = json.loads((tiny.HERE / "ecr-tiny-recommender" / "run.json").read_text())
    (ours,) = (
        entry["value"]
        for entry in record["measures"]["test"]
        if (entry["model"], entry["protocol"], entry["measure"]) == ("ecr_ray", "masked", "R@50")
    )
    assert {e["measure"]: e for e in found["rows"]}["R@50, masked"]["cells"]["ecr_ray"]["value"] == ours
    assert "popularity" in found["models"] and len(found["rows"]) == len(recommendation.MEASURES)


def test_without_a_record_there_is_nothing_to_say():
    assert recommendation.figures("none")["rows"] == [] == recommendation.figures("nowhere/model")["rows"]
