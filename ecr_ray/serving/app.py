"""The endpoint as a Serve application: `serve run ecr_ray.serving.app:app`, or `python jobs/serve.py`.

Ingress → recommender, policy, critic; the registry says which adapter answers. Each is a deployment of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve

from ecr_ray import config
from ecr_ray.config import ServeConfig
from ecr_ray.serving import films, policy, recommending, registry, run
from ecr_ray.serving.keys import Keyring
from ecr_ray.serving.limits import Limiter
from ecr_ray.serving.meter import Meter
from ecr_ray.serving.services import Services

NAME = "ecr_ray"
# Of everything that only waits and forwards.
LIGHT_CPUS = 0.1
# Of a recommender or a critic, which take milliseconds: all of them and an engine fit on a machine of two cores.
SMALL_CPUS = 0.25


def app(args: Mapping[str, Any]) -> serve.Application:
    """The application, of ServeConfig's fields.

    Raises:
        ConfigError: a field that there is not, or a value that it cannot have.
    """
    return bind(run.located(config.of_mapping(ServeConfig, "serve", args)))


def bind(settings: ServeConfig) -> serve.Application:
    """The application, of settings."""
    gpus = {"num_gpus": settings.tensor_parallel_size} if settings.device == "gpu" else {}
    engine = {"num_cpus": 1, **gpus, "runtime_env": {"env_vars": policy.environment(settings)}}
    writing = serve.deployment(
        policy.Policy,
        name="policy",
        ray_actor_options=engine,
        max_ongoing_requests=settings.max_num_seqs + settings.waiting,
        max_queued_requests=settings.waiting,
        health_check_period_s=2,
        # Long enough for what is under way.
        graceful_shutdown_timeout_s=settings.timeout_s,
        **_replicas(settings.policy_replicas, settings.max_num_seqs),
    ).bind(settings)
    reading = _light(recommending.Recommending, "recommender", settings.recommender_replicas, settings)
    rating = _light(recommending.Rating, "critic", settings.critic_replicas, settings)
    keeping = serve.deployment(
        registry.Registry,
        name="registry",
        num_replicas=1,
        ray_actor_options={"num_cpus": LIGHT_CPUS},
        # Every ingress asks twice a second.
        logging_config={"enable_access_log": False},
    ).bind(settings, writing)
    ingress = serve.deployment(
        Ingress,
        name="ingress",
        ray_actor_options={"num_cpus": LIGHT_CPUS},
        # It only waits: what is too much is refused by whoever computes.
        max_ongoing_requests=4096,
        graceful_shutdown_timeout_s=settings.timeout_s,
        **_replicas(settings.ingress_replicas, 256),
    )
    return ingress.bind(settings, reading, writing, keeping, rating if settings.critic else None)


def _light(cls: Any, name: str, replicas: tuple[int, int], settings: ServeConfig) -> serve.Application:
    return serve.deployment(
        cls,
        name=name,
        ray_actor_options={"num_cpus": SMALL_CPUS},
        max_ongoing_requests=64,
        max_queued_requests=settings.waiting,
        **_replicas(replicas, 16),
    ).bind(settings)


def _replicas(bounds: tuple[int, int], target: int) -> dict[str, Any]:
    least, most = bounds
    if least == most:
        return {"num_replicas": least}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": max(1, target // 2),
        # A crowd does not wait for half a minute; a replica that has started is kept for the next one.
        "upscale_delay_s": 5,
        "downscale_delay_s": 300,
    }
    return {"autoscaling_config": scaling}


@serve.ingress()
class Ingress:
    """Takes requests; has no state but which adapters there are."""

    def __init__(self, settings: ServeConfig, reading: Any, writing: Any, keeping: Any, rating: Any) -> None:
        self._settings = settings
        self._services = Services(reading, writing, keeping, rating, Meter())

    def __serve_build_asgi_app__(self) -> Any:
        from ecr_ray.serving import api

        settings = self._settings
        keyring = Keyring(Path(settings.output).absolute() / "keys.json")
        limiter = Limiter(settings.requests_per_minute, settings.requests_at_once, peers=lambda: self._services.peers)
        known = films.load(settings.recommender)
        return api.build(self._services, settings, known, keyring, limiter)
