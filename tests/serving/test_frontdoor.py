"""What every request passes first; over a real socket, with a small application behind it."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from ecr_ray.config import ServeConfig
from ecr_ray.serving import keys
from ecr_ray.serving.frontdoor import Frontdoor
from ecr_ray.serving.keys import Keyring
from ecr_ray.serving.limits import Limiter


async def application(scope, receive, send):
    """Says how long the body was, and who asked; /v1/slow takes its time."""
    assert scope["type"] == "http"
    body = (await receive())["body"] if scope["method"] == "POST" else b""
    if scope["path"] == "/v1/slow":
        await asyncio.sleep(0.5)
    name = scope.get("state", {}).get("key").name if scope["path"].startswith("/v1") else None
    content = json.dumps({"bytes": len(body), "name": name}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": content})


class Noted:
    """What Prometheus would be told; the real one needs Ray."""

    def __init__(self):
        self.told, self.inside = [], 0

    def began(self):
        self.inside += 1

    def ended(self, route, status):
        self.inside -= 1
        self.told.append((route, status))

    def refused(self, reason):
        self.told.append(("refused", reason))


@contextlib.contextmanager
def served(folder, **settings):
    settings = ServeConfig(**{"max_body_bytes": 1000, "body_timeout_s": 0.5, **settings})
    meter = Noted()
    limiter = Limiter(settings.requests_per_minute, settings.requests_at_once)
    door = Frontdoor(application, settings, Keyring(folder / "keys.json"), limiter, meter)
    server = uvicorn.Server(uvicorn.Config(door, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            client.port, client.meter = port, meter
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def key(tmp_path):
    text, kept = keys.make("anna", admin=False)
    keys.write(tmp_path / "keys.json", [kept])
    return {"authorization": f"Bearer {text}"}


def test_with_a_key(tmp_path, key):
    with served(tmp_path) as client:
        found = client.post("/v1/x", content=b"abc", headers={**key, "x-request-id": "mine-1"})
        assert found.json() == {"bytes": 3, "name": "anna"} and found.headers["x-request-id"] == "mine-1"
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in found.headers["content-security-policy"]
        strange = client.get("/v1/x", headers={**key, "x-request-id": "a\tb"})
        assert strange.headers["x-request-id"] not in ("", "a\tb")


@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer ecr_00000000_0"}, {"authorization": "Basic eA=="}])
def test_without_one(tmp_path, key, sent):
    with served(tmp_path) as client:
        found = client.post("/v1/x", content=b"abc", headers=sent)
        assert found.status_code == 401 and found.json()["error"]["code"].endswith("api_key")
        assert client.get("/healthz").status_code == 200
        assert ("refused", found.json()["error"]["code"]) in client.meter.told
        assert client.meter.inside == 0 and ("other", 200) in client.meter.told


def test_this_machine_only_when_asked_for_and_not_for_others(tmp_path):
    with served(tmp_path, open=True) as client:
        assert client.get("/v1/x").json()["name"] == "this machine"
        for name in ("x-forwarded-for", "forwarded", "x-real-ip"):
            assert client.get("/v1/x", headers={name: "10.0.0.1"}).status_code == 401


def test_too_many_at_once_and_too_many_a_minute(tmp_path, key):
    with served(tmp_path, requests_at_once=2, requests_per_minute=5) as client:

        async def many():
            async with httpx.AsyncClient(base_url=client.base_url, trust_env=False) as ask:
                return await asyncio.gather(*(ask.get("/v1/slow", headers=key) for _ in range(4)))

        codes = sorted(answer.status_code for answer in asyncio.run(many()))
        assert codes == [200, 200, 429, 429]
        found = [client.get("/v1/x", headers=key) for _ in range(5)]
        refused = [answer for answer in found if answer.status_code == 429]
        assert refused and int(refused[-1].headers["retry-after"]) >= 1
        assert refused[-1].json()["error"]["code"] == "rate_limited"


def test_a_body_that_is_too_large_announced_or_not(tmp_path, key):
    with served(tmp_path) as client:
        assert client.post("/v1/x", content=b"x" * 1001, headers=key).status_code == 413
        assert client.post("/v1/x", content=iter([b"x" * 600] * 2), headers=key).status_code == 413
        assert client.post("/v1/x", content=iter([b"x" * 500] * 2), headers=key).json()["bytes"] == 1000


def begun(key):
    lines = [
        "POST /v1/x HTTP/1.1",
        "Host: x",
        "Content-Length: 100",
        f"Authorization: {key['authorization']}",
        "",
        "half",
    ]
    return "\r\n".join(lines).encode()


def test_half_a_body_is_not_waited_for_for_ever(tmp_path, key):
    with served(tmp_path) as client, socket.create_connection(("127.0.0.1", client.port), timeout=5) as raw:
        raw.sendall(begun(key))
        told = raw.recv(4096).decode()
        assert told.startswith("HTTP/1.1 408") and "connection: close" in told.lower()


def test_whoever_leaves_in_the_middle_of_a_body_is_forgotten(tmp_path, key):
    with served(tmp_path, requests_at_once=1) as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=5) as raw:
            raw.sendall(begun(key))
            time.sleep(0.1)
        time.sleep(0.2)
        assert client.get("/v1/x", headers=key).status_code == 200
