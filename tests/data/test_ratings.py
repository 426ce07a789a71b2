"""People's ratings of ReDial turns, read from files in the two published forms."""

import os
from pathlib import Path

import pytest

from ecr_ray.data import ratings
from ecr_ray.data.reading import InputError

USS = (
    "USER\tHi\t\t4,4,3\n"
    'SYSTEM\tTry "Why Did I Get Married%3F (2007)"\t\t\n'
    "USER\tNo!\t\t1,2,3\n"
    "USER\tReally not.\t\t1,1,1\n"
    "SYSTEM\tThen Heat (1995).\t\t\n"
    "USER\tOVERALL\t\t2,2,2\n"
    "\n"
    "SYSTEM\tHello\t\t\n"
    "USER\tHi\t\t3,3\n"
)


def test_uss_rates_the_turn_before(tmp_path):
    path = tmp_path / "ReDial.txt"
    path.write_text(USS)
    first, second = ratings.read_uss(path)
    assert (first.dialogue_id, first.index, first.response) == ("uss-0", 1, "Try Why Did I Get Married? (2007)")
    assert [m["text"] for m in first.context] == ["Hi"]
    assert first.ratings == {"satisfaction": [1.0, 2.0, 3.0]} and first.reaction == "No!"
    assert (second.dialogue_id, second.index, second.context) == ("uss-1", 0, [])
    assert second.ratings == {"satisfaction": [3.0, 3.0]}


def test_a_speaker_that_nobody_knows_is_named(tmp_path):
    path = tmp_path / "ReDial.txt"
    path.write_text("USER\tHi\t\t\nBOT\tHello\t\t\n")
    with pytest.raises(InputError, match="dialogue 1: 'BOT' is neither USER nor SYSTEM"):
        list(ratings.read_uss(path))


def test_ab_gathers_the_raters_of_a_turn(tmp_path):
    columns = ["ConvId"]
    for turn in (1, 2, 3):
        columns += [f"utterance{n}" for n in range(4 * turn - 4, 4 * turn)]
        columns += [f"{aspect}{turn}" for aspect in ("relevance", "interestingness", "overall")]
    said = ["SYSTEM\tHi", "USER\tA film?", "SYSTEM \u2003 Heat", "USER\tThanks"]
    empty = [""] * 14
    rows = [["X1", *said, "4", "2", "5", *empty], ["X1", *said, "3", "", "4.0", *empty]]
    path = tmp_path / "annotated_turns.csv"
    path.write_text("\n".join(",".join(line) for line in [columns, *rows]))
    (rated,) = ratings.read_ab(path)
    assert (rated.dialogue_id, rated.index, rated.response, rated.reaction) == ("ab-X1", 2, "Heat", "Thanks")
    assert rated.ratings == {"relevance": [4.0, 3.0], "interestingness": [2.0], "overall": [5.0, 4.0]}


def test_every_aspect_has_its_own_scale():
    assert [ratings.scaled("satisfaction", r) for r in (1, 3, 5)] == [0, 0.5, 1]
    assert [ratings.scaled("relevance", r) for r in (0, 2, 4)] == [0, 0.5, 1]
    assert [ratings.scaled("interestingness", r) for r in (1, 2, 3)] == [0, 0.5, 1]


def rated(number):
    return ratings.Rated(number, 1, [], "Heat")


def test_a_dialogue_that_both_sources_have_is_one():
    known = {"conversationId": "20001"}
    overlap = {"uss_redial": [None, known], "ab_redial": {"KM": known, "G3": None}}
    turns = [rated("uss-0"), rated("uss-1"), rated("ab-KM"), rated("ab-G3")]
    assert [t.dialogue_id for t in ratings.same_dialogues(turns, overlap)] == ["uss-0", "20001", "20001", "ab-G3"]


def test_the_real_files():
    if not Path(os.environ.get("ECR_DATA_DIR", "/nonexistent"), "human_ratings").is_dir():
        pytest.skip("needs people's ratings: set ECR_DATA_DIR to a directory with human_ratings/")
    found = ratings.load()
    assert len({rated.dialogue_id for rated in found}) == 1195
    assert sum("satisfaction" in rated.ratings for rated in found) > 6500
    assert sum(len(rated.ratings.get("overall", [])) >= 3 for rated in found) > 550
    for aspect in ratings.ASPECTS:
        values = [value for rated in found for value in rated.ratings.get(aspect, [])]
        assert (min(values), max(values)) == ratings.SCALES[aspect]
