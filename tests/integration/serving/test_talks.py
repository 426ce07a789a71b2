"""The served system talks with users: those of rules, and one whom a model plays; the endpoint's own policy is far too
small to play one well, but it is a real model behind a real API."""

import pytest

from ecr_ray.evaluation.simulation import episodes, users
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.evaluation.simulation.partners import Served
from ecr_ray.evaluation.simulation.tasks import draw_tasks
from ecr_ray.recommender import catalogue

pytestmark = pytest.mark.slow
TALKS, TURNS = 3, 3


@pytest.mark.parametrize("model", ["", "ecr-tiny-chat"], ids=["rules", "model"])
def test_users_talk_with_the_served_system(endpoint, model, monkeypatch):
    monkeypatch.setenv("ECR_TEST_KEY", endpoint.key)
    what = catalogue.load("sample")
    watch = Watch(what)
    spec = users.UserSpec(f"{endpoint.url}/v1" if model else "", model, "ECR_TEST_KEY")
    served = Served(endpoint.url, "ECR_TEST_KEY", count=3)
    said = []
    for task in draw_tasks(what, TALKS, 0):
        user = users.make(spec, task, what, watch, 0)
        talk = episodes.converse(user, served, task.target, watch, TURNS)
        assert talk.status == episodes.OK and 1 <= talk.turns <= TURNS and talk.success in (True, False), talk.reason
        own = [message for message in talk.messages if message.role == "seeker"]
        # What comes after the system's last reply is the yes to the film.
        assert not any(watch.leaks(message.text, task.target) for message in own[: talk.turns])
        shown = [film for message in talk.messages for film in message.film_ids]
        assert len(shown) == len(set(shown)) == 3 * talk.turns
        said += [message.text for message in own]
    assert len(set(said)) > TALKS
