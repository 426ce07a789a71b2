"""Load, with replicas killed on the way: nothing is lost or mixed up, and errors come only with when to ask again."""

import asyncio
import os
import random
import signal
import time

import httpx
import pytest

from tests.integration.serving.conftest import wait_for
from tests.integration.serving.load import CHAT, CLIENTS, SAID, Load, chat, engine, replica, replicas, under_load

pytestmark = pytest.mark.slow


def test_an_engine_and_a_recommender_die_and_no_answer_is_lost_or_anybody_elses(endpoint):
    load = Load(endpoint)
    before = engine("ingress"), replica("recommender")
    asyncio.run(under_load(load, lambda: engine("ingress"), lambda: replica("recommender")))
    load.check()
    assert engine("ingress") != before[0] and replica("recommender") != before[1]


def test_an_ingress_dies_and_whoever_asked_is_told_when_to_ask_again(endpoint):
    # No streams: of one that has begun nobody is left to say how it ends.
    load, before = Load(endpoint, requests=192, streams=False), replica("ingress")
    asyncio.run(under_load(load, lambda: replica("ingress")))
    load.check()
    assert replica("ingress") not in (None, before)


def test_a_crowd_gets_another_recommender(endpoint):
    async def crowd():
        settings = {"headers": {"authorization": f"Bearer {endpoint.key}"}, "trust_env": False, "timeout": 120}
        async with httpx.AsyncClient(base_url=endpoint.url, **settings) as ask:

            async def one():
                while len(found) < 2 and time.monotonic() < deadline:
                    # Nothing that it has read before: reading is what it must be too slow for.
                    text = f"{random.choice(SAID)} {random.random()}"
                    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
                    assert (await ask.post("/v1/recommend", json=body)).status_code == 200

            async def watch():
                while len(found) < 2 and time.monotonic() < deadline:
                    await asyncio.sleep(1)
                    found[:] = await asyncio.to_thread(replicas, "recommender")

            await asyncio.gather(watch(), *(one() for _ in range(CLIENTS)))

    found, deadline = [], time.monotonic() + 90
    asyncio.run(crowd())
    assert len(found) == 2


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_answered(endpoint):
    async def crowd():
        settings = {"headers": {"authorization": f"Bearer {endpoint.key}"}, "trust_env": False, "timeout": 120}
        async with httpx.AsyncClient(
            base_url=endpoint.url, limits=httpx.Limits(max_connections=None), **settings
        ) as ask:
            # Long answers: it must not be done with the first before the last has asked.
            return await asyncio.gather(*(ask.post(CHAT, json=chat(SAID[n % 6], max_tokens=64)) for n in range(500)))

    found = asyncio.run(crowd())
    refused = [answer for answer in found if answer.status_code == 503]
    # An engine of 64 at once, where 100 may wait.
    assert {answer.status_code for answer in found} == {200, 503} and 500 - len(refused) >= 164
    assert all(a.json()["error"]["code"] == "busy" and a.headers["retry-after"] == "1" for a in refused)


def test_many_long_requests_with_seeds_at_once_are_all_answered(endpoint):
    # More than the engine reads in a step; one that read a prompt in two pieces would die of the second.
    before = engine("ingress")

    async def crowd():
        settings = {"headers": {"authorization": f"Bearer {endpoint.key}"}, "trust_env": False, "timeout": 120}
        async with httpx.AsyncClient(
            base_url=endpoint.url, limits=httpx.Limits(max_connections=None), **settings
        ) as ask:
            said = [f"{n} " + " ".join(f"{n * k % 97} films" for k in range(150)) for n in range(48)]
            bodies = [{"messages": [{"role": "user", "content": text}], "seed": 1, "max_tokens": 4} for text in said]
            return await asyncio.gather(*(ask.post(CHAT, json={"model": "ecr-tiny-ppo", **b}) for b in bodies))

    found = asyncio.run(crowd())
    assert {answer.status_code for answer in found} == {200}, [answer.text for answer in found][:3]
    assert min(answer.json()["usage"]["prompt_tokens"] for answer in found) > 300 and engine("ingress") == before


def test_a_dead_ingress_and_a_dead_registry_come_back_and_know_what_was_live(endpoint):
    live = endpoint.adapters()[1]["live"]
    for name in ("registry", "ingress", "critic"):
        os.kill(replica(name), signal.SIGKILL)

    def answers():
        try:
            return endpoint.ask("Still there?", max_tokens=4)["scores"]
        except (AssertionError, httpx.HTTPError):
            return None

    wait_for("the endpoint to answer again", answers, 60)
    assert endpoint.adapters()[1]["live"] == live
