import pyarrow as pa
import pytest

from ecr_ray import records


def test_a_table_is_checked_column_by_column():
    schema = pa.schema([("a", pa.int32()), ("b", pa.string())])
    good = pa.table({"b": ["x"], "a": pa.array([1], pa.int32()), "more": [0]})
    assert records.check_table(good, schema, "t").column_names == ["a", "b"]
    with pytest.raises(ValueError, match="t: column 'b' is missing"):
        records.check_table(good.drop_columns("b"), schema, "t")
    with pytest.raises(ValueError, match="t: column 'a' is int64, not int32"):
        records.check_table(pa.table({"a": [1], "b": ["x"]}), schema, "t")


def test_a_run_record_says_what_was_run(tmp_path):
    record = records.RunRecord(stage="prepare", config={"x": 1}, seed=3, rows={"turns": 2})
    assert records.read_run(tmp_path) is None
    record.write(tmp_path)
    run = records.read_run(tmp_path)
    assert (run["stage"], run["config"], run["seed"], run["rows"]) == ("prepare", {"x": 1}, 3, {"turns": 2})
    assert {"finished", "command", "code", "packages", "hardware", "inputs", "failures", "timings_s"} <= set(run)
    assert run["packages"]["ray"] and run["hardware"]["cores"] >= 1
