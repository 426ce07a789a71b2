"""The first films of a ranking."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.recommender.predict import _best

SCORES = st.lists(st.sampled_from([-np.inf, -2.0, -1.0, 0.0, 0.5]), min_size=1, max_size=30)


@given(SCORES, st.integers(0, 35))
def test_it_is_the_head_of_a_stable_sort_of_what_may_be_recommended(scores, count):
    scores = np.array(scores, dtype=np.float32)
    sort = [n for n in np.argsort(-scores, kind="stable") if np.isfinite(scores[n])]
    assert _best(scores, count) == sort[:count]
