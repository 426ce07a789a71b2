import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.scoring import digits
from ecr_ray.scoring.digits import AnswerError

LOW = -np.inf


def logprobs(**probs):
    """log p of one aspect from d0=..., d9=..."""
    return [math.log(probs[f"d{d}"]) if probs.get(f"d{d}") else LOW for d in range(10)]


def test_the_score_is_the_expected_digit_over_nine():
    # 3 with .25, 6 with .75: (0.75 + 4.5) / 9; a sure 9 is 1; half of the mass off the digits changes no score.
    table = np.array([logprobs(d3=0.25, d6=0.75), logprobs(d9=1.0), logprobs(d0=0.25, d9=0.25)])
    found = digits.from_logprobs(table)
    assert found.scores == pytest.approx((5.25 / 9, 1.0, 0.5))
    assert found.overall == pytest.approx((5.25 / 9 + 1.5) / 3)
    assert found.digit_mass == pytest.approx((1 + 1 + 0.5) / 3)


def test_confidence_is_one_minus_normalised_entropy():
    assert digits.from_logprobs(np.array([logprobs(d4=1.0)])).confidence == pytest.approx(1.0)
    assert digits.from_logprobs(np.full((2, 10), math.log(0.1))).confidence == pytest.approx(0.0)
    two_levels = np.array([logprobs(d1=0.5, d2=0.5)])
    assert digits.from_logprobs(two_levels).confidence == pytest.approx(1 - math.log(2) / math.log(10))


@given(st.lists(st.lists(st.floats(-700, 0), min_size=10, max_size=10), min_size=1, max_size=5))
def test_scores_stay_between_zero_and_one(rows):
    found = digits.from_logprobs(np.array(rows))
    for value in [*found.scores, found.overall, found.confidence, found.digit_mass]:
        assert -1e-9 <= value <= 1 + 1e-9


def test_no_probability_and_nan_are_failures_and_not_scores():
    with pytest.raises(AnswerError) as error:
        digits.from_logprobs(np.full((1, 10), LOW))
    assert error.value.status == "no_digit"
    with pytest.raises(AnswerError) as error:
        digits.from_logprobs(np.full((1, 10), np.nan))
    assert error.value.status == "nan"


def test_a_json_answer_is_taken_as_it_is():
    found = digits.from_json('{"b": 9, "a": 3}', ["a", "b"])
    assert found.scores == pytest.approx((1 / 3, 1.0))
    assert found.confidence is None and found.digit_mass is None


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ('Sure! {"a": 3, "b": 9}', "not_json"),
        ("", "not_json"),
        ('{"a": 3}', "off_schema"),
        ('{"a": 3, "b": 10}', "off_schema"),
        ('{"a": 3, "b": "9"}', "off_schema"),
        ('{"a": 3, "b": 4.5}', "off_schema"),
        ('{"a": [3], "b": 4}', "off_schema"),
        ('{"a": 3, "b": 4, "c": 5}', "off_schema"),
        ("[3, 4]", "off_schema"),
        ("3 4", "not_json"),
    ],
)
def test_nothing_is_guessed_from_a_bad_json_answer(answer, status):
    with pytest.raises(AnswerError) as error:
        digits.from_json(answer, ["a", "b"])
    assert error.value.status == status


@given(st.text(max_size=30) | st.dictionaries(st.text(max_size=3), st.integers()).map(json.dumps))
def test_any_answer_is_a_judgment_or_a_reason(answer):
    try:
        found = digits.from_json(answer, ["a", "b"])
    except AnswerError as error:
        assert error.status and str(error)
    else:
        assert all(0 <= s <= 1 for s in found.scores)
