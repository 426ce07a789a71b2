"""An OpenAI-compatible endpoint as a system under evaluation: one chat completion, asked again where that can help."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ecr_ray.config import EvaluateConfig
from ecr_ray.scoring.http_judge import RETRY_STATUS, TRIES

AT_ONCE = 16
TIMEOUT_S = 120.0


def complete(
    base: str, model: str, chat: Sequence[Mapping[str, str]], settings: EvaluateConfig, seed: int
) -> dict[str, Any]:
    """`{status, reason}`, and where the status is `ok` `{text, ended}`."""
    import httpx

    body = {
        "model": model,
        "messages": list(chat),
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": seed % 2**31,
    }
    told = {"status": "http_error", "reason": "not asked"}
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(30.0, 2.0**attempt))
        try:
            response = httpx.post(f"{base}/chat/completions", json=body, headers=_headers(), timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            told = {"status": "http_unreachable", "reason": f"{type(error).__name__}: {error}"}
            continue
        if response.status_code == 200:
            return _read(response)
        told = {"status": f"http_{response.status_code}", "reason": response.text[:200]}
        if response.status_code not in RETRY_STATUS:
            break
    return told


def _headers() -> dict[str, str]:
    import os

    key = os.environ.get("ECR_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def _read(response: Any) -> dict[str, Any]:
    try:
        choice = response.json()["choices"][0]
        text, why = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError):
        return {"status": "http_body", "reason": f"not a chat completion: {response.text[:200]}"}
    if not isinstance(text, str):
        return {"status": "http_body", "reason": "the completion has no text"}
    return {"status": "ok", "reason": "", "text": text, "ended": None if why is None else why == "stop"}
