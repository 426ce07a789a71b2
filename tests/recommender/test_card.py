"""What is said of the figures: from a record made by hand."""

import re

import pytest

from ecr_ray.recommender import card, protocol
from ecr_ray.recommender.evaluate import AGAIN, OURS

MEASURES = [("published", m) for m in (*card._RECALLS, card._AUC)] + list(card._HONEST)
MEASURES += [("masked", "R@50"), ("published", "R@10"), ("published", "R@50")]
MODELS = (OURS, f"{OURS}, {AGAIN}", "network 1", "network 2", "without graph", "with weights", "EASE", f"EASE, {AGAIN}")


@pytest.fixture
def run():
    rows = []
    for model in MODELS:
        for protocol_name, measure in dict.fromkeys(MEASURES):
            value = 0.25 if model == OURS else 0.2
            ahead = None if model == OURS else {"of": "network 1", "value": 0.05, "low": 0.01, "high": 0.09}
            row = {
                "protocol": protocol_name,
                "measure": measure,
                "value": value,
                "low": value - 0.1,
                "high": value + 0.1,
            }
            rows.append({"model": model, **row, "n": 1200, "dialogues": 300, "ahead": ahead})
    return {
        "measures": {"test": rows},
        "rows": {"train_turns": 1000, "test_films": 1200, "items": 6281},
        "config": {"members": 2, "without": ["weights"]},
        "result": {name: {"best": 6.5} for name in MODELS},
        "timings_s": {"prepare": 60, "train network 1": 120, "train network 2": 120, "train without graph": 999},
        "hardware": {"cores": 2},
        "seed": 0,
    }


def test_the_distance_to_the_published_figures_is_stated(run):
    lines = card.published(run).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        OURS, f"{OURS}, {AGAIN}", "EASE", f"EASE, {AGAIN}", *card.PUBLISHED, f"{OURS}: above {card.BEST}",
        f"{OURS}, {AGAIN}: above {card.BEST}",
    ]  # fmt: skip
    away = [float(cell) for cell in lines[-2].split("|")[2:-1]]
    assert away == pytest.approx([0.25 - x for x in card.PUBLISHED[card.BEST].values()], abs=1e-9)
    assert "**0.250** (0.150–0.350)" in lines[2]


def test_a_bonus_for_what_is_masked_is_no_column(run):
    found = card.honest(run)
    assert AGAIN not in found and "1,200 examples of 300 dialogues" in found and "network" not in found


def test_a_part_is_compared_with_one_network_that_has_it(run):
    lines = card.ablation(run).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "with all parts but weights", "without graph", "with weights",
    ]  # fmt: skip
    assert "0.200 (+0.050, +0.010 to +0.090)" in lines[3] and "+0.050" not in lines[2] and "6.500" in lines[3]
    summary = card.summary(run)
    # The preparation and the two that rank; not what was trained to say what a part is worth.
    assert "how far the first line is ahead" in summary and re.search(r"\b5 minutes\b", summary)


def test_every_measure_that_is_shown_is_one_that_is_measured():
    named = {row[1] for row in card._HONEST} | {*card._RECALLS, card._AUC}
    import numpy as np

    examples = protocol.Examples(np.array([0, 1]), np.array([1, 0]), np.array([0, 0]))
    ranked = protocol.place(np.eye(2, 60), examples, np.array([0, 1]), [[], []])
    rows = protocol.figures(ranked, examples, np.ones(60), resamples=0, seed=0)
    assert named <= {row["measure"] for row in rows}
