"""Requests that nobody sane sends: none of them is answered by a 500, and the endpoint goes on."""

import socket
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

pytestmark = pytest.mark.slow
# Malformed bodies for each way in: a thousand in all.
EXAMPLES = 200
WAYS_IN = ["/v1/recommend", "/v1/chat/completions", "/v1/feedback", "/v1/adapters", "/v1/adapters/promote"]


@pytest.mark.parametrize("path", WAYS_IN)
def test_malformed_bodies(endpoint, path):
    operation = schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")[path]["POST"]
    statuses = []

    @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    def asked(case):
        response = case.call(headers={"Authorization": f"Bearer {endpoint.admin}"})
        statuses.append(response.status_code)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"code", "message", "type", "param"}

    asked()
    assert len(statuses) == EXAMPLES and sum(status >= 400 for status in statuses) > 0.9 * EXAMPLES
    assert endpoint.ask("Still there?", max_tokens=4)["reply"]


@pytest.mark.parametrize("path", WAYS_IN)
def test_bytes_that_are_no_json(endpoint, path):
    headers = {"content-type": "application/json"}
    for body in (b"", b"{", b"\xff\xfe\x00", b"[" * 50_000, b'{"a": 1e999}', b'"\\ud800"', b"null", b"1" * 10_000):
        with endpoint.client(endpoint.admin) as client:
            found = client.post(path, content=body, headers=headers)
        assert 400 <= found.status_code < 500 and found.json()["error"]["message"], (body[:20], found.text)


def test_half_a_body_is_given_up_and_a_slow_reader_is_not_waited_for_by_others(endpoint):
    host, port = endpoint.url.removeprefix("http://").split(":")
    lines = ["POST /v1/recommend HTTP/1.1", "Host: x", "Content-Type: application/json"]
    key = f"Authorization: Bearer {endpoint.key}"
    with socket.create_connection((host, int(port)), timeout=20) as half:
        half.sendall("\r\n".join([*lines, key, "Content-Length: 500", "", '{"messages": [']).encode())
        body = '{"messages": [{"role": "user", "content": "Something funny?"}], "stream": true}'
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall("\r\n".join([*lines, key, f"Content-Length: {len(body)}", "", body]).encode())
            assert slow.recv(64).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            assert endpoint.ask("Something scary?", max_tokens=4)["reply"]
            assert time.monotonic() - began < 10
        assert half.recv(4096).startswith(b"HTTP/1.1 408")
