"""A judge behind an OpenAI-compatible HTTP endpoint, asked for JSON and held to its schema."""

import asyncio
import os
import random
from typing import Any

import pyarrow as pa

from ecr_ray import prompts
from ecr_ray.records import score_schema
from ecr_ray.scoring import digits
from ecr_ray.scoring.requests import Asker

# Worth another try: the endpoint is busy, restarting, or somebody's proxy is.
RETRY_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
TRIES = 4
ANSWER_TOKENS = 128


class HttpJudge:
    """Ray Data actor: turns in, score rows out. Every row comes out, scored or with the reason why not."""

    def __init__(self, asker: Asker) -> None:
        import httpx

        judge = asker.judge
        headers = {}
        if judge.api_key_env:
            key = os.environ.get(judge.api_key_env)
            if not key:
                raise ValueError(
                    f"judge {judge.name}: the environment variable {judge.api_key_env} is empty on this node"
                )
            headers["Authorization"] = f"Bearer {key}"
        self._asker = asker
        self._places = asyncio.Semaphore(judge.max_requests)
        self._client = httpx.AsyncClient(base_url=judge.url.rstrip("/") + "/", headers=headers, timeout=judge.timeout_s)

    async def __call__(self, batch: pa.Table) -> Any:
        rows = await asyncio.gather(*(self._judge(turn) for turn in batch.to_pylist()))
        yield pa.Table.from_pylist(rows, schema=score_schema(self._asker.aspects))

    async def _judge(self, turn: dict[str, Any]) -> dict[str, Any]:
        usage: dict[str, int] = {}
        try:
            async with self._places:
                answer, usage = await self._ask(turn)
            judgment = digits.from_json(answer, self._asker.aspects)
        except digits.AnswerError as error:
            return self._asker.score_row(turn, None, status=error.status, reason=str(error), **usage)
        return self._asker.score_row(turn, judgment, **usage)

    async def _ask(self, turn: dict[str, Any]) -> tuple[str, dict[str, int]]:
        import httpx

        judge = self._asker.judge
        question = self._asker.question(turn["context"], turn["response"])
        body = {
            "model": judge.model,
            "messages": prompts.judge_messages(self._asker.instructions, question, answer="json", system_role=False),
            "temperature": judge.temperature,
            "max_tokens": ANSWER_TOKENS,
            "seed": self._asker.seed,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "judgment",
                    "schema": digits.json_schema(self._asker.aspects),
                    "strict": True,
                },
            },
        }
        failure = digits.AnswerError("http_error", "not asked")
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(min(30.0, 2.0**attempt) * random.uniform(0.5, 1.0))
            try:
                response = await self._client.post("chat/completions", json=body)
            except httpx.TimeoutException:
                failure = digits.AnswerError("http_timeout", f"no answer within {judge.timeout_s:g} s")
                continue
            except httpx.TransportError as error:
                failure = digits.AnswerError("http_unreachable", f"{type(error).__name__}: {error}")
                continue
            if response.status_code == 200:
                return _read(response)
            failure = digits.AnswerError(f"http_{response.status_code}", response.text[:200])
            if response.status_code not in RETRY_STATUS:
                break
        raise failure


def _read(response: Any) -> tuple[str, dict[str, int]]:
    """The answer's text and token counts in a chat completion."""
    try:
        body = response.json()
        text = body["choices"][0]["message"]["content"]
        counts = body.get("usage") or {}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise digits.AnswerError("http_body", f"not a chat completion: {response.text[:200]}") from error
    if not isinstance(text, str):
        raise digits.AnswerError("http_body", "the completion has no text")
    usage = {"prompt_tokens": counts.get("prompt_tokens"), "answer_tokens": counts.get("completion_tokens")}
    return text, {name: value for name, value in usage.items() if isinstance(value, int)}
