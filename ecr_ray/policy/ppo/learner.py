"""One worker's part in learning: what the networks say of sampled answers, and the updates that follow from it.

The models' work is shared out among the workers; what comes of it, a few numbers a token, everybody gets whole. So
advantages, means and minibatches are the same on any number of workers, and so is the gradient.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ecr_ray import optimizers, training
from ecr_ray.config import PpoConfig
from ecr_ray.encoders import batches
from ecr_ray.policy.ppo import maths, networks
from ecr_ray.policy.ppo.delivery import Row
from ecr_ray.policy.ppo.group import Group
from ecr_ray.policy.ppo.networks import LoraShape, Packed
from ecr_ray.policy.sampling import any_length

if TYPE_CHECKING:
    import torch

# Tokens a batch when nothing is learnt: on a CPU small ones stay in its caches.
CPU_TOKENS, GPU_TOKENS = 4096, 65_536
ADAM = {"betas": (0.9, 0.95), "epsilon": 1e-5}


@dataclass(frozen=True)
class Judged:
    """B answers as PPO learns from them; every array (B, T), 0 where a row has no token."""

    rows: list[Row]
    mask_BT: "torch.Tensor"
    log_BT: "torch.Tensor"
    """Under the policy as it is before the update."""
    reference_BT: "torch.Tensor"
    values_BT: "torch.Tensor"
    entropy_BT: "torch.Tensor"

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every response, (B,)."""
        return np.array([len(response) for _, response in self.rows])


@dataclass(frozen=True)
class Targets:
    """What an update moves towards, (B, T) each; `weights_BT` are importance weights."""

    advantages_BT: "torch.Tensor"
    returns_BT: "torch.Tensor"
    weights_BT: "torch.Tensor"


class Learner:
    """Policy, value and reference of one worker, and their optimizer."""

    def __init__(
        self,
        settings: PpoConfig,
        base: str,
        lora: LoraShape | None,
        filler: int,
        group: Group,
        device: training.Device,
        resume: tuple[optimizers.State, int] | None = None,
    ) -> None:
        """`resume`: what `stepper.state` gave, and after how many optimizer steps."""
        import torch

        torch.manual_seed(settings.seed)
        self.settings, self.lora, self.filler, self.group = settings, lora, filler, group
        self._device = "cuda" if device == "gpu" else "cpu"
        built = networks.build(base, lora, "bfloat16" if settings.bf16 else "float32")
        if settings.gradient_checkpointing:
            networks.recompute(built)
        # Before anything is restored: the reference is the policy as PPO found it.
        self.reference = networks.reference_of(built, lora)
        if not lora:
            self.reference.to(self._device)
        cut = training.batching(settings.minibatch, settings.micro_batch, group.workers)
        self.stepper = optimizers.make(
            built,
            optimizers.Settings(
                group.workers, cut, settings.weight_decay, settings.gradient_clip, device, settings.zero_stage, **ADAM
            ),
            networks.example,
            *(resume or (None, 0)),
        )
        self.networks = built

    # --- what the networks say ------------------------------------------------------------------------------

    def judge(self, rows: Sequence[Row]) -> Judged:
        """Log-probabilities, reference's log-probabilities, values and entropies of all rows."""
        import torch

        with torch.no_grad():
            ours = self._shared_out(rows, self._both, 3)
            reference = self._shared_out(rows, self._reference, 1)
        width = max(len(response) for _, response in rows)
        mask_BT = torch.tensor([[1.0] * len(r) + [0.0] * (width - len(r)) for _, r in rows])
        log, entropy, values = (self._square(column, mask_BT) for column in ours)
        return Judged(list(rows), mask_BT, log, self._square(reference[0], mask_BT), values, entropy)

    def log_probs(self, rows: Sequence[Row], *, reference: bool = False) -> np.ndarray:
        """Log-probabilities of the responses' tokens at temperature 1, flat, (N,)."""
        import torch

        how = self._reference if reference else self._policy
        with torch.no_grad():
            return self._shared_out(rows, lambda packed: how(packed, 1.0), 1)[0]

    def _both(self, packed: Packed) -> tuple["torch.Tensor", ...]:
        with self._precision():
            return self.stepper.model(packed.ids_BL, packed.at_N, packed.tokens_N, self.settings.temperature)

    def _policy(self, packed: Packed, temperature: float) -> tuple["torch.Tensor", ...]:
        with self._precision():
            return networks.token_log_probs(
                self.networks.policy, packed.ids_BL, packed.at_N, packed.tokens_N, temperature
            )

    def _reference(self, packed: Packed, temperature: float | None = None) -> tuple["torch.Tensor", ...]:
        with networks.as_reference(self.reference, self.lora), self._precision():
            return networks.token_log_probs(
                self.reference, packed.ids_BL, packed.at_N, packed.tokens_N, temperature or self.settings.temperature
            )

    @contextmanager
    def _precision(self) -> Iterator[None]:
        import torch

        with any_length(), torch.autocast(self._device, dtype=torch.bfloat16, enabled=self.settings.bf16):
            yield

    def _shared_out(self, rows: Sequence[Row], call: Any, columns: int) -> list[np.ndarray]:
        """`call` on batches of like length, each by one worker; its first results in the order of the rows, flat."""
        tokens = CPU_TOKENS if self._device == "cpu" else GPU_TOKENS
        cut = batches.by_length([sum(map(len, row)) for row in rows], tokens)
        mine = []
        # Everybody as often as everybody: ZeRO-3 gathers weights in every one.
        for number in range(-(-len(cut) // self.group.workers)):
            at = number * self.group.workers + self.group.rank
            picked = cut[at] if at < len(cut) else cut[-1][:1]
            found = call(Packed.of([rows[n] for n in picked], self.filler, self._device))
            if at < len(cut):
                mine.append((picked, [column.double().cpu().numpy() for column in found[:columns]]))
        ends = np.cumsum([len(response) for _, response in rows])
        whole = [np.empty(ends[-1]) for _ in range(columns)]
        for picked, found in (part for parts in self.group.from_all(mine) for part in parts):
            places = np.concatenate([np.arange(ends[n] - len(rows[n][1]), ends[n]) for n in picked])
            for column, values in zip(whole, found, strict=True):
                column[places] = values
        return whole

    def _square(self, flat_N: np.ndarray, mask_BT: "torch.Tensor") -> "torch.Tensor":
        import torch

        square = torch.zeros(mask_BT.shape)
        square[mask_BT > 0] = torch.from_numpy(flat_N).float()
        return square

    # --- learning -------------------------------------------------------------------------------------------

    def update(self, judged: Judged, targets: Targets, step: int, learning_rate: float) -> dict[str, float]:
        """All epochs of one PPO step; what they were like, on average over tokens."""
        settings = self.settings
        sums: dict[str, float] = {}
        norms = []
        for epoch in range(settings.epochs):
            order = np.random.default_rng([settings.seed, step, epoch]).permutation(len(judged.rows))
            for begin in range(0, len(order), settings.minibatch):
                picked = order[begin : begin + settings.minibatch]
                found, norm = self._minibatch(judged, targets, picked, step, learning_rate)
                norms.append(norm)
                if not sums:
                    sums["first_ratio"] = found["ratio"] / found["tokens"]
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value
        tokens = sums.pop("tokens")
        first = sums.pop("first_ratio")
        return {name: value / tokens for name, value in sums.items()} | {
            "first_ratio": first,
            "gradient_norm": float(np.mean(norms)),
        }

    @property
    def steps_a_update(self) -> int:
        """Optimizer steps of one PPO step."""
        return self.settings.epochs * (self.settings.batch // self.settings.minibatch)

    def _minibatch(
        self, judged: Judged, targets: Targets, picked: np.ndarray, step: int, learning_rate: float
    ) -> tuple[dict[str, float], float]:
        """One optimizer step; sums over its tokens, and the gradient's norm."""
        # Rows of like length together; every worker takes as many slots as the others.
        order = picked[np.argsort([-sum(map(len, judged.rows[n])) for n in picked], kind="stable")]
        slots = order.reshape(-1, self.settings.micro_batch)
        tokens = float(judged.lengths[picked].sum())
        self.stepper.begin(learning_rate)
        sums: dict[str, Any] = {}
        for slot in slots[self.group.rank :: self.group.workers]:
            loss, found = self._loss(judged, targets, slot, learn_policy=step > self.settings.value_warmup)
            self.stepper.backward(loss / tokens)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double()
        norm = self.stepper.end()
        mine = {name: float(value) for name, value in sums.items()}
        everybody = self.group.from_all(mine)
        return {name: sum(one[name] for one in everybody) for name in mine} | {"tokens": tokens}, norm

    def _loss(
        self, judged: Judged, targets: Targets, slot: np.ndarray, *, learn_policy: bool
    ) -> tuple["torch.Tensor", dict[str, "torch.Tensor"]]:
        """The sum of the losses over a slot's tokens, and sums of what is to be watched."""
        import torch

        settings = self.settings
        has = judged.mask_BT[slot] > 0
        # One transfer: to a GPU each costs as much as a small computation.
        known = (judged.log_BT, judged.values_BT, targets.advantages_BT, targets.returns_BT, targets.weights_BT)
        old, old_values, advantages, returns, weights = torch.stack([square[slot][has] for square in known]).to(
            self._device
        )
        packed = Packed.of([judged.rows[n] for n in slot], self.filler, self._device)
        log, _, values = self._both(packed)
        policy, clipped = maths.policy_loss(log, old, advantages, settings.clip)
        policy = policy * weights
        value, held = maths.value_loss(values, old_values, returns, settings.value_clip)
        loss = policy.sum() * float(learn_policy) + settings.value_weight * value.sum()
        watched = {
            "policy_loss": policy.sum(),
            "value_loss": value.sum(),
            "clip_fraction": clipped.sum(),
            "value_clip_fraction": held.sum(),
            "ratio": maths.ratio(log.detach(), old).sum(),
            "update_kl": maths.k3(old, log.detach()).sum(),
        }
        return loss, watched
