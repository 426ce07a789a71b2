"""Starts the endpoint and keeps it up: what `jobs/serve.py` runs."""

import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ecr_ray import storage
from ecr_ray.config import ConfigError, ServeConfig
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.recommender import place
from ecr_ray.serving import adapters, front, keys

# Not part of what is served.
_OF_THE_JOB = ("build", "host", "port", "front")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServeError(UserError):
    """The endpoint did not start."""


def check(settings: ServeConfig) -> None:
    """Say what is wrong before anything is started.

    Raises:
        ConfigError: nobody could ask, or a model is not there.
    """
    path = Path(settings.output) / "keys.json"
    if not keys.read(path) and not settings.open:
        raise ConfigError(
            f"nobody could ask: make a key with `python -m ecr_ray.serving.keys --file {path} add NAME --admin`, or "
            "answer requests from this machine without one (--open)"
        )
    if settings.open and settings.host not in _LOOPBACK:
        raise ConfigError(f"--open answers this machine without a key, --host {settings.host} lets others in: take one")
    recommender = place.of(settings.recommender)
    if not (recommender / "recommender.json").is_file():
        raise ConfigError(f"--recommender {settings.recommender}: {recommender} holds no recommender")
    if settings.adapter and not (Path(settings.output) / "adapters.json").exists():
        adapters.check(Path(tiny.resolve_model(settings.adapter)), settings.base, settings.max_lora_rank)
    for name in ("policy", "recommender", "critic", "ingress"):
        least, most = getattr(settings, f"{name}_replicas")
        if not 1 <= least <= most:
            raise ConfigError(f"--{name}-replicas {least} {most}: at least 1, and the second not below the first")
    if settings.policy_in == "ingress" and settings.policy_replicas != (1, 1):
        raise ConfigError("--policy-replicas: the policy has replicas with --policy-in replicas only; take it, too")


def located(settings: ServeConfig) -> ServeConfig:
    """The same with every directory named in full: replicas work elsewhere."""
    models = {key: getattr(settings, key) for key in ("base", "adapter", "critic", "recommender")}
    own = {
        key: storage.absolute(name)
        for key, name in models.items()
        if name and not (tiny.HERE / name).is_dir() and Path(name).is_dir()
    }
    return replace(settings, output=storage.absolute(settings.output), **own)


def serve_until_stopped(settings: ServeConfig) -> None:
    """Start it, print where it is, and end it at SIGINT or SIGTERM; what is under way is finished first.

    Raises:
        ServeError: it did not start.
    """
    env = front.prepare(settings.front, settings.body_timeout_s)
    from ray import serve

    from ecr_ray.serving import app

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        start(settings, env)
        where = f"http://{settings.host}:{settings.port}"
        print(f"ready: {where} (a page to talk to it; the API is described by {where}/openapi.json)", flush=True)
        while not stop.wait(0.5):
            pass
        print("stopping", flush=True)
    finally:
        serve.delete(app.NAME)
        # What others serve in this cluster stays.
        if not serve.status().applications:
            serve.shutdown()
            front.clean(env)


def start(settings: ServeConfig, env: Mapping[str, str]) -> None:
    """Start the endpoint in the Ray cluster that this process is connected to, and wait until it answers.

    Args:
        settings: all of them.
        env: of Serve's processes, as from `front.prepare`.

    Raises:
        ServeError: it did not start.
    """
    from ray import serve

    from ecr_ray.serving import app

    where = {"host": settings.host, "port": settings.port}
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options=where,
            controller_options={"runtime_env": {"env_vars": dict(env)}} if env else None,
        )
        serve.run(app.bind(settings), name=app.NAME, route_prefix="/")
    except RuntimeError as error:
        raise ServeError(_why(error, settings)) from error
    _check_address(settings)


def _why(error: RuntimeError, settings: ServeConfig) -> str:
    if any(said in str(error) for said in ("Address already in use", "Failed to bind to address")):
        return f"--port {settings.port}: somebody listens there already; end that, or take another --port"
    return f"the endpoint did not start: {str(error).strip()}"


def _check_address(settings: ServeConfig) -> None:
    """Serve that was up already keeps the address that it was started with."""
    import httpx

    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    where = f"http://{host}:{settings.port}/healthz"
    try:
        found = httpx.get(where, timeout=10, trust_env=False).is_success
    except httpx.HTTPError:
        found = False
    if not found:
        raise ServeError(
            f"{where} does not answer: is Serve up in this cluster already, with another --host or --port?"
        )


def write_config(settings: ServeConfig) -> Path:
    """A config for `serve deploy`, with every setting in it."""
    import yaml

    target = Path(str(settings.build))
    args = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items() if k not in _OF_THE_JOB}
    args = {k: v for k, v in args.items() if v is not None and v != {}}
    # HAProxy's script is of one start of the job, and not for a file.
    env = front.environment("proxy", settings.body_timeout_s)
    content: dict[str, Any] = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": settings.host, "port": settings.port},
        "controller_options": {"runtime_env": {"env_vars": env}},
        "applications": [
            {"name": "ecr_ray", "route_prefix": "/", "import_path": "ecr_ray.serving.app:app", "args": args}
        ],
    }
    storage.write_bytes(target, yaml.safe_dump(content, sort_keys=False).encode())
    return target
