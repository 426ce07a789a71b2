"""Who writes answers: room for so many, and an end for who stops listening."""

import asyncio

import pytest

from ecr_ray.config import ServeConfig
from ecr_ray.serving.adapters import Version
from ecr_ray.serving.errors import ApiError
from ecr_ray.serving.policy import Asked, Piece, engines, environment
from ecr_ray.serving.writing import InProcess, Replicas

ASKED = Asked(Version("base", "", ""), 4, 0.0)


class Engine:
    """Writes one piece after the other, as Policy does."""

    def __init__(self, busy=0):
        self.busy, self.closed = busy, False

    async def replies(self, asked):
        return ["all of it"]

    async def stream(self, asked):
        try:
            while True:
                yield [Piece(0, "word")]
        finally:
            self.closed = True


def in_process(busy):
    found = InProcess(ServeConfig(max_num_seqs=2, waiting=3))
    found.policy = Engine(busy)
    return found


async def first(stream):
    async for pieces in stream:
        await stream.aclose()
        return pieces


def test_an_engine_takes_what_it_writes_and_what_may_wait():
    writing = in_process(busy=4)
    assert asyncio.run(writing.replies(ASKED)) == ["all of it"]
    assert asyncio.run(first(writing.stream(ASKED))) == [Piece(0, "word")]


def test_more_than_that_is_refused_with_when_to_ask_again():
    writing = in_process(busy=5)
    for ask in (lambda: writing.replies(ASKED), lambda: first(writing.stream(ASKED))):
        with pytest.raises(ApiError) as refused:
            asyncio.run(ask())
        assert refused.value.status == 503 and refused.value.retry_after_s


def test_who_stops_listening_ends_the_replica_s_answer():
    class Handle:
        """A deployment's, as far as it is used."""

        cancelled = False

        def options(self, stream):
            assert stream
            return self

        @property
        def stream(self):
            return self

        def remote(self, asked):
            self.answer = Engine().stream(asked)
            return self

        def __aiter__(self):
            return self.answer

        def cancel(self):
            self.cancelled = True

    handle = Handle()
    assert asyncio.run(first(Replicas(handle).stream(ASKED))) == [Piece(0, "word")]
    assert handle.cancelled


def test_engines_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    apart = ServeConfig(policy_in="replicas", policy_replicas=(1, 4), ingress_replicas=(1, 2))
    beside = ServeConfig(ingress_replicas=(1, 2))
    assert (engines(apart), engines(beside)) == ((1, 4), (1, 2))
    assert environment(apart)["OMP_NUM_THREADS"] == "3" and environment(beside)["OMP_NUM_THREADS"] == "7"
