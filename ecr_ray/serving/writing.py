"""Who writes answers, as an ingress asks them: an engine in its own process, or the replicas of the policy.

Both have `start`, `replies`, `stream` and `check_health`. The engine computes in a process of its own either way; what
differs is whether its words pass through one more process on their way out.
"""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from ecr_ray.config import ServeConfig
from ecr_ray.serving import errors
from ecr_ray.serving.policy import Asked, Piece, Policy, Reply


class Writing(Protocol):
    """Whom an ingress asks for answers."""

    async def start(self) -> None:
        """Return when answers can be asked for."""

    async def replies(self, asked: Asked) -> list[Reply]:
        """The whole answers."""

    def stream(self, asked: Asked) -> AsyncIterator[list[Piece]]:
        """Pieces of the answers as they are written."""

    async def check_health(self) -> None:
        """Raises where nobody would answer."""


class Replicas:
    """The policy's replicas: they scale apart from the ingress, and outlive it."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    async def start(self) -> None:
        """They start by themselves."""

    async def replies(self, asked: Asked) -> list[Reply]:
        """The whole answers, of one of them."""
        return await self._policy.replies.remote(asked)

    async def stream(self, asked: Asked) -> AsyncIterator[list[Piece]]:
        """Pieces of the answers; who stops listening ends them."""
        answer = self._policy.options(stream=True).stream.remote(asked)
        try:
            async for pieces in answer:
                yield pieces
        finally:
            answer.cancel()

    async def check_health(self) -> None:
        """Asks one of them."""
        await self._policy.check_health.remote()


class InProcess:
    """An engine of the ingress's own."""

    def __init__(self, settings: ServeConfig) -> None:
        self.policy = Policy(settings)
        self._most = settings.max_num_seqs + settings.waiting

    async def start(self) -> None:
        """Starts the engine."""
        await self.policy.start()

    async def replies(self, asked: Asked) -> list[Reply]:
        """The whole answers.

        Raises:
            ApiError: too many wait already.
        """
        self._check_room()
        return await self.policy.replies(asked)

    async def stream(self, asked: Asked) -> AsyncIterator[list[Piece]]:
        """Pieces of the answers; who stops listening ends them.

        Raises:
            ApiError: too many wait already.
        """
        self._check_room()
        async for pieces in self.policy.stream(asked):
            yield pieces

    async def check_health(self) -> None:
        """Raises where the engine is dead."""
        await self.policy.check_health()

    def _check_room(self) -> None:
        # What Serve does for replicas (`max_queued_requests`).
        if self.policy.busy >= self._most:
            raise errors.busy()
