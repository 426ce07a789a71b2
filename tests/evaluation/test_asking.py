"""Which turns are asked."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.config import EvaluateConfig
from ecr_ray.data.reading import InputError
from ecr_ray.evaluation import asking
from tests.conftest import write_turns


def test_prompts_are_turns_of_the_split_after_the_seeker_has_spoken():
    found = asking.choose(EvaluateConfig(prompts=1000))
    assert found.rows and found.left_out["of another split"] > 0 and found.quarantined == 0
    assert all(any(m["role"] == "seeker" for m in row["context"]) for row in found.rows)
    assert len({row["turn_id"] for row in found.rows}) == len(found.rows)
    everything = asking.choose(EvaluateConfig(prompts=10_000, split="all"))
    assert {row["turn_id"] for row in found.rows} < {row["turn_id"] for row in everything.rows}


def test_as_many_dialogues_as_there_are_come_first():
    found = asking.choose(EvaluateConfig(prompts=6, split="all"))
    assert len(set(found.groups.tolist())) == 6
    again = asking.choose(EvaluateConfig(prompts=6, split="all"))
    other = asking.choose(EvaluateConfig(prompts=6, split="all", seed=1))
    assert found.rows == again.rows != other.rows


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30), st.integers(1, 30), st.integers(0, 5))
def test_no_dialogue_is_asked_twice_more_than_another_that_has_turns_left(dialogues, count, seed):
    picked = asking.spread(dialogues, count, seed)
    assert len(picked) == len(set(picked)) == min(count, len(dialogues)) and picked == sorted(picked)
    taken, all_of = Counter(dialogues[n] for n in picked), Counter(dialogues)
    for one in all_of:
        for other in all_of:
            assert taken[one] <= taken[other] + 1 or taken[other] == all_of[other]


def test_they_survive_being_written(tmp_path):
    found = asking.choose(EvaluateConfig(prompts=5))
    asking.write(found, tmp_path / "prompts.parquet")
    assert asking.read(tmp_path / "prompts.parquet") == found


def test_an_input_without_such_a_split_is_told(tmp_path):
    write_turns(tmp_path / "turns.jsonl", 4)
    with pytest.raises(InputError, match=r"has no turn to ask with --split test \(left out: \{'of another split': 4\}"):
        asking.choose(EvaluateConfig(input=str(tmp_path / "turns.jsonl")))
