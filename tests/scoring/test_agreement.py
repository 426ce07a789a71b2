import krippendorff
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecr_ray.records import score_schema
from ecr_ray.scoring import agreement


def test_by_hand():
    # Ranks 1 2 3 4 against 1 3 2 4: 1 − 6·2/(4·15) = 0.8; differences 0, −1, 1, 0.
    pairs = np.array([[1, 1], [2, 3], [3, 2], [4, 4]], float)
    assert agreement.spearman(pairs) == pytest.approx(0.8)
    assert agreement.pearson(pairs) == pytest.approx(0.8)
    assert agreement.mean_bias(pairs) == pytest.approx(0.0)
    assert agreement.pearson(np.array([[1, 2], [1, 3]], float)) != agreement.pearson(pairs)
    assert np.isnan(agreement.pearson(np.array([[1, 2], [1, 3]], float)))


@settings(max_examples=50)
@given(
    arrays(
        float,
        st.tuples(st.integers(3, 12), st.integers(2, 4)),
        elements=st.one_of(st.floats(0, 1), st.just(np.nan)),
    )
)
def test_alpha_is_that_of_the_reference_package(ratings):
    kept = ratings[(~np.isnan(ratings)).sum(axis=1) >= 2]
    assume(len(kept) >= 2 and np.nanvar(kept) > 1e-6)
    assert agreement.krippendorff_alpha(ratings) == pytest.approx(
        krippendorff.alpha(ratings.T, level_of_measurement="interval"), abs=1e-9
    )


def test_the_interval_is_over_dialogues_and_not_over_turns():
    # Ten dialogues of fifty identical turns: by turns the mean bias would look fifty times as well known.
    rng = np.random.default_rng(0)
    per_dialogue = rng.normal(size=10)
    ratings = np.column_stack([np.repeat(per_dialogue, 50), np.zeros(500)])
    groups = np.repeat(np.arange(10), 50)
    found = agreement.with_interval(agreement.mean_bias, ratings, groups, resamples=400, seed=1)
    standard_error = per_dialogue.std() / np.sqrt(10)
    assert found.value == pytest.approx(per_dialogue.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.2)
    again = agreement.with_interval(agreement.mean_bias, ratings, groups, resamples=400, seed=1)
    assert found == again


def test_rows_are_matched_by_turn_and_silence_is_left_out():
    def judged(scores):
        return pa.Table.from_pylist(
            [{"turn_id": t, "dialogue_id": t[0], "a": s, "overall": s} for t, s in scores.items()],
            schema=score_schema(["a"]),
        )

    tables = {
        "x": judged({"d:1": 0.1, "d:3": 0.2, "e:1": 0.9}),
        "y": judged({"e:1": 0.8, "d:1": 0.2, "f:1": 0.5}),
    }
    rows = agreement.agreement(tables, ["a"], resamples=50, seed=0)
    pair = next(r for r in rows if r["aspect"] == "a" and "pearson" in r)
    assert (pair["judges"], pair["n"], pair["pearson"]["value"]) == (["x", "y"], 2, 1.0)
    assert pair["mean_bias"]["value"] == pytest.approx(0.0)
