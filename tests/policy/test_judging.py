"""People's ratings as a judge's digits: right on average, one example a person, split by ReDial's dialogues."""

import random

import pytest

from ecr_ray.data import ratings
from ecr_ray.data.ratings import Rated
from ecr_ray.models import tiny
from ecr_ray.policy import judging


def turn(response="Try Heat (1995).", number="uss-1", **ratings):
    return Rated(number, 1, [{"role": "seeker", "text": "A film?"}], response, ratings)


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_digits_are_right_on_average(value):
    rng = random.Random(0)
    drawn = [int(judging.digit(value, rng)) for _ in range(4000)]
    assert set(drawn) <= {int(value * 9), min(9, int(value * 9) + 1)}
    assert sum(drawn) / len(drawn) == pytest.approx(value * 9, abs=0.03)


def test_every_person_is_an_example_that_a_judge_would_see():
    found = list(judging.examples([turn(satisfaction=[5.0, 1.0, 3.0])], seed=0, valid_share=0))
    assert len(found) == 3
    system, question, answer = found[0].messages
    assert "Answer with 4 digits" in system["content"]
    assert question["content"].endswith(
        "Seeker: A film?\nRecommender: Try Heat (1995).\n\nRatings of the last message:"
    )
    assert answer["content"][0] == answer["content"][2] == answer["content"][3] == "9"
    assert found[1].messages[2]["content"][0] == "0"


def test_two_halves_have_no_dialogue_in_common_and_nothing_is_lost():
    turns = [turn(number=f"uss-{n // 2}") for n in range(400)]
    halves = [{t.dialogue_id for t in judging.part(turns, which)} for which in ("first-half", "second-half")]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 200 and all(len(h) > 70 for h in halves)
    assert list(judging.part(turns, "all")) == turns


def test_what_each_aspect_is_learnt_from():
    (view,) = judging.views(turn(satisfaction=[4.0]))
    assert view == {"empathy": 0.75, "informativeness": 0.25, "recommendation": 0.75, "engagement": 0.75}
    (view,) = judging.views(turn("Hello!", satisfaction=[4.0]))
    assert view == {"empathy": 0.75, "informativeness": 0.0, "recommendation": 0.0, "engagement": 0.75}
    (view,) = judging.views(turn("Hello!", overall=[3.0], relevance=[4.0], interestingness=[1.0]))
    assert view == {"empathy": 0.5, "informativeness": 0.0, "recommendation": 1.0, "engagement": 0.0}


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("Hello there", 0.0),
        ("A horror film", 0.25),
        ("Heat (1995) with Al Pacino", 0.5),
        ("Heat (1995), a crime drama with Al Pacino and Robert De Niro", 1.0),
    ],
)
def test_information_counts_films_people_and_genres(response, value):
    assert judging.information(response) == value


def test_a_fifth_of_the_dialogues_is_never_learnt_from():
    turns = [turn(number=str(n), satisfaction=[3.0]) for n in range(1000)]
    found = list(judging.examples(turns, seed=0, valid_share=0.1))
    assert len(found) / 1000 == pytest.approx(1 - ratings.HELD_OUT, abs=0.04)
    assert not [e for e in found if ratings.is_held_out(e.id.split(":")[0])]
    assert sum(e.split == "valid" for e in found) / len(found) == pytest.approx(0.1, abs=0.03)


def test_a_judges_directory_says_what_it_learnt(tmp_path):
    judging.write_marker(tmp_path)
    assert not tiny.is_untrained(str(tmp_path))
    labels = tiny.judge_labels(str(tmp_path), "ecr-ma")
    assert list(labels) == list(judging.RUBRIC.aspects)
    assert labels["empathy"].startswith("proxy: satisfaction")
    assert set(tiny.judge_labels(str(tmp_path), "ecr").values()) == {"not learnt"}
    assert tiny.judge_labels(tiny.resolve_model("tiny:0"), "ecr-ma") is None
