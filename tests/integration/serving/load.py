"""A mixed load on an endpoint, whose every answer is checked against what was said when nobody else asked."""

import asyncio
import json
import os
import random
import signal
import time

import httpx
import psutil

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


def engine(name):
    """Process of the engine that one of them has."""
    children = psutil.Process(replica(name)).children(recursive=True)
    return next(child.pid for child in children if "EngineCore" in child.name() + " ".join(child.cmdline()))


def under_way(name):
    """Requests that the engine of the deployment's replica is answering."""
    import ray

    # In a process of its own: Serve's client remembers a controller, which is another one for every endpoint.
    @ray.remote(num_cpus=0, max_calls=1)
    def ask():
        from ray import serve

        return serve.get_deployment_handle(name, "ecr_ray").under_way.remote().result()

    return ray.get(ask.remote())


class Load:
    """Asks, and checks every answer against what was said when nobody else asked."""

    def __init__(self, endpoint, requests=REQUESTS, streams=True):
        self.endpoint, self.done, self.told_to_wait, self.wrong = endpoint, 0, 0, []
        self.requests, self.streams, self.began = requests, streams, time.monotonic()
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

    def check(self):
        """That all is answered, and each its own."""
        print(f"{self.done} requests in {time.monotonic() - self.began:.0f} s, {self.told_to_wait} times told to wait")
        assert self.done == self.requests and self.wrong == []

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
    """Everybody asks; at a third of the way the first victim dies, at two thirds the second.

    Args:
        load: who asks.
        victims: functions that give a process.
    """
    settings = {"headers": {"authorization": f"Bearer {load.endpoint.key}"}, "trust_env": False, "timeout": 120}
    async with httpx.AsyncClient(
        base_url=load.endpoint.url, limits=httpx.Limits(max_connections=CLIENTS), **settings
    ) as ask:

        async def killer():
            for n, victim in enumerate(victims, start=1):
                while load.done < n * load.requests / (len(victims) + 1):
                    await asyncio.sleep(0.05)
                os.kill(await asyncio.to_thread(victim), signal.SIGKILL)

        clients = [load.client(ask, range(n, load.requests, CLIENTS)) for n in range(CLIENTS)]
        await asyncio.gather(*clients, killer())
