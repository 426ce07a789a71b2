"""An endpoint as a system: what it answers, and what it does not."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from ecr_ray.config import EvaluateConfig
from ecr_ray.evaluation import asking, endpoint, replies, systems

SAID = [{"role": "user", "content": "hi"}]


class Answers(BaseHTTPRequestHandler):
    """Gives the answers of `plan` one after the other, the last one for ever; keeps what it was asked."""

    plan: tuple = ()
    asked: ClassVar[list] = []

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        status, body = self.plan[min(len(self.asked), len(self.plan)) - 1]
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Starts one with a plan; waits between tries cost no time."""
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    servers = []

    def start(*plan):
        handler = type("Handler", (Answers,), {"plan": plan, "asked": []})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1", handler.asked

    yield start
    for server in servers:
        server.shutdown()


def completion(text, why="stop"):
    return {"choices": [{"message": {"content": text}, "finish_reason": why}]}


def test_what_is_asked_and_what_comes(serve):
    url, asked = serve((200, completion("Try Heat.")))
    found = endpoint.complete(url, "theirs", SAID, EvaluateConfig(max_new_tokens=9, temperature=0.5), 2**40 + 7)
    assert found == {"status": "ok", "reason": "", "text": "Try Heat.", "ended": True}
    assert asked == [
        {"model": "theirs", "messages": SAID, "max_tokens": 9, "temperature": 0.5, "top_p": 1.0, "seed": 7}
    ]


def test_a_reply_that_was_cut_off_says_so(serve):
    url, _ = serve((200, completion("and", "length")))
    assert endpoint.complete(url, "m", SAID, EvaluateConfig(), 0)["ended"] is False


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_not(serve):
    url, asked = serve((503, "busy"), (200, completion("yes")))
    assert endpoint.complete(url, "m", SAID, EvaluateConfig(), 0)["text"] == "yes" and len(asked) == 2
    url, asked = serve((401, "no key"))
    assert endpoint.complete(url, "m", SAID, EvaluateConfig(), 0) == {"status": "http_401", "reason": "no key"}
    assert len(asked) == 1


@pytest.mark.parametrize("body", ["<html>", {"choices": []}, completion(None)])
def test_what_is_no_completion_is_no_reply(serve, body):
    url, _ = serve((200, body))
    assert endpoint.complete(url, "m", SAID, EvaluateConfig(), 0)["status"] == "http_body"


def test_nobody_there_is_a_reason_in_every_row_and_is_asked_again_by_the_next_run(serve, tmp_path):
    prompts = asking.choose(EvaluateConfig(prompts=2))
    (system,) = systems.parse(["theirs=http://127.0.0.1:9/v1#m"])
    rows = replies.of_endpoint(system, EvaluateConfig(), prompts, tmp_path)
    assert [row["status"] for row in rows] == ["http_unreachable"] * 2 and all(row["reason"] for row in rows)
    assert not list(tmp_path.rglob("*.json"))
    url, asked = serve((200, completion("hello")))
    (system,) = systems.parse([f"theirs={url}#m"])
    for _ in range(2):
        assert [r["text"] for r in replies.of_endpoint(system, EvaluateConfig(), prompts, tmp_path)] == ["hello"] * 2
    # What was answered is not asked again.
    assert len(asked) == 2
