"""The endpoint as a Serve application: `serve run ecr_ray.serving.app:app`, or `python jobs/serve.py`.

Ingress → recommender, policy, critic; the registry says which adapter answers. Each is a deployment of its own, but the
policy where it is in the ingress's process (`--policy-in`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve

from ecr_ray import config
from ecr_ray.config import ServeConfig
from ecr_ray.serving import films, policy, recommending, registry, run
from ecr_ray.serving.adapters import Version
from ecr_ray.serving.keys import Keyring
from ecr_ray.serving.limits import Limiter
from ecr_ray.serving.meter import Meter
from ecr_ray.serving.services import Services
from ecr_ray.serving.writing import InProcess, Replicas

NAME = "ecr_ray"
# Of everything that only waits and forwards.
LIGHT_CPUS = 0.1
# Of a recommender or a critic, which take milliseconds: all of them and an engine fit on a machine of two cores.
SMALL_CPUS = 0.25
# Between two looks at whether an engine is alive.
HEALTH_S = 2


def app(args: Mapping[str, Any]) -> serve.Application:
    """The application, of ServeConfig's fields.

    Raises:
        ConfigError: a field that there is not, or a value that it cannot have.
    """
    return bind(run.located(config.of_mapping(ServeConfig, "serve", args)))


def bind(settings: ServeConfig) -> serve.Application:
    """The application, of settings."""
    apart = settings.policy_in == "replicas"
    writing = _policy(settings) if apart else None
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
        ray_actor_options={"num_cpus": LIGHT_CPUS} if apart else _of_an_engine(settings),
        # It waits, mostly: what is too much is refused by whoever computes.
        max_ongoing_requests=4096,
        health_check_period_s=HEALTH_S,
        graceful_shutdown_timeout_s=settings.timeout_s,
        **_replicas(settings.ingress_replicas, 256 if apart else settings.max_num_seqs),
    )
    return ingress.bind(settings, reading, writing, keeping, rating if settings.critic else None)


def _policy(settings: ServeConfig) -> serve.Application:
    return serve.deployment(
        PolicyReplica,
        name="policy",
        ray_actor_options=_of_an_engine(settings),
        max_ongoing_requests=settings.max_num_seqs + settings.waiting,
        max_queued_requests=settings.waiting,
        health_check_period_s=HEALTH_S,
        # Long enough for what is under way.
        graceful_shutdown_timeout_s=settings.timeout_s,
        **_replicas(settings.policy_replicas, settings.max_num_seqs),
    ).bind(settings)


def _of_an_engine(settings: ServeConfig) -> dict[str, Any]:
    """Options of an actor that has one."""
    gpus = {"num_gpus": settings.tensor_parallel_size} if settings.device == "gpu" else {}
    return {"num_cpus": 1, **gpus, "runtime_env": {"env_vars": policy.environment(settings)}}


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


class PolicyReplica(policy.Policy):
    """An engine of its own."""

    async def __init__(self, settings: ServeConfig) -> None:
        super().__init__(settings)
        await self.start()


@serve.ingress()
class Ingress:
    """Takes requests; its state is which adapters there are, and an engine if the policy is here."""

    def __init__(self, settings: ServeConfig, reading: Any, policy: Any, keeping: Any, rating: Any) -> None:
        self._settings = settings
        self._writing = InProcess(settings) if policy is None else Replicas(policy)
        self._services = Services(reading, self._writing, keeping, rating, Meter())

    async def check_health(self) -> None:
        """For Serve: raises where the engine that is here is dead, and Serve starts another ingress."""
        if isinstance(self._writing, InProcess):
            await self._writing.check_health()

    async def probe(self, version: Version) -> str:
        """For the registry, if the policy is here: whether a version can answer; empty, or what is wrong with it."""
        return await self._writing.policy.probe(version)

    async def under_way(self) -> int:
        """How many requests the engine that is here is answering."""
        return await self._writing.policy.under_way()

    def __serve_build_asgi_app__(self) -> Any:
        from ecr_ray.serving import api

        settings = self._settings
        keyring = Keyring(Path(settings.output).absolute() / "keys.json")
        limiter = Limiter(settings.requests_per_minute, settings.requests_at_once, peers=lambda: self._services.peers)
        known = films.load(settings.recommender)
        return api.build(self._services, settings, known, keyring, limiter)
