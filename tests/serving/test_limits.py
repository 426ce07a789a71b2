"""How much one key may ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.serving import limits
from ecr_ray.serving.limits import Limiter, Refused


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_burst_then_a_steady_rate():
    clock = Clock()
    limiter = Limiter(60, 100, clock)
    for _ in range(60):
        limiter.enter("anna")
    with pytest.raises(Refused) as refused:
        limiter.enter("anna")
    assert refused.value.after_s == 1
    limiter.enter("bert")
    clock.now = 1.0
    limiter.enter("anna")
    with pytest.raises(Refused):
        limiter.enter("anna")


def test_so_many_at_once():
    limiter = Limiter(600, 2, Clock())
    limiter.enter("anna")
    limiter.enter("anna")
    with pytest.raises(Refused, match="2 requests under way"):
        limiter.enter("anna")
    limiter.leave("anna")
    limiter.enter("anna")


def test_doors_share_what_a_key_may(monkeypatch):
    clock, doors = Clock(), [2]
    limiter = Limiter(60, 3, clock, lambda: doors[0])
    limiter.enter("anna")
    limiter.enter("anna")
    with pytest.raises(Refused, match="2 requests under way"):
        limiter.enter("anna")
    for _ in range(28):
        limiter.leave("anna")
        limiter.enter("anna")
    limiter.leave("anna")
    with pytest.raises(Refused, match="too often") as refused:
        limiter.enter("anna")
    assert refused.value.after_s == 2
    # The other door has closed.
    doors[0] = 1
    clock.now = 1.0
    limiter.enter("anna")


def test_old_keys_are_forgotten_unless_inside(monkeypatch):
    monkeypatch.setattr(limits, "REMEMBERED", 2)
    limiter = Limiter(60, 1, Clock())
    for name in "abcd":
        limiter.enter(name)
        if name != "a":
            limiter.leave(name)
    assert set(limiter._buckets) == {"a", "c", "d"}


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 120))
def test_never_more_than_the_burst_and_the_rate_allow(waits, per_minute):
    clock = Clock()
    limiter, let_in = Limiter(per_minute, 10_000, clock), 0
    for wait in waits:
        clock.now += wait
        try:
            limiter.enter("anna")
            let_in += 1
        except Refused as refused:
            assert 1 <= refused.after_s <= 61
    assert let_in <= per_minute + clock.now * per_minute / 60 + 1e-6
