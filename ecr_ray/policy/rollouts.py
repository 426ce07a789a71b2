"""Answers from one engine in this process, or from several in Ray actors: the same words for whoever asks.

`begin` hands out the work and `end` waits for it, so that something else can be done between the two.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ecr_ray.policy import engines
from ecr_ray.policy.engines import Engine, EngineError, EngineSettings
from ecr_ray.policy.ppo.delivery import Delivery, Row
from ecr_ray.policy.sampling import Sample, Sampling

# Between two questions to an actor that Ray is starting again.
LOOK_S = 0.5
UNDECIDED_S = 10.0


class Rollouts(Protocol):
    """Engines that hold the same version of a policy."""

    def load(self, sent: Delivery) -> list[str]:
        """Give every engine a version; the digest of what each took."""

    def log_probs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """What every engine says of the responses' tokens, (N,) each."""

    def begin(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling) -> Any:
        """Start to sample an answer to every prompt."""

    def end(self, begun: Any) -> "Answers":
        """The answers, in the order of the prompts."""


@dataclass(frozen=True)
class Answers:
    """Samples, and the version of the policy that each is of."""

    samples: list[Sample]
    versions: list[int]


class Local:
    """One engine in this process. What is begun is done at its end: nothing overlaps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self, sent: Delivery) -> list[str]:
        return [self._engine.load(sent)]

    def log_probs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return [self._engine.log_probs(rows)]

    def begin(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling) -> Any:
        return prompts, seeds, how

    def end(self, begun: Any) -> Answers:
        samples = self._engine.generate(*begun)
        return Answers(samples, [self._engine.version] * len(samples))


class Pool:
    """Several engines in Ray actors, which Ray starts again when they die; they get the policy again before work.

    The actors belong to whoever starts them; the pool itself may travel to another process.
    """

    def __init__(self, actors: list[Any], deadline_s: float, max_failures: int) -> None:
        self._actors, self._deadline_s, self._max_failures = actors, deadline_s, max_failures
        self._deaths = [0] * len(actors)
        self._sent: Any = None
        self._version = 0

    @classmethod
    def start(
        cls,
        settings: EngineSettings,
        count: int,
        *,
        cpus: float,
        gpus: float,
        role: str | None,
        deadline_s: float,
        max_failures: int,
    ) -> "Pool":
        """Start the actors and wait until all of them are up.

        Raises:
            EngineError: they are not within the deadline.
        """
        import ray

        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": max_failures}
        if role:
            options["label_selector"] = {"role": role}
        actor = ray.remote(RolloutActor).options(**options)
        pool = cls([actor.remote(settings) for _ in range(count)], deadline_s, max_failures)
        try:
            pool.processes()
        except EngineError as error:
            pool.close()
            where = f" on nodes with the label role={role}" if role else ""
            raise EngineError(
                f"{error}; each of {count} needs {cpus:g} CPUs and {gpus:g} GPUs{where}, beside the workers' and the "
                "critic's"
            ) from error
        return pool

    def load(self, sent: Delivery) -> list[str]:
        import ray

        # Once into shared memory, however many engines there are.
        self._sent, self._version = ray.put(sent), sent.version
        return self._all("load", self._sent)

    def log_probs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return self._all("log_probs", self._version, rows)

    def begin(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling) -> Any:
        # Long ones and short ones to everybody.
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        shares = [order[number :: len(self._actors)] for number in range(len(self._actors))]
        return [
            (
                picked,
                self._ask(n, "generate", self._version, [prompts[m] for m in picked], [seeds[m] for m in picked], how),
            )
            for n, picked in enumerate(shares)
            if picked
        ]

    def end(self, begun: Any) -> Answers:
        samples: list[Any] = [None] * sum(len(picked) for picked, _ in begun)
        versions = [0] * len(samples)
        for picked, asked in begun:
            found, version = self._get(asked)
            for n, sample in zip(picked, found, strict=True):
                samples[n], versions[n] = sample, version
        return Answers(samples, versions)

    def processes(self) -> list[int]:
        """The actors' process ids."""
        return self._all("process")

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in self._actors:
            ray.kill(actor)

    def _ask(self, number: int, method: str, *arguments: Any) -> "_Asked":
        call = _Asked(number, method, arguments)
        call.reference = getattr(self._actors[number], method).remote(*arguments)
        return call

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """What every actor answers."""
        asked = [self._ask(number, method, *arguments) for number in range(len(self._actors))]
        return [self._get(call) for call in asked]

    def _get(self, asked: "_Asked") -> Any:
        """An actor's answer; one that died is awaited, given the policy again, and asked again.

        Raises:
            EngineError: it died too often, or did not answer within the deadline.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        until = time.monotonic() + self._deadline_s
        while True:
            try:
                found = ray.get(asked.reference, timeout=max(0.0, until - time.monotonic()))
                if found is not None:
                    return found
                # It was started again since it was last asked, and holds no policy.
                ray.get(self._actors[asked.number].load.remote(self._sent), timeout=max(0.0, until - time.monotonic()))
            except GetTimeoutError as error:
                raise EngineError(
                    f"rollout actor {asked.number} did not answer within {self._deadline_s:.0f} s (--deadline-s)"
                ) from error
            except RayActorError as error:
                self._deaths[asked.number] += 1
                if self._deaths[asked.number] > self._max_failures:
                    raise EngineError(
                        f"rollout actor {asked.number} died more than {self._max_failures} time(s) (--max-failures): "
                        f"{_cause(error)}"
                    ) from error
                self._await_return(asked.number, until)
            asked = self._ask(asked.number, asked.method, *asked.arguments)

    def _await_return(self, number: int, until: float) -> None:
        """Wait until Ray has started an actor again."""
        import ray
        from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError

        # Just after a death Ray may not know yet whether it will start the actor again.
        undecided = time.monotonic() + UNDECIDED_S
        while time.monotonic() < until:
            try:
                ray.get(self._actors[number].process.remote(), timeout=max(0.0, until - time.monotonic()))
                return
            except (RayActorError, GetTimeoutError) as error:
                if isinstance(error, ActorDiedError) and time.monotonic() > undecided:
                    raise EngineError(f"rollout actor {number} is dead: {_cause(error)}") from error
                time.sleep(LOOK_S)
        raise EngineError(
            f"rollout actor {number} died and was not back within {self._deadline_s:.0f} s (--deadline-s)"
        )


def _cause(error: BaseException) -> str:
    """What a process said last."""
    return (str(error).strip().splitlines() or [repr(error)])[-1].strip()


@dataclass
class _Asked:
    """A question to an actor, kept to be asked again where it must."""

    number: int
    method: str
    arguments: tuple[Any, ...]
    reference: Any = None


class RolloutActor:
    """An engine in a process of its own."""

    def __init__(self, settings: EngineSettings) -> None:
        self._engine = engines.make(settings)

    def process(self) -> int:
        """Its process id."""
        import os

        return os.getpid()

    def load(self, sent: Delivery) -> str:
        """The digest of what was taken."""
        return self._engine.load(sent)

    def log_probs(self, version: int, rows: Sequence[Row]) -> np.ndarray | None:
        """See Engine; None where it holds another version."""
        return self._engine.log_probs(rows) if self._engine.version == version else None

    def generate(
        self, version: int, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling
    ) -> tuple[list[Sample], int] | None:
        """Answers, and the version that gave them; None where it holds another version."""
        return (self._engine.generate(prompts, seeds, how), version) if self._engine.version == version else None
