import pyarrow as pa
import pytest

from ecr_ray.records import score_schema
from ecr_ray.scoring import merge

TURNS = pa.table(
    {
        "turn_id": ["d:1", "d:3", "e:1"],
        "dialogue_id": ["d", "d", "e"],
        "index": pa.array([1, 3, 1], pa.int32()),
    }
)


def judged(judge, scores):
    rows = [
        {"turn_id": i, "judge": judge, "a": s, "overall": s, "status": "ok" if s is not None else "nan"}
        for i, s in scores.items()
    ]
    return pa.Table.from_pylist(rows, schema=score_schema(["a"]))


def test_the_target_is_the_mean_of_those_who_spoke():
    merged = merge.merge(
        [
            judged("x", {"d:1": 0.2, "d:3": 0.4, "e:1": None}),
            judged("y", {"d:1": 0.6, "d:3": None, "e:1": None}),
        ],
        TURNS,
        ["a"],
    )
    assert merged["turn_id"].to_pylist() == ["d:1", "d:3", "e:1"]
    assert merged["a"].to_pylist() == [pytest.approx(0.4), pytest.approx(0.4), None]
    # Population standard deviation of .2 and .6; one voice has no spread, silence no score.
    assert merged["a_spread"].to_pylist() == [pytest.approx(0.2), None, None]
    assert merged["judges"].to_pylist() == [2, 1, 0]


def test_a_table_of_another_rubric_is_refused():
    with pytest.raises(ValueError, match="column 'b' is missing"):
        merge.merge([judged("x", {"d:1": 0.2})], TURNS, ["b"])
