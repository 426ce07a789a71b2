"""Values along the prompts, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ecr_ray.data.titles import Titles
from ecr_ray.evaluation import measures
from ecr_ray.evaluation.asking import Prompts
from ecr_ray.evaluation.measures import Replies

HUMAN = ("Try Heat (1995) tonight.", "What do you like?", "Up (2009) is sweet.")
HOW = {"seed": 0, "resamples": 200}


def said(**texts):
    rows = [
        {
            "turn_id": f"d{n}:1",
            "dialogue_id": f"d{n}",
            "context": [{"role": "seeker", "text": "I loved Ronin (1998)."}],
            "response": HUMAN[n % 3],
        }
        for n in range(len(next(iter(texts.values()))))
    ]
    replies = [
        {"system": name, "turn_id": row["turn_id"], "text": text, "ended": True, "status": "ok" if text else "missing"}
        for name, given_ in texts.items()
        for row, text in zip(rows, given_, strict=True)
    ]
    return Replies.of(Prompts(rows, {}, 0), replies)


def test_films_that_are_named_invented_and_shared_with_people():
    found = measures.of_texts(
        said(human=HUMAN, ours=("I would see heat (1995)", None, "Ronin (1998) or Foo (2001)")),
        Titles(["Heat (1995)", "Up (2009)"]),
    )
    np.testing.assert_equal(found["titles named per reply"]["ours"], [1, np.nan, 2])
    # The seeker named Ronin first, though no catalogue has it.
    np.testing.assert_equal(found["names a film that does not exist, share"]["ours"], [0, np.nan, 1])
    # People recommended nothing on the second prompt.
    np.testing.assert_equal(found["names a film that people recommended there, share"]["ours"], [1, np.nan, 0])
    assert "human" not in found["names a film that people recommended there, share"]
    assert "human" not in found["ROUGE-L, per reply"] and "ours" in found["ROUGE-L, per reply"]


def test_figures_count_only_the_replies_that_there_are():
    replies = said(human=HUMAN * 4, ours=("one two", None, "one two three") * 4)
    (figure,) = (
        f
        for f in measures.figures(measures.of_texts(replies, None), {}, replies, HOW)
        if f.measure == "words" and f.system == "ours"
    )
    assert (figure.value, figure.n) == (2.5, 8)


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    replies = said(ours=("a",) * 12)
    nats = [(-np.log(2.0) * 3, 3)] * 6 + [(-np.log(8.0), 1)] * 6
    found = {f.measure: f for f in measures.over_corpus(replies, None, {"ours": nats}, HOW)}
    # exp((3·6·log 2 + 6·log 8) / (3·6 + 6)).
    assert found["perplexity"].value == pytest.approx(np.exp((18 * np.log(2) + 6 * np.log(8)) / 24), abs=1e-4)


def test_people_are_their_own_reference_and_that_is_no_figure():
    replies = said(human=HUMAN * 4, ours=HUMAN[1:] * 6)
    found = {(f.measure, f.system): f for f in measures.over_corpus(replies, None, {}, HOW)}
    assert found["BLEU-1", "human"].value is None and found["BLEU-1", "human"].withheld == measures.REFERENCE
    assert found["BLEU-1", "ours"].value is not None


def test_alignment_by_hand():
    seeker = np.array([[1.0, 0.0], [0.0, 1.0]])
    # Answers in kind: cosine 1 with its own message, 0 with the other.
    assert measures.alignment(seeker, seeker).tolist() == [1.0, 1.0]
    assert measures.alignment(seeker, seeker[::-1]).tolist() == [-1.0, -1.0]
    found = measures.alignment(seeker, np.array([[1.0, 0.0], [np.nan, np.nan]]))
    assert np.isnan(found).all()


@given(
    arrays.arrays(float, (5, 3), elements=st.floats(0.05, 1)), arrays.arrays(float, (3,), elements=st.floats(0.05, 1))
)
def test_who_always_sounds_the_same_answers_no_feeling(seeker, always):
    found = measures.alignment(seeker, np.tile(always, (5, 1)))
    assert np.mean(found) == pytest.approx(0, abs=1e-9)


def test_judges_speak_on_the_papers_scale():
    replies = said(ours=("a", "b"))
    rows = [
        {"judge": "j", "system": "ours", "turn_id": "d0:1", "empathy": 0.5, "overall": 1.0},
        {"judge": "j", "system": "ours", "turn_id": "d1:1", "empathy": None, "overall": None},
    ]
    found = measures.of_judges(replies, rows, ["empathy"])
    np.testing.assert_equal(found["j: empathy, 0-9"]["ours"], [4.5, np.nan])
    np.testing.assert_equal(found["j: overall, 0-9"]["ours"], [9.0, np.nan])


def test_a_judge_that_fails_on_most_rows_is_withheld_and_the_rest_stands():
    replies = said(ours=("a b c",) * 20, base=("a b",) * 20)
    failing = np.where(np.arange(20) < 8, 1.0, np.nan)
    rated = {"j": {"ours": failing, "base": failing}}
    values = {"words": {"ours": np.full(20, 3.0), "base": np.full(20, 2.0)}, "seldom": {"ours": failing}}
    found = {(f.measure, f.system): f for f in measures.figures(values, rated, replies, HOW)}
    assert found["j", "ours"].value is None and "12 of 20" in found["j", "ours"].withheld
    assert found["words", "ours"].value == 3.0
    # What most replies have no part in is no failure.
    assert (found["seldom", "ours"].value, found["seldom", "ours"].n) == (1.0, 8)
    told = {c.measure: c for c in measures.differences(values, rated, "base", replies.asked.groups, HOW)}
    assert told["words"].difference == 1.0 and told["j"].withheld


def test_every_value_is_kept_and_nothing_becomes_a_number_by_default():
    replies = said(ours=("a", None))
    rows = measures.rows_of({"words": {"ours": replies.along("ours", [1.0])}}, replies.asked)
    assert [row["value"] for row in rows] == [1.0, None]
