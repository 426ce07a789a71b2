"""Server-sent events, with a deadline; an error after the first of them is an event itself."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse

from ecr_ray.serving import errors
from ecr_ray.serving.errors import ApiError

log = logging.getLogger("ray.serve")
T = TypeVar("T")


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """The longest that what is inside may take.

    Raises:
        ApiError: it took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise errors.too_late(seconds) from error


async def in_time(work: Awaitable[T], seconds: float, failed: Callable[[], None]) -> T:
    """What the work gives; `failed` is called where it was not the asker's fault that it gives nothing.

    Raises:
        ApiError: it failed, or took longer.
    """
    try:
        async with deadline(seconds):
            return await work
    except Exception as error:
        if not isinstance(error, ApiError) or error.blames_the_version:
            failed()
        raise


async def named(events: AsyncIterator[tuple[str, Mapping[str, Any]]]) -> AsyncIterator[str]:
    """Events by name."""
    async for name, data in events:
        yield f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def openai(chunks: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[str]:
    """As OpenAI's clients read them."""
    async for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


async def response(lines: AsyncIterator[str], seconds: float, failed: Callable[[], None]) -> StreamingResponse:
    """A stream of them. What fails before the first has a status of its own.

    Raises:
        ApiError: it failed before there was anything to show.
    """
    # Taken here, so that a prompt that is too long, say, is told as for an answer that is not streamed.
    first = await in_time(anext(lines, ""), seconds, failed)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_told(first, lines, seconds, failed), media_type="text/event-stream", headers=headers)


async def _told(
    first: str, lines: AsyncIterator[str], seconds: float, failed: Callable[[], None]
) -> AsyncIterator[str]:
    yield first
    try:
        async with deadline(seconds):
            async for line in lines:
                yield line
    except Exception as error:
        if not isinstance(error, ApiError):
            log.error("an unexpected error in a stream", exc_info=error)
            error = errors.internal()
        if error.blames_the_version:
            failed()
        body = {**error.body(), "retry_after_s": error.retry_after_s}
        yield f"event: error\ndata: {json.dumps(body)}\n\n"
