import pyarrow as pa
import pytest

from ecr_ray.records import score_schema
from ecr_ray.scoring import parts

SCHEMA = score_schema(["a"])


def rows(*ids, status="ok", score=0.5):
    return pa.Table.from_pylist(
        [
            {
                "turn_id": i,
                "dialogue_id": i[0],
                "judge": "j",
                "a": score if status == "ok" else None,
                "status": status,
            }
            for i in ids
        ],
        schema=SCHEMA,
    )


def test_a_block_that_runs_twice_leaves_one_part(tmp_path):
    for _ in range(2):
        assert parts.write(str(tmp_path), rows("d:1", "d:3")) == {"ok": 2, "failed": 0}
    assert len(list(tmp_path.iterdir())) == 1
    assert parts.done_ids(str(tmp_path)).to_pylist() == ["d:1", "d:3"]


def test_overlapping_blocks_are_joined_to_every_turn_once_and_in_order(tmp_path):
    parts.write(str(tmp_path), rows("d:3", "d:5"))
    parts.write(str(tmp_path), rows("d:1", "d:3"))
    parts.write(str(tmp_path), rows("d:5", "e:1", status="engine_error"))
    scores, failures = parts.join(str(tmp_path), pa.array(["d:1", "d:3", "d:5", "e:1"]), SCHEMA)
    assert scores["turn_id"].to_pylist() == ["d:1", "d:3", "d:5"]
    assert failures["turn_id"].to_pylist() == ["e:1"] and failures["a"].to_pylist() == [None]


def test_a_turn_that_nobody_accounts_for_is_an_error(tmp_path):
    parts.write(str(tmp_path), rows("d:1"))
    with pytest.raises(RuntimeError, match="1 of 2 turns have neither a score nor a reason"):
        parts.join(str(tmp_path), pa.array(["d:1", "d:3"]), SCHEMA)


def test_a_corrupt_part_is_dropped_and_its_turns_are_scored_again(tmp_path, caplog):
    parts.write(str(tmp_path), rows("d:1"))
    parts.write(str(tmp_path), rows("d:3"))
    victim = sorted(tmp_path.iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:100])
    assert len(parts.done_ids(str(tmp_path))) == 1
    assert "unreadable" in caplog.text and not victim.exists()


def test_failures_are_forgotten_before_another_pass(tmp_path):
    parts.write(str(tmp_path), rows("d:1"))
    parts.write(str(tmp_path), rows("d:3", status="nan"))
    parts.forget_failures(str(tmp_path))
    assert [p.name[:3] for p in tmp_path.iterdir()] == ["ok-"]


def test_what_no_further_pass_can_help_is_told_from_the_rest(tmp_path):
    assert parts.hopeless_ids(str(tmp_path)).to_pylist() == []
    parts.write(str(tmp_path), rows("d:1"))
    parts.write(str(tmp_path), rows("d:3", status="engine_error"))
    parts.write(str(tmp_path), rows("d:5", "d:7", status="prompt_too_long"))
    assert sorted(parts.hopeless_ids(str(tmp_path)).to_pylist()) == ["d:5", "d:7"]
