"""Measures of a classifier of several labels, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_ray.emotion import measures
from ecr_ray.emotion.measures import Predicted

LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
SAID = np.array([[0.9, 0.2, 0.1], [0.6, 0.5, 0.1], [0.2, 0.7, 0.8], [0.1, 0.1, 0.1]])


def test_f1_by_hand():
    # Of the first label one of two is found, and one that is not there.
    assert measures.f1(SAID[:, 0] >= 0.5, LABELS[:, 0]) == 2 / 4
    assert measures.f1(SAID[:, 1] >= 0.5, LABELS[:, 1]) == 1
    assert measures.f1(SAID[:, 2] >= 0.5, LABELS[:, 2]) == 0
    assert np.isnan(measures.f1(SAID[:, 2] >= 0.9, LABELS[:, 2]))
    assert measures.macro_f1(SAID >= 0.5, LABELS) == pytest.approx((0.5 + 1 + 0) / 3)


def test_recall_by_hand():
    # First message: found. Second: among the two. Third: one of its two. The last has no label and does not count.
    assert measures.recall_at(SAID, LABELS, 2) == pytest.approx((1 + 1 + 0.5) / 3)
    assert measures.recall_at(SAID, LABELS, 1) == pytest.approx((1 + 0 + 0) / 3)


def test_calibration_by_hand():
    # Two at .25 with one label: off by .25; two at .75, both labelled: off by .25.
    said, there = np.array([0.25, 0.25, 0.75, 0.75]), np.array([True, False, True, True])
    assert measures.calibration_error(said, there) == pytest.approx(0.25)
    assert measures.calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0


def test_average_precision_by_hand():
    # Ranks 1 and 3 are right: (1/1 + 2/3) / 2.
    said, there = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert measures.average_precision(said, there) == pytest.approx(5 / 6)


def test_thresholds_by_hand():
    said = np.array([[0.9, 0.3], [0.8, 0.3], [0.7, 0.3], [0.1, 0.3]])
    there = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], dtype=bool)
    # From .7 on three are taken, two of them right: F1 4/5, more than 2/3 from .9 on. No label: one half.
    assert measures.thresholds(said, there).tolist() == [0.7, 0.5]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=40))
def test_no_other_threshold_has_a_higher_f1(rows):
    said = np.array([[p / 10] for p, _ in rows])
    there = np.array([[label] for _, label in rows])
    if not there.any():
        return
    (chosen,) = measures.thresholds(said, there)
    best = np.nanmax([measures.f1(said[:, 0] >= n / 10, there[:, 0]) for n in range(11)])
    assert measures.f1(said[:, 0] >= chosen, there[:, 0]) == pytest.approx(best)


def test_the_table_has_every_model_beside_the_first():
    models = {
        "ours": Predicted(SAID, np.full(3, 0.5)),
        "nobody": Predicted(np.full(SAID.shape, 0.3), np.full(3, 0.5)),
    }
    rows = measures.table(models, LABELS, ("a", "b", "c"), resamples=50, seed=0, leave_out=("c",))
    named = {(row["measure"], row["emotion"], row["model"]): row for row in rows}
    assert {row["emotion"] for row in rows} == {None, "a", "b"}
    ours, theirs = (named[measures.F1, None, name] for name in models)
    assert ours["value"] == pytest.approx(0.75) and ours["ahead"] is None
    assert theirs["value"] == 0 and theirs["ahead"]["value"] == pytest.approx(0.75)
    assert ours["low"] <= ours["value"] <= ours["high"] and ours["n"] == 4 and ours["positive"] == 4
    less = named[measures.CALIBRATION, "b", "nobody"]
    assert less["ahead"]["value"] == pytest.approx(less["value"] - named[measures.CALIBRATION, "b", "ours"]["value"])
    assert rows == measures.table(models, LABELS, ("a", "b", "c"), resamples=50, seed=0, leave_out=("c",))
