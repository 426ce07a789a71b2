"""What every request passes before anybody answers it: its body, its key, its limits. A plain ASGI middleware."""

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ecr_ray.config import ServeConfig
from ecr_ray.serving import errors
from ecr_ray.serving.errors import ApiError
from ecr_ray.serving.keys import Key, Keyring
from ecr_ray.serving.limits import Limiter, Refused
from ecr_ray.serving.meter import Meter

Message = MutableMapping[str, Any]
Receive, Send = Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]

# Answered without a key: they say nothing that a stranger may not know.
PUBLIC = ("/", "/healthz", "/readyz", "/openapi.json")
PAGE = "/page/"
_LOOPBACK = ("127.0.0.1", "::1")
_LOCAL = Key("this machine", "", "", False, "")
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


class Frontdoor:
    """Lets in who may come in, with a body that is whole and not too long."""

    def __init__(self, app: Any, settings: ServeConfig, keyring: Keyring, limiter: Limiter, meter: Meter) -> None:
        self._app, self._settings, self._keyring, self._limiter, self._meter = app, settings, keyring, limiter, meter

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        number = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        answer = _Answer(send, number)
        self._meter.began()
        try:
            await self._let_in(scope, headers, receive, answer)
        except ApiError as error:
            self._meter.refused(error.code)
            await answer.error(error)
        finally:
            route = scope.get("route")
            self._meter.ended(getattr(route, "path", "other"), answer.status)

    async def _let_in(self, scope: Any, headers: dict[str, str], receive: Receive, answer: "_Answer") -> None:
        path = scope["path"]
        if path in PUBLIC or path.startswith(PAGE):
            await self._app(scope, receive, answer)
            return
        key = self._key(scope, headers)
        scope.setdefault("state", {})["key"] = key
        try:
            self._limiter.enter(key.number)
        except Refused as refused:
            raise ApiError(429, "rate_limited", refused.reason, retry_after_s=refused.after_s) from refused
        try:
            await self._app(scope, await self._whole(headers, receive), answer)
        finally:
            self._limiter.leave(key.number)

    def _key(self, scope: Any, headers: dict[str, str]) -> Key:
        kind, _, presented = headers.get("authorization", "").partition(" ")
        if presented:
            key = self._keyring.who(presented.strip()) if kind.lower() == "bearer" else None
            if key is None:
                raise ApiError(401, "invalid_api_key", "this API key is not known here")
            return key
        client = (scope.get("client") or ("",))[0]
        # Whoever forwards requests of others says so; then it is not this machine that asks.
        forwarded = any(name in headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
        if self._settings.open and client in _LOOPBACK and not forwarded:
            return _LOCAL
        raise ApiError(401, "missing_api_key", "send an API key: Authorization: Bearer ecr_…")

    async def _whole(self, headers: dict[str, str], receive: Receive) -> Receive:
        """The body at once; what comes after it is whether the client has gone."""
        most = self._settings.max_body_bytes
        too_long = ApiError(413, "body_too_large", f"a request may have at most {most:,} bytes")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise too_long
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "client_left", "the request ended before its body did")
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > most:
                        raise too_long
        except TimeoutError as error:
            raise errors.body_too_late(self._settings.body_timeout_s) from error
        body: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return body.pop() if body else await receive()

        return replay


class _Answer:
    """Sends an answer with the headers that all have, and remembers its status."""

    def __init__(self, send: Send, number: str) -> None:
        self._send, self._number, self.status = send, number, 499

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {**_HEADERS, "x-request-id": self._number}
            known = {name.lower() for name, _ in message.get("headers", [])}
            more = [(name.encode(), value.encode()) for name, value in own.items() if name.encode() not in known]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await self._send(message)

    async def error(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
        if error.status in (408, 413):
            # What is left of the body is not read.
            headers["connection"] = "close"
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})
