"""OpenAI's chat completions, as far as they go here: a chat in, an answer or a stream of its pieces out."""

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ecr_ray import prompts
from ecr_ray.config import ServeConfig
from ecr_ray.data.titles import Titles
from ecr_ray.serving import untrusted
from ecr_ray.serving.adapters import Version
from ecr_ray.serving.policy import Asked
from ecr_ray.serving.schemas import ChatRequest, usage
from ecr_ray.serving.services import Services
from ecr_ray.serving.titles import Guard


def said_in(request: ChatRequest) -> list[dict[str, str]]:
    """Messages in which nothing passes for a prompt's structure."""
    return [{"role": m.role, "content": untrusted.neutral(m.text)} for m in request.messages]


def chat_of(messages: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], ...]:
    """A chat in the order that templates ask for: one system message, then user and assistant in turn."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    turns: list[dict[str, str]] = []
    for role, content in ((m["role"], m["content"] or ".") for m in messages if m["role"] != "system"):
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{content}"
        else:
            turns.append({"role": role, "content": content})
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": prompts.SEEKER_JOINS})
    first = "\n".join(filter(None, system)) or prompts.POLICY_SYSTEM
    return ({"role": "system", "content": first}, *turns)


class Completing:
    """One request's way to its answer."""

    def __init__(
        self, request: ChatRequest, services: Services, settings: ServeConfig, titles: Titles, version: Version
    ) -> None:
        self._request, self._services, self._settings, self._titles = request, services, settings, titles
        self._version, self._created, self._began = version, int(time.time()), time.perf_counter()
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._messages = said_in(request)
        self._said = [m["content"] for m in self._messages if m["role"] != "assistant"]

    def _asked(self) -> Asked:
        request, settings = self._request, self._settings
        stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        return Asked(
            self._version,
            max_tokens=request.max_completion_tokens or request.max_tokens or settings.max_tokens,
            temperature=settings.temperature if request.temperature is None else request.temperature,
            chat=chat_of(self._messages),
            n=request.n,
            top_p=request.top_p or 1.0,
            seed=request.seed,
            stop=stop,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
        )

    async def whole(self) -> dict[str, Any]:
        """A `chat.completion`."""
        replies = await self._services.replies(self._asked())
        choices = []
        for index, reply in enumerate(replies):
            guard = Guard(self._titles, self._said)
            guard.feed(reply.text)
            guard.finish()
            message = {"role": "assistant", "content": guard.text.strip(), "refusal": None}
            choices.append({"index": index, "message": message, "finish_reason": reply.finish, "logprobs": None})
        used = self._metered(replies[0].prompt_tokens, sum(reply.tokens for reply in replies))
        return {**self._head("chat.completion"), "choices": choices, "usage": used}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """`chat.completion.chunk`s."""
        guards = [Guard(self._titles, self._said, quick=True) for _ in range(self._request.n)]
        begun: set[int] = set()
        prompt = written = 0
        async for pieces in self._services.stream(self._asked()):
            for piece in pieces:
                prompt, written = piece.prompt_tokens, written + piece.tokens
                text = guards[piece.index].feed(piece.text)
                if piece.finish:
                    text += guards[piece.index].finish()
                if piece.index not in begun:
                    # What a policy writes begins with the space of its template.
                    text = text.lstrip()
                if text or piece.finish:
                    yield self._chunk(piece.index, text, piece.finish, first=piece.index not in begun)
                    begun.add(piece.index)
        used = self._metered(prompt, written)
        if self._request.stream_options and self._request.stream_options.include_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": used}

    def _chunk(self, index: int, text: str, finish: str | None, *, first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if text or first:
            delta["content"] = text
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._version.id,
            "system_fingerprint": self._version.digest[:12] or None,
        }

    def _metered(self, prompt: int, written: int) -> dict[str, int]:
        seconds = time.perf_counter() - self._began
        self._services.meter.wrote(prompt, written, {"policy": seconds, "all": seconds})
        return usage(prompt, written)


def models(versions: Mapping[str, Version] | Sequence[Version]) -> list[str]:
    """Model ids that can be asked for: every version, and every name, which means its newest version."""
    known = versions.values() if isinstance(versions, Mapping) else versions
    usable = [version for version in known if version.status != "rejected"]
    return list(dict.fromkeys([*(v.name for v in usable), *(v.id for v in usable)]))
