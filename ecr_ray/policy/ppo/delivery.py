"""The policy's weights on their way to those who sample, and the proof that they arrived and are in use.

A delivery is the trained tensors alone, as safetensors, under a version and a digest. It is proven twice: every engine
answers with the digest of what it loaded, and gives the log-probabilities of a few known answers, which must be the
trainer's and not those of the policy before.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ecr_ray.errors import UserError

if TYPE_CHECKING:
    import torch

# Prompt and response as token ids.
Row = tuple[Sequence[int], Sequence[int]]
# Nats a token by which engine and trainer may differ: they add up in another order, or compute in bfloat16.
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2, "float16": 2e-2}

MARGIN = 4.0


class PolicySyncError(UserError):
    """What samples is not what is trained."""


@dataclass(frozen=True)
class Delivery:
    """A version of the policy as it travels."""

    version: int
    payload: bytes
    digest: str

    @classmethod
    def of(cls, tensors: "dict[str, torch.Tensor]", version: int, dtype: str = "float32") -> "Delivery":
        """Of the policy's trained weights by name."""
        import torch
        from safetensors.torch import save

        # Clones: engines fold an adapter's scale into what they are given.
        cast = {name: tensor.to(getattr(torch, dtype)).contiguous().clone() for name, tensor in tensors.items()}
        payload = save(cast)
        return cls(version, payload, digest(payload))


def digest(payload: bytes) -> str:
    """What an engine answers with."""
    return hashlib.sha256(payload).hexdigest()


@dataclass(frozen=True)
class Probe:
    """Known answers, and their tokens' log-probabilities under the reference and the version before; flat, (N,)."""

    rows: tuple[Row, ...]
    reference: np.ndarray
    before: np.ndarray
    noise: float = 0.0
    """Nats a token by which engines and trainer differed at the first delivery."""


@dataclass(frozen=True)
class Proof:
    """Mean distances in nats a token: of an engine from the trainer, and of the trainer from what it was."""

    engine: float
    moved: float
    moved_from_reference: float


def prove(
    answered: Sequence[str], scored: Sequence[np.ndarray], trainer: np.ndarray, probe: Probe, sent: Delivery, dtype: str
) -> Proof:
    """Check what every engine answered after a delivery.

    Args:
        answered: digests.
        scored: log-probabilities of the probe's tokens, flat, an array an engine.
        trainer: the same by the trainer.
        probe: what was asked for.
        sent: the delivery.
        dtype: in which the engines compute.

    Raises:
        PolicySyncError: naming the engine, and what it seems to hold.
    """
    worst = 0.0
    for number, (found, logs) in enumerate(zip(answered, scored, strict=True)):
        if found != sent.digest:
            raise PolicySyncError(
                f"rollout engine {number} answers with digest {found[:12]} for version {sent.version} of the policy, "
                f"which has {sent.digest[:12]}: it did not load what was sent"
            )
        error = _distance(logs, trainer)
        worst = max(worst, error)
        holds = "" if error <= TOLERANCE[dtype] else "something else"
        nearest = error
        for name, other in (("the version before", probe.before), ("the base model", probe.reference)):
            # Told apart only where the trainer itself has moved by more than the two differ anyhow.
            if _distance(trainer, other) > MARGIN * probe.noise and _distance(logs, other) < nearest:
                holds, nearest = name, _distance(logs, other)
        if holds:
            raise PolicySyncError(
                f"rollout engine {number} loaded version {sent.version} of the policy but answers like {holds}: its "
                f"log-probabilities are {error:.2g} nats a token from the trainer's"
            )
    return Proof(worst, _distance(trainer, probe.before), _distance(trainer, probe.reference))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(np.abs(np.asarray(a, dtype=np.float64) - b)))
