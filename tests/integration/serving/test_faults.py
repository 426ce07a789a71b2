"""Load, with replicas killed on the way: nothing is lost or mixed up, and errors come only with when to ask again."""

import asyncio
import json
import os
import random
import signal
import time

import httpx
import pytest

from tests.integration.serving.conftest import wait_for

pytestmark = pytest.mark.slow
# Ten thousand take minutes: `ECR_LOAD_REQUESTS=10000`, as measured for the README.
REQUESTS = int(os.environ.get("ECR_LOAD_REQUESTS", "600"))
CLIENTS = 64
SAID = (
    "I loved Alien (1979). Something as scary?",
    "I had a rotten day and need to laugh.",
    "A film for a rainy Sunday with the kids, like Finding Nemo (2003)?",
    "I loved John Wick (2014), so much fun. Another like it?",
    "Something romantic, like Titanic (1997).",
    "I want to cry.",
)


def replicas(name):
    """Processes of the deployment's replicas."""
    from ray.util.state import list_actors

    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    return [actor.pid for actor in actors if f"#{name}#" in (actor.name or "")]


def replica(name):
    """Process of one of them."""
    return next(iter(replicas(name)), None)


class Load:
    """Asks, and checks every answer against what was said when nobody else asked."""

    def __init__(self, endpoint, requests=REQUESTS, streams=True):
        self.endpoint, self.done, self.told_to_wait, self.wrong = endpoint, 0, 0, []
        self.requests, self.streams = requests, streams
        self.films = {said: [f["id"] for f in endpoint.ask(said, max_tokens=4)["recommendations"]] for said in SAID}
        with endpoint.client() as client:
            self.texts = {said: text_of(client.post(CHAT, json=chat(said))) for said in SAID}
        assert len(set(self.texts.values())) == len(SAID), self.texts

    async def client(self, ask, numbers):
        """One after the other; who is told to wait waits, and asks again."""
        for number in numbers:
            for _ in range(40):
                response, checked = await self.one(ask, number)
                wait = float(response.headers.get("retry-after", 0)) or broken_off(response)
                if response.status_code == 200 and not wait:
                    if not checked(response):
                        self.wrong.append((number, response.text))
                    break
                if response.status_code not in (200, 503) or not wait:
                    self.wrong.append((number, response.status_code, response.text))
                    break
                self.told_to_wait += 1
                await asyncio.sleep(wait * random.uniform(0.5, 1))
            else:
                self.wrong.append((number, "never answered"))
            self.done += 1

    async def one(self, ask, number):
        said = SAID[number % len(SAID)]
        if number % 5 == 0:
            body = {"messages": [{"role": "user", "content": said}], "user": f"n{number}", "max_tokens": 4}
            return await ask.post("/v1/recommend", json=body), lambda found: self.is_its_own(found.json(), said, number)
        if number % 5 == 1:
            return await ask.get("/v1/models"), lambda found: len(found.json()["data"]) >= 3
        stream = self.streams and number % 5 == 2
        text = streamed if stream else text_of
        return await ask.post(CHAT, json=chat(said, stream=stream)), lambda found: self.is_of(said, text(found))

    def is_its_own(self, answer, said, number):
        films = [film["id"] for film in answer["recommendations"]]
        return answer["user"] == f"n{number}" and films == self.films[said] and bool(answer["reply"])

    def is_of(self, said, text):
        # In another batch sums are rounded otherwise, and a word may differ; but it is nobody else's answer, and those
        # are of other lengths.
        others = {other for asked, other in self.texts.items() if asked != said}
        if text in others:
            print(f"to {said!r} it said {text!r}; alone {self.texts[said]!r}")
        return bool(text) and text not in others


CHAT = "/v1/chat/completions"


def chat(said, **more):
    """Asks for as many tokens as no other of them, so that an answer shows whose it is."""
    messages = [{"role": "user", "content": said}]
    tokens = 5 + SAID.index(said)
    return {"model": "ecr-tiny-chat", "messages": messages, "temperature": 0, "max_tokens": tokens, **more}


def text_of(response):
    return response.json()["choices"][0]["message"]["content"]


def streamed(response):
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks).strip()


def broken_off(response):
    """Of a stream that broke off: in how many seconds to ask again; 0 of all others."""
    if "event: error" not in response.text:
        return 0.0
    return float(json.loads(response.text.rpartition("data: ")[2])["retry_after_s"])


async def under_load(load, *victims):
    """Everybody asks; at a third of the way the first victim dies, at two thirds the second."""
    settings = {"headers": {"authorization": f"Bearer {load.endpoint.key}"}, "trust_env": False, "timeout": 120}
    async with httpx.AsyncClient(
        base_url=load.endpoint.url, limits=httpx.Limits(max_connections=CLIENTS), **settings
    ) as ask:

        async def killer():
            for n, victim in enumerate(victims, start=1):
                while load.done < n * load.requests / (len(victims) + 1):
                    await asyncio.sleep(0.05)
                os.kill(await asyncio.to_thread(replica, victim), signal.SIGKILL)

        clients = [load.client(ask, range(n, load.requests, CLIENTS)) for n in range(CLIENTS)]
        await asyncio.gather(*clients, killer())


def test_replicas_die_and_no_answer_is_lost_or_anybody_elses(endpoint):
    load = Load(endpoint)
    before = replica("policy"), replica("recommender")
    began = time.monotonic()
    asyncio.run(under_load(load, "policy", "recommender"))
    print(f"{load.done} requests in {time.monotonic() - began:.0f} s, {load.told_to_wait} times told to wait")
    assert load.done == REQUESTS and load.wrong == []
    assert (replica("policy"), replica("recommender")) != before


def test_an_ingress_dies_and_whoever_asked_is_told_when_to_ask_again(endpoint):
    # No streams: of one that has begun nobody is left to say how it ends.
    load, before = Load(endpoint, requests=192, streams=False), replica("ingress")
    asyncio.run(under_load(load, "ingress"))
    print(f"{load.told_to_wait} times told to wait")
    assert load.done == 192 and load.wrong == []
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
    assert {answer.status_code for answer in found} == {200, 503} and len(refused) < 300
    assert all(a.json()["error"]["code"] == "busy" and a.headers["retry-after"] == "1" for a in refused)


def test_many_long_requests_with_seeds_at_once_are_all_answered(endpoint):
    # More than the engine reads in a step; one that read a prompt in two pieces would die of the second.
    before = replica("policy")

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
    assert min(answer.json()["usage"]["prompt_tokens"] for answer in found) > 300 and replica("policy") == before


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
