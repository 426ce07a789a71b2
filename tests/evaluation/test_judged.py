"""Pairs in both orders, by hand."""

import pyarrow as pa
import pytest

from ecr_ray.config import EvaluateConfig
from ecr_ray.evaluation import judged


def pairs(*rows):
    names = ("turn_id", "dialogue_id", "judge", "first", "second", "overall", "status")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


TABLE = pairs(
    ("t1", "d1", "j", "a", "b", 0.75, "ok"),
    ("t1", "d1", "j", "b", "a", 0.5, "ok"),
    # One order failed: nobody knows what the place did.
    ("t2", "d2", "j", "a", "b", 0.9, "ok"),
    ("t2", "d2", "j", "b", "a", None, "nan"),
    ("t1", "d1", "other", "a", "b", 0.0, "ok"),
)


def test_a_share_is_the_mean_of_both_orders():
    # b wins 0.75 where it stands second, and 1 - 0.5 where it stands first.
    assert judged.shares(TABLE, "j", "overall") == [("a", "b", pytest.approx(0.625), "d1")]


def test_what_stands_second_is_favoured_by_as_much_as_both_orders_are_above_a_half():
    lean, groups = judged.position_bias(TABLE, "j", "overall")
    assert lean.tolist() == [pytest.approx(0.125)] and groups.tolist() == ["d1"]


def test_which_pairs_are_compared():
    names = ["human", "sft", "ppo"]
    assert judged.pairs_of(EvaluateConfig(), names) == [("human", "sft"), ("human", "ppo"), ("sft", "ppo")]
    assert judged.pairs_of(EvaluateConfig(pairs="baseline"), names) == [("human", "sft"), ("sft", "ppo")]
    assert judged.pairs_of(EvaluateConfig(pairs="none"), names) == []


def test_a_judge_reads_both_answers_in_their_order():
    asker = judged.PairAsker(judged.chosen(EvaluateConfig(rubric="ecr-ma"))[0], "ecr-ma")
    text = asker.question([{"role": "seeker", "text": "hi"}], '["first one", "second\\none"]')
    assert text.index("Answer A: first one") < text.index("Answer B: second one")
    assert "0 (A by far) to 9 (B by far)" in asker.text([{"role": "seeker", "text": "hi"}], '["x", "y"]')
