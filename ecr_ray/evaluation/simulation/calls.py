"""One JSON answer of an HTTP endpoint, asked for again where that can help."""

import os
import random
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ecr_ray.evaluation.simulation.tasks import SimulationError
from ecr_ray.scoring.http_judge import RETRY_STATUS, TRIES

# Whoever asks for more patience than this is taken for gone.
LONGEST_WAIT_S = 60.0


class NoAnswer(Exception):
    """Somebody in a talk did not answer; `status` is one word that says why."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Endpoint:
    """An address, and the key that opens it."""

    def __init__(self, url: str, key_env: str = "", timeout_s: float = 120.0) -> None:
        """Connect at the first call.

        Args:
            key_env: environment variable that holds the key; empty: no key.

        Raises:
            SimulationError: the variable is empty.
        """
        import httpx

        headers = {}
        if key_env:
            key = os.environ.get(key_env)
            if not key:
                raise SimulationError(f"{url}: the environment variable {key_env} is empty on this node")
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout_s)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer's JSON.

        Raises:
            NoAnswer: there is none after some tries, or it is no JSON.
        """
        import httpx

        failure, wait_s = NoAnswer("http_error", "not asked"), 0.0
        for attempt in range(TRIES):
            if attempt:
                time.sleep(max(wait_s, min(30.0, 2.0**attempt) * random.uniform(0.5, 1.0)))
            wait_s = 0.0
            try:
                response = self._client.post(path, json=body)
            except httpx.TimeoutException as error:
                failure = NoAnswer("http_timeout", f"{type(error).__name__}: no answer in time")
                continue
            except httpx.TransportError as error:
                failure = NoAnswer("http_unreachable", f"{type(error).__name__}: {error}")
                continue
            if response.status_code == 200:
                return _json(response)
            failure = NoAnswer(f"http_{response.status_code}", response.text[:200])
            if response.status_code not in RETRY_STATUS:
                break
            wait_s = _asked_to_wait(response.headers.get("Retry-After", ""))
        raise failure


@lru_cache(16)
def endpoint(url: str, key_env: str = "") -> Endpoint:
    """The one of this process for an address: connections are for many talks.

    Raises:
        SimulationError: the key is not there.
    """
    return Endpoint(url, key_env)


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise NoAnswer("http_body", f"not JSON: {response.text[:200]}") from error


def _asked_to_wait(header: str) -> float:
    """Seconds of a Retry-After; a date in it counts as nothing."""
    return min(LONGEST_WAIT_S, float(header)) if header.isdecimal() else 0.0
