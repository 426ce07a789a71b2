"""Feelings and films of a dialogue that is going on: a Serve deployment (see app.py)."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ecr_ray import prompts
from ecr_ray.config import ServeConfig
from ecr_ray.policy import grounding
from ecr_ray.recommender import place


@dataclass(frozen=True)
class Film:
    """One that is recommended."""

    id: str
    title: str
    year: int | None
    score: float
    """Its probability among all that could be recommended."""
    reason: str


@dataclass(frozen=True)
class Read:
    """What was read out of a dialogue."""

    films: tuple[Film, ...]
    emotions: tuple[tuple[dict[str, Any], ...], ...]
    """Of every message, the likeliest first."""
    mentioned: tuple[str, ...]
    """Ids of the films that were found in it."""
    note: str
    """What had to be done without."""
    grounding: prompts.Grounding | None = None


class Recommending:
    """Reads dialogues, one after the other."""

    def __init__(self, settings: ServeConfig) -> None:
        import torch

        from ecr_ray.emotion import live
        from ecr_ray.recommender.predict import Recommender

        torch.set_num_threads(1)
        self._emotions = live.Live(settings.emotions)
        self._recommender = Recommender(place.of(settings.recommender))
        self._grounder = _grounder(settings) if settings.grounded else None
        # What is read is kept to be read no more; one thread, so that nobody else writes there.
        self._thread = ThreadPoolExecutor(1)
        self.read_now([{"role": "seeker", "text": "hi"}], 1)

    async def read(self, dialogue: Sequence[Mapping[str, Any]], count: int, without: Sequence[str] = ()) -> Read:
        """Feelings, and so many films that were not named before; `without` those of some ids."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.read_now, dialogue, count, without)

    def read_now(self, dialogue: Sequence[Mapping[str, Any]], count: int, without: Sequence[str] = ()) -> Read:
        """The same, in this thread."""
        felt = self._emotions.read(dialogue)
        answer = self._recommender.recommend(felt, count + len(without))
        best = [film for film in answer.films if film.item_id not in without][:count]
        films = tuple(Film(f.item_id, f.title, f.year, f.score, f.reason.text) for f in best)
        emotions = tuple(tuple(sorted(m["emotions"], key=lambda e: -e["prob"])) for m in felt)
        return Read(films, emotions, answer.mentioned, answer.note, self._ground(films, felt))

    def _ground(self, films: Sequence[Film], felt: Sequence[Mapping[str, Any]]) -> prompts.Grounding | None:
        if self._grounder is None or not films:
            return None
        feelings, film = grounding.feelings(felt), self._grounder.films.get(films[0].id)
        if film is None:
            return prompts.Grounding(films[0].title, feelings)
        return self._grounder.of_film(film, feelings, films[0].id)


def _grounder(settings: ServeConfig) -> grounding.Grounder:
    from ecr_ray.data import retrieval

    return grounding.load(settings.knowledge, settings.reviews, retrieval.Limits(), settings.seed)


class Rating:
    """What the critic thinks of answers: a Serve deployment (see app.py)."""

    def __init__(self, settings: ServeConfig) -> None:
        import torch

        from ecr_ray.encoders import predict
        from ecr_ray.policy.ppo import rewards

        torch.set_num_threads(1)
        self._critic = predict.Local(settings.critic)
        self._weights = rewards.parse_aspects(settings.aspects)
        rewards.check_heads(self._critic.shape.heads, self._weights)
        self._thread = ThreadPoolExecutor(1)
        self.rate_now([{"role": "seeker", "text": "hi"}], ["hello"])

    async def rate(self, dialogue: Sequence[Mapping[str, str]], responses: Sequence[str]) -> list[dict[str, float]]:
        """Every answer's ratings by the critic's heads, and `opinion`: those that count, weighted."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.rate_now, dialogue, responses)

    def rate_now(self, dialogue: Sequence[Mapping[str, str]], responses: Sequence[str]) -> list[dict[str, float]]:
        """The same, in this thread."""
        from ecr_ray.policy.ppo import rewards

        seen = []

        def predicted(contexts: Any, texts: Any) -> Any:
            seen.append(self._critic.predict(contexts, texts))
            return seen[-1]

        opinion = rewards.of_critic(predicted, self._weights, 0.0)([dialogue] * len(responses), responses)
        found = seen[0]
        return [
            {head: float(mean) for head, mean in zip(found.heads, row, strict=True)} | {"opinion": float(worth)}
            for row, worth in zip(found.mean_NK, opinion, strict=True)
        ]
