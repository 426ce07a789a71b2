"""What the HTTP layer asks of the other deployments, with what can go wrong turned into what a caller is told.

Who is asked may die. As long as nothing of an answer has been shown, another one is asked.
"""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from ecr_ray.errors import UserError
from ecr_ray.serving import errors
from ecr_ray.serving.adapters import AdapterError, State, Version
from ecr_ray.serving.errors import ApiError
from ecr_ray.serving.meter import Meter
from ecr_ray.serving.policy import Asked, Piece, Reply, TooLong
from ecr_ray.serving.recommending import Read
from ecr_ray.serving.writing import Writing

log = logging.getLogger("ray.serve")
# Others are asked for so long, so often, while Serve puts a new one in the place of one that died.
ATTEMPTS, WAIT_S = 6, 0.25
STATE_S = 0.5


class Services:
    """Who writes, handles of the other deployments, and the state of the adapters as it was half a second ago."""

    def __init__(self, recommending: Any, writing: Writing, registry: Any, rating: Any, meter: Meter) -> None:
        self.meter = meter
        self._recommending, self._writing, self._registry, self._rating = recommending, writing, registry, rating
        self._state: State | None = None
        self.peers = 1
        """Replicas of the ingress."""
        self._who = uuid.uuid4().hex
        self._counted: list[tuple[str, bool, float | None]] = []
        self._task: asyncio.Task | None = None

    async def start(self) -> None:
        """Have somebody who writes; learn which versions there are, and keep on asking."""
        await self._writing.start()
        self._state = await self._registry.state.remote()
        self._task = asyncio.get_running_loop().create_task(self._following())

    async def _following(self) -> None:
        while True:
            await asyncio.sleep(STATE_S)
            self.meter.tell()
            counted, self._counted = self._counted, []
            try:
                async with asyncio.timeout(10):
                    self._state, self.peers = await self._registry.report.remote(self._who, counted)
            except Exception as error:
                # What was known before holds, and what was counted is told later: the registry may be starting again.
                self._counted = counted + self._counted
                log.warning("the registry of adapters does not answer: %s", _sentence(error))

    @property
    def state(self) -> State:
        """Which versions there are."""
        if self._state is None:
            raise ApiError(503, "starting", "the endpoint is starting", retry_after_s=2)
        return self._state

    async def newest(self) -> State:
        """The same as the registry has it now: another ingress may have changed it just before."""
        try:
            self._state = await self._registry.state.remote()
        except Exception as error:
            raise _told(error) from error
        return self._state

    @property
    def rates(self) -> bool:
        """Whether there is a critic."""
        return self._rating is not None

    async def version(self, name: str | None, *, param: str) -> Version:
        """The version that a model id means; without one, whatever is live or on trial.

        Raises:
            ApiError: there is none.
        """
        if name is None:
            return self.state.pick(random.random())
        found = self.state.find(name)
        if found is None:
            # Another one than this may have taken it in just now.
            with suppress(*_gone()):
                self._state = await self._registry.state.remote()
            found = self.state.find(name)
        if found is None:
            raise ApiError(
                404, "model_not_found", f"there is no model {name!r}: GET /v1/models names them", param=param
            )
        return found

    def count(self, version: Version, failed: bool, rating: float | None) -> None:
        """For the trial of a version."""
        if self.state.canary is not None:
            self._counted.append((version.id, failed, rating))

    async def read(self, dialogue: Sequence[Mapping[str, Any]], count: int, without: Sequence[str]) -> Read:
        """Feelings and films of a dialogue."""
        return await self._asked(lambda: self._recommending.read.remote(list(dialogue), count, tuple(without)))

    async def rate(self, dialogue: Sequence[Mapping[str, str]], responses: Sequence[str]) -> list[dict[str, float]]:
        """The critic's ratings of answers."""
        return await self._asked(lambda: self._rating.rate.remote(list(dialogue), list(responses)))

    async def replies(self, asked: Asked) -> list[Reply]:
        """Whole answers."""
        return await self._asked(lambda: self._writing.replies(asked))

    async def stream(self, asked: Asked) -> AsyncIterator[list[Piece]]:
        """Answers in pieces."""
        for attempt in range(ATTEMPTS):
            shown = False
            try:
                async with aclosing(self._writing.stream(asked)) as answer:
                    async for pieces in answer:
                        shown = True
                        yield pieces
                return
            except Exception as error:
                told = _told(error)
                if shown or told.code != "replica_lost" or attempt == ATTEMPTS - 1:
                    raise told from error
            await asyncio.sleep(WAIT_S * 2**attempt)

    async def _asked(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                return await ask()
            except Exception as error:
                told = _told(error)
                if told.code != "replica_lost" or attempt == ATTEMPTS - 1:
                    raise told from error
            await asyncio.sleep(WAIT_S * 2**attempt)
        raise errors.lost()

    async def add_adapter(self, name: str, digest: str | None) -> Version:
        """Have an adapter of the directory checked and tried."""
        try:
            return await self._changed(self._registry.add.remote(name, digest))
        finally:
            self._state = await self._registry.state.remote()

    async def promote(self, version: str | None, reason: str) -> State:
        """Make a version live."""
        self._state = await self._changed(self._registry.promote.remote(version, reason))
        return self._state

    async def roll_back(self, reason: str) -> State:
        """Go back."""
        self._state = await self._changed(self._registry.roll_back.remote(reason))
        return self._state

    async def _changed(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except UserError as error:
            raise ApiError(409, "adapter", _sentence(error)) from error
        except Exception as error:
            raise _told(error) from error

    async def ready(self) -> None:
        """Return where every part answers.

        Raises:
            ApiError: one does not.
        """
        parts = [self._registry.state.remote(), self._writing.check_health()]
        parts.append(self._recommending.read.remote([{"role": "seeker", "text": "hi"}], 1))
        if self.rates:
            parts.append(self._rating.rate.remote([{"role": "seeker", "text": "hi"}], ["hello"]))
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(*parts)
        except Exception as error:
            raise ApiError(503, "starting", "a part of the endpoint does not answer (yet)", retry_after_s=2) from error


def _gone() -> tuple[type[BaseException], ...]:
    from ray import exceptions
    from ray.serve.exceptions import DeploymentUnavailableError

    return exceptions.RayActorError, exceptions.WorkerCrashedError, DeploymentUnavailableError


def _told(error: Exception) -> ApiError:
    """What a caller is told of an error of another deployment."""
    from ray.serve.exceptions import BackPressureError

    if isinstance(error, ApiError):
        return error
    if isinstance(error, BackPressureError):
        return errors.busy()
    if isinstance(error, _gone()) or type(error).__name__ in ("EngineDeadError", "RayTaskError(EngineDeadError)"):
        return errors.lost()
    if isinstance(error, TooLong):
        return ApiError(400, "context_length_exceeded", _sentence(error), param="messages")
    if isinstance(error, AdapterError):
        return ApiError(500, "adapter", _sentence(error))
    raise error


def _sentence(error: Exception) -> str:
    """What an error says, without the other process's traceback that Ray puts before it."""
    return str(getattr(error, "cause", None) or error)
