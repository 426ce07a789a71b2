"""The HTTP judge against an endpoint that misbehaves on request.

The endpoint is this test's own stand-in: only so can it fail on command. The real one (vLLM's OpenAI server) is in
tests/integration/test_http.py.
"""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest

from ecr_ray.config import JudgeConfig
from ecr_ray.scoring import http_judge
from ecr_ray.scoring.requests import Asker

GOOD = {"empathy": 9, "informativeness": 0, "recommendation": 3, "engagement": 6}


class Endpoint(BaseHTTPRequestHandler):
    """Answers by the film named in the question; remembers what it was asked."""

    seen: list[dict] = []  # noqa: RUF012
    tries: dict[str, int] = {}  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.seen.append({"path": self.path, "auth": self.headers.get("Authorization"), **body})
        question = body["messages"][-1]["content"]
        name = next(
            n for n in ("good", "busy", "broken", "chatty", "short", "refused", "hangs") if f"<{n}>" in question
        )
        count = Endpoint.tries[name] = Endpoint.tries.get(name, 0) + 1
        if name == "hangs":
            threading.Event().wait(3)
        code = {"refused": 400, "busy": 429 if count < 3 else 200}.get(name, 200)
        answer = {"chatty": "Sure! " + json.dumps(GOOD), "short": '{"empathy": 1}'}.get(name, json.dumps(GOOD))
        reply = {
            "choices": [{"message": {"content": answer}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5},
        }
        data = b"<html>" if name == "broken" else json.dumps(reply).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def rows(request):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.addfinalizer(server.shutdown)
    patch = pytest.MonkeyPatch()
    patch.setattr(http_judge.random, "uniform", lambda a, b: 0.01)
    patch.setenv("TEST_KEY", "secret")
    judge = JudgeConfig(
        model="m",
        name="j",
        backend="http",
        url=f"http://127.0.0.1:{server.server_port}/v1",
        timeout_s=1.0,
        api_key_env="TEST_KEY",
    )
    names = ["good", "busy", "broken", "chatty", "short", "refused", "hangs"]
    batch = pa.Table.from_pylist(
        [{"turn_id": f"{n}:1", "dialogue_id": n, "index": 1, "context": [], "response": f"<{n}>"} for n in names]
    )

    async def run():
        async for table in http_judge.HttpJudge(Asker(judge, "ecr-ma", seed=4))(batch):
            return {row["turn_id"][:-2]: row for row in table.to_pylist()}

    yield asyncio.run(run())
    patch.undo()


def test_a_good_answer_is_a_score(rows):
    row = rows["good"]
    assert (row["status"], row["empathy"], row["informativeness"]) == ("ok", 1.0, 0.0)
    assert row["overall"] == pytest.approx(0.5) and row["confidence"] is None
    assert (row["prompt_tokens"], row["answer_tokens"]) == (7, 5)


def test_a_busy_endpoint_is_asked_again(rows):
    assert rows["busy"]["status"] == "ok" and Endpoint.tries["busy"] == 3


@pytest.mark.parametrize(
    ("name", "status", "tries"),
    [
        ("broken", "http_body", 1),
        ("chatty", "not_json", 1),
        ("short", "off_schema", 1),
        ("refused", "http_400", 1),
        ("hangs", "http_timeout", 4),
    ],
)
def test_every_failure_has_its_reason_and_no_score(rows, name, status, tries):
    row = rows[name]
    assert row["status"] == status and row["reason"]
    assert row["overall"] is None and row["empathy"] is None
    assert Endpoint.tries[name] == tries


def test_the_request_is_openais(rows):
    asked = Endpoint.seen[0]
    assert (asked["path"], asked["auth"], asked["seed"]) == ("/v1/chat/completions", "Bearer secret", 4)
    assert [m["role"] for m in asked["messages"]] == ["user"]
    assert asked["response_format"]["json_schema"]["schema"]["required"] == list(GOOD)


def test_a_missing_key_is_said_by_name(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    judge = JudgeConfig(model="m", name="j", backend="http", url="http://x/v1", api_key_env="NO_KEY")
    with pytest.raises(ValueError, match="NO_KEY is empty"):
        http_judge.HttpJudge(Asker(judge, "ecr-ma"))
