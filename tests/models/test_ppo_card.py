"""What the card of the reinforced policy says, from records written by hand."""

import json

import numpy as np

from ecr_ray.models import ppo_card, ppo_measures


def record(beta, gain, kl):
    interval = {"low": gain - 0.01, "high": gain + 0.01, "n": 20, "dialogues": 10}
    return {
        "config": {"beta": beta},
        "result": {
            "held_out_before": {"opinion": 0.4},
            "held_out_kept": {"opinion": 0.4 + gain},
            "gain": {"opinion": {"value": gain, **interval}},
            "kl": {"value": kl, "low": kl - 1, "high": kl + 1},
        },
    }


def test_the_sweep_is_told_in_the_order_of_beta_and_drawn(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(record(0.2, 0.1, 3.0)))
    (tmp_path / "run-ppo-0.05.json").write_text(json.dumps(record(0.05, 0.2, 9.0)))
    lines = ppo_card.table(tmp_path).splitlines()[2:]
    assert lines == [
        "| 0.05 | 0.400 | 0.600 | +0.200 (+0.190 to +0.210) | 9.00 (8.00–10.00) | 20 of 10 dialogues |",
        "| 0.2 | 0.400 | 0.500 | +0.100 (+0.090 to +0.110) | 3.00 (2.00–4.00) | 20 of 10 dialogues |",
    ]
    ppo_card.draw(tmp_path)
    assert "<svg" in (tmp_path / ppo_card.PICTURE).read_text()


def test_ahead_is_question_by_question():
    values = {ppo_measures.AFTER: np.array([2.0, 3.0, 4.0]), ppo_measures.BEFORE: np.array([1.0, 2.0, 3.0])}
    groups = np.array(["a", "b", "c"])
    row = ppo_measures._row("judge", ppo_measures.BEFORE, values, groups, 0)
    # The answers differ between questions, the gain does not.
    assert (row["value"], row["ahead"]["value"]) == (2.0, 1.0) and row["ahead"]["low"] == row["ahead"]["high"] == 1.0
    assert (
        row["low"] < 2 < row["high"]
        and ppo_measures._row("judge", ppo_measures.AFTER, values, groups, 0)["ahead"] is None
    )
