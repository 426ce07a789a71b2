"""A dialogue → an answer with recommendations: read, write, check the titles, rate, choose."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ecr_ray.config import ServeConfig
from ecr_ray.data.titles import Titles
from ecr_ray.serving import untrusted
from ecr_ray.serving.adapters import Version
from ecr_ray.serving.policy import Asked, Piece, Reply
from ecr_ray.serving.recommending import Read
from ecr_ray.serving.schemas import RecommendRequest, usage
from ecr_ray.serving.services import Services
from ecr_ray.serving.titles import Guard

ROLES = {"user": "seeker", "seeker": "seeker", "assistant": "recommender", "recommender": "recommender"}


@dataclass
class Clock:
    """Milliseconds by part."""

    began: float = field(default_factory=time.perf_counter)
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time spent in a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + 1e3 * (time.perf_counter() - began)

    def all(self) -> dict[str, float]:
        """Of every part, and in all."""
        whole = 1e3 * (time.perf_counter() - self.began)
        return {name: round(ms, 2) for name, ms in {**self.parts, "total": whole}.items()}


def dialogue_of(request: RecommendRequest) -> list[dict[str, str]]:
    """Messages as the project's stages know them; nothing in them passes for a prompt's structure.

    Of a message in which nothing is left to read a dot is.
    """
    return [{"role": ROLES[m.role], "text": untrusted.neutral(m.content) or "."} for m in request.messages]


def said_by_user(dialogue: Sequence[Mapping[str, str]]) -> list[str]:
    """What the seeker said: titles in it may be named."""
    return [m["text"] for m in dialogue if m["role"] == "seeker"]


class Answering:
    """One request's way to its answer."""

    def __init__(
        self, request: RecommendRequest, services: Services, settings: ServeConfig, titles: Titles, version: Version
    ) -> None:
        self._request, self._services, self._settings, self._titles = request, services, settings, titles
        self.version = version
        self.id = f"rec-{uuid.uuid4().hex}"
        self._clock = Clock()
        self._dialogue = dialogue_of(request)
        self._said = said_by_user(self._dialogue)

    async def whole(self) -> dict[str, Any]:
        """The answer."""
        read, replies = await self._read_and_written()
        return await self._chosen(read, replies)

    async def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """(`read` | `text` | `done`, data) as they come; the text as it is written, where nothing is to be chosen."""
        if self._request.n > 1 or self._settings.floor is not None:
            read, replies = await self._read_and_written()
            yield "read", _read(read)
            done = await self._chosen(read, replies)
            yield "text", {"delta": done["reply"]}
            yield "done", done
            return
        with self._clock.part("recommender"):
            read = await self._read()
        yield "read", _read(read)
        guard, held = self._guard(read, quick=True), Reply("", "stop", 0, 0)
        with self._clock.part("policy"):
            async for pieces in self._services.stream(self._asked(read)):
                held = _longer(held, pieces)
                text = guard.feed("".join(piece.text for piece in pieces))
                if text and guard.text.strip():
                    yield "text", {"delta": text if len(text) < len(guard.text) else text.lstrip()}
        if text := guard.finish():
            yield "text", {"delta": text}
        yield "done", await self._told(read, [held], [guard])

    async def _read_and_written(self) -> tuple[Read, list[Reply]]:
        if self._settings.grounded:
            with self._clock.part("recommender"):
                read = await self._read()
            with self._clock.part("policy"):
                return read, await self._services.replies(self._asked(read))
        # Neither needs the other.
        reading = asyncio.ensure_future(self._timed("recommender", self._read()))
        try:
            replies = await self._timed("policy", self._services.replies(self._asked(None)))
            return await reading, replies
        finally:
            reading.cancel()

    async def _timed(self, part: str, work: Any) -> Any:
        with self._clock.part(part):
            return await work

    async def _read(self) -> Read:
        # Some more than asked for, which may take the place of titles that do not exist.
        request = self._request
        return await self._services.read(self._dialogue, request.k + request.n, request.exclude)

    def _asked(self, read: Read | None) -> Asked:
        request, settings = self._request, self._settings
        return Asked(
            self.version,
            max_tokens=request.max_tokens or settings.max_tokens,
            temperature=settings.temperature if request.temperature is None else request.temperature,
            dialogue=tuple(self._dialogue),
            grounding=read.grounding if read else None,
            n=request.n,
            top_p=request.top_p,
            seed=request.seed,
        )

    def _guard(self, read: Read, *, quick: bool = False) -> Guard:
        return Guard(self._titles, self._said, [film.title for film in read.films], quick=quick)

    async def _chosen(self, read: Read, replies: Sequence[Reply]) -> dict[str, Any]:
        guards = [self._guard(read) for _ in replies]
        for guard, reply in zip(guards, replies, strict=True):
            guard.feed(reply.text)
            guard.finish()
        return await self._told(read, replies, guards)

    async def _told(self, read: Read, replies: Sequence[Reply], guards: Sequence[Guard]) -> dict[str, Any]:
        texts = [guard.text.strip() for guard in guards]
        ratings: list[dict[str, float]] = []
        if self._services.rates:
            with self._clock.part("critic"):
                ratings = await self._services.rate(self._dialogue, texts)
        best = max(range(len(texts)), key=lambda n: ratings[n]["opinion"]) if ratings else 0
        rating = ratings[best] if ratings else None
        self._services.count(self.version, False, rating["opinion"] if rating else None)
        text, source = texts[best], "policy"
        if not text or (rating and self._settings.floor is not None and rating["opinion"] < self._settings.floor):
            text, source, rating = _of_the_film(read), "recommendation", None
        written = sum(reply.tokens for reply in replies)
        prompt, timings = replies[0].prompt_tokens, self._clock.all()
        seconds = {("all" if part == "total" else part): ms / 1e3 for part, ms in timings.items()}
        self._services.meter.wrote(prompt, written, seconds)
        return {
            "id": self.id,
            "user": self._request.user,
            "reply": text,
            "reply_from": source,
            "finish_reason": replies[best].finish,
            "replaced": guards[best].replaced if source == "policy" else {},
            "scores": rating,
            "model": model_used(self._settings.base, self.version),
            "usage": usage(prompt, written),
            **_read(read, self._request.k),
            "timings_ms": timings,
        }


def _read(read: Read, count: int | None = None) -> dict[str, Any]:
    return {
        "recommendations": [vars(film) for film in read.films[:count]],
        "emotions": list(read.emotions[-1]),
        "mentioned": list(read.mentioned),
        "note": read.note,
    }


def _of_the_film(read: Read) -> str:
    """A plain answer where the policy has no good one."""
    if not read.films:
        return "I have nothing to recommend for this. Tell me more about what you like?"
    film = read.films[0]
    return f"How about {film.title}? It {film.reason}."


def _longer(held: Reply, pieces: Sequence[Piece]) -> Reply:
    last = pieces[-1]
    return Reply(
        held.text + "".join(piece.text for piece in pieces),
        last.finish or held.finish,
        held.tokens + sum(piece.tokens for piece in pieces),
        last.prompt_tokens,
    )


def model_used(base: str, version: Version) -> dict[str, Any]:
    """Which weights wrote an answer."""
    return {"base": base, "adapter": version.name if version.path else None, "version": version.id}
