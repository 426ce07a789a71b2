"""A request's way to its answer: real reader, recommender and critic, and a policy that says what the test wants."""

import asyncio

import pytest

from ecr_ray.config import ServeConfig
from ecr_ray.serving import films, recommending
from ecr_ray.serving.adapters import State, Version
from ecr_ray.serving.answering import Answering
from ecr_ray.serving.policy import Piece, Reply
from ecr_ray.serving.schemas import RecommendRequest

SAID = "I loved John Wick (2014), so much fun. Another like it?"
LIVE = Version("base", "", "", "live")


class Meter:
    """Told, not counted."""

    def wrote(self, prompt, answer, seconds):
        self.last = prompt, answer, seconds


class Services:
    """What an ingress asks others, asked here."""

    def __init__(self, settings, replies, rates=True):
        self.recommending, self.replies_of_policy = recommending.Recommending(settings), replies
        self.rating, self.meter, self.counted, self.asked = recommending.Rating(settings), Meter(), [], None
        self.rates = rates

    state = State({"base": LIVE}, "base")

    async def read(self, dialogue, count, without):
        return await self.recommending.read(dialogue, count, without)

    async def rate(self, dialogue, responses):
        return await self.rating.rate(dialogue, responses)

    async def replies(self, asked):
        self.asked = asked
        return [Reply(text, "stop", len(text.split()), 9) for text in self.replies_of_policy[: asked.n]]

    async def stream(self, asked):
        self.asked = asked
        for word in self.replies_of_policy[0].split(" "):
            yield [Piece(0, f" {word}", None, 1, 9)]
        yield [Piece(0, "", "stop", 1, 9)]

    def count(self, version, failed, rating):
        self.counted.append((version.id, failed, rating))


@pytest.fixture(scope="module")
def known():
    return films.load("ecr-tiny-recommender")


def answering(known, replies, settings=None, rates=True, **request):
    settings = settings or ServeConfig()
    services = Services(settings, replies, rates)
    body = RecommendRequest.model_validate({"messages": [{"role": "user", "content": SAID}], **request})
    return Answering(body, services, settings, known.titles, LIVE), services


def whole(*arguments, **more):
    answer, services = answering(*arguments, **more)
    return asyncio.run(answer.whole()), services


def test_an_invented_film_gives_way_to_one_that_was_recommended(known):
    found, _ = whole(known, ["You should see Big Foo Returns (2031)!"], k=2)
    first = found["recommendations"][0]["title"]
    assert found["reply"] == f"You should see {first}!" and found["replaced"] == {"Big Foo Returns (2031)": first}
    assert len(found["recommendations"]) == 2


def test_the_critic_chooses_among_several(known):
    replies = ["no", "Have you seen The Matrix (1999)? It is a great action movie with Keanu Reeves!", "ok"]
    found, services = whole(known, replies, n=3)
    assert found["reply"] == replies[1] and services.asked.n == 3
    assert services.counted == [("base", False, found["scores"]["opinion"])]


def test_below_the_floor_the_film_speaks_for_itself(known):
    found, _ = whole(known, ["no"], ServeConfig(floor=0.99))
    film = found["recommendations"][0]
    assert found["reply_from"] == "recommendation" and found["scores"] is None
    assert found["reply"] == f"How about {film['title']}? It {film['reason']}."


def test_an_empty_answer_is_none(known):
    assert whole(known, ["  "])[0]["reply_from"] == "recommendation"


def test_without_a_critic_there_are_no_ratings(known):
    found, services = whole(known, ["Sure!"], rates=False)
    assert found["scores"] is None and services.counted == [("base", False, None)]


def test_a_grounded_policy_is_told_film_and_feelings(known):
    found, services = whole(known, ["Sure!"], ServeConfig(grounded=True))
    assert services.asked.grounding.film == found["recommendations"][0]["title"]
    assert set(services.asked.grounding.emotions) <= {e["label"] for e in found["emotions"]}


def test_a_stream_shows_words_as_they_come_and_a_floor_waits(known):
    async def events(answer):
        return [event async for event in answer.events()]

    said = "Have you seen The Matrix (1999)? It is fun."
    found = asyncio.run(events(answering(known, [said])[0]))
    texts = [data["delta"] for name, data in found if name == "text"]
    assert len(texts) > 4 and "".join(texts) == said == found[-1][1]["reply"]
    waited = asyncio.run(events(answering(known, [said], ServeConfig(floor=0.01))[0]))
    assert [name for name, _ in waited] == ["read", "text", "done"]
