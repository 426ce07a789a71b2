"""Answers that take too long, whole or streamed."""

import asyncio

import pytest

from ecr_ray.serving import sse
from ecr_ray.serving.errors import ApiError, busy


async def lines(*waits):
    for n, wait in enumerate(waits):
        await asyncio.sleep(wait)
        yield f"data: {n}\n\n"


def streamed(*waits, seconds=0.2):
    """Everything a client would read, and how often the version was counted as failing."""
    failed = []

    async def read():
        response = await sse.response(lines(*waits), seconds, lambda: failed.append(1))
        return [line async for line in response.body_iterator]

    return asyncio.run(read()), len(failed)


def test_what_takes_too_long_is_a_504_and_counts_against_its_version():
    failed = []
    with pytest.raises(ApiError) as told:
        asyncio.run(sse.in_time(asyncio.sleep(5), 0.05, lambda: failed.append(1)))
    assert told.value.status == 504 and told.value.retry_after_s and failed == [1]


def test_what_the_asker_did_wrong_does_not_count():
    async def wrong():
        raise ApiError(400, "no", "no")

    failed = []
    with pytest.raises(ApiError):
        asyncio.run(sse.in_time(wrong(), 1, lambda: failed.append(1)))
    assert failed == []


def test_a_stream_in_time_is_as_it_is():
    assert streamed(0, 0) == (["data: 0\n\n", "data: 1\n\n"], 0)


def test_a_stream_whose_first_event_is_late_has_a_status_of_its_own():
    with pytest.raises(ApiError) as told:
        streamed(5)
    assert told.value.status == 504


def test_a_stream_that_stops_says_so_in_an_event():
    (first, last), failed = streamed(0, 5)
    assert first == "data: 0\n\n" and last.startswith("event: error\ndata: ") and '"timeout"' in last and failed == 1


def test_a_crowd_does_not_speak_against_a_version_and_the_unexpected_does():
    async def raises(error):
        raise error

    for error, times in ((busy(), 0), (ValueError("x"), 1), (ApiError(500, "adapter", "x"), 1)):
        failed = []
        with pytest.raises(type(error)):
            asyncio.run(sse.in_time(raises(error), 1, lambda failed=failed: failed.append(1)))
        assert len(failed) == times


def test_what_nobody_thought_of_is_an_event_too():
    async def breaks():
        yield "data: 0\n\n"
        raise ValueError("secret")

    async def read():
        response = await sse.response(breaks(), 1, lambda: None)
        return [line async for line in response.body_iterator]

    _, last = asyncio.run(read())
    assert '"internal"' in last and "secret" not in last


def test_busy_says_when_to_ask_again():
    assert busy().headers() == {"Retry-After": "1"} and busy().body()["error"]["type"] == "server_error"
