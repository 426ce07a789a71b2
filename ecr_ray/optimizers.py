"""One optimizer step behind one small interface, with DeepSpeed ZeRO or without; its state has no topology.

What is saved is every trained weight and Adam's two moments, whole, by name. So a run goes on with another number of
workers, another ZeRO stage, or none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ecr_ray import training

if TYPE_CHECKING:
    import torch

MOMENTS = ("exp_avg", "exp_avg_sq")
# `weights` and MOMENTS → tensor by the weight's name.
State = dict[str, dict[str, "torch.Tensor"]]


@dataclass(frozen=True)
class Settings:
    """What a step needs to know."""

    workers: int
    batching: training.Batching
    weight_decay: float
    gradient_clip: float
    device: training.Device
    zero_stage: int
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6


class Stepper(Protocol):
    """Holds the model and its optimizer. A step: `begin`, `backward` for every micro-batch, `end`."""

    model: Any

    def begin(self, learning_rate: float) -> None:
        """Start a step."""

    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradient of a micro-batch's part of the step's loss; parts add up, over workers as well."""

    def end(self) -> float:
        """Move the weights; the gradient's norm before clipping."""

    def weights(self) -> "dict[str, torch.Tensor]":
        """The trained weights by name, whole, in float32 and on the CPU. All ranks call it together."""

    def state(self) -> State:
        """The weights and the optimizer's moments in the same way."""


def make(
    model: Any,
    settings: Settings,
    example: "Callable[[torch.device], tuple[Any, ...]]",
    resume: State | None = None,
    steps: int = 0,
) -> Stepper:
    """The stepper of a worker.

    Args:
        model: with the weights that are to be trained marked.
        settings: of all steps.
        example: what the model may be called with on a device.
        resume: what `state` gave after so many `steps`.
    """
    import torch

    if resume is not None:
        with torch.no_grad():
            for name, parameter in trained(model).items():
                parameter.copy_(resume["weights"][name])
    stepper = (Zero if settings.zero_stage else Plain)(model, settings)
    if resume is not None:
        stepper.restore(resume, steps, example)
    return stepper


def trained(model: Any) -> dict[str, "torch.nn.Parameter"]:
    """The weights that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _adam(model: Any, settings: Settings) -> "torch.optim.AdamW":
    """AdamW, one group: of a second one DeepSpeed's ZeRO 1 and 2 give no moments back (0.19.8)."""
    import torch

    weights = list(trained(model).values())
    return torch.optim.AdamW(
        weights, lr=0.0, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay
    )


class Plain:
    """Plain torch: gradients are summed over the workers, everybody takes the same step."""

    def __init__(self, model: Any, settings: Settings) -> None:
        self.model = model.to("cuda" if settings.device == "gpu" else "cpu")
        self._settings = settings
        self._optimizer = _adam(self.model, settings)

    def begin(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def backward(self, loss: "torch.Tensor") -> None:
        loss.backward()

    def end(self) -> float:
        import torch

        weights = list(trained(self.model).values())
        if self._settings.workers > 1:
            for weight in weights:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                torch.distributed.all_reduce(weight.grad)
        norm = torch.nn.utils.clip_grad_norm_(weights, self._settings.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def weights(self) -> "dict[str, torch.Tensor]":
        return {name: weight.detach().float().cpu().clone() for name, weight in trained(self.model).items()}

    def state(self) -> State:
        found: State = {"weights": self.weights()} | {moment: {} for moment in MOMENTS}
        for name, weight in trained(self.model).items():
            for moment in MOMENTS:
                found[moment][name] = self._optimizer.state[weight][moment].detach().float().cpu().clone()
        return found

    def restore(self, state: State, steps: int, example: Any) -> None:
        import torch

        for name, weight in trained(self.model).items():
            moments = {moment: state[moment][name].to(weight.device).clone() for moment in MOMENTS}
            self._optimizer.state[weight] = {"step": torch.tensor(float(steps)), **moments}


class Zero:
    """DeepSpeed's engine; what it shares out among the workers is put together by its own functions for that."""

    def __init__(self, model: Any, settings: Settings) -> None:
        import deepspeed

        training.compile_nothing()
        self._optimizer = _adam(model, settings)
        self._settings = settings
        cut = settings.batching
        config = training.deepspeed_config(settings.zero_stage, bf16=False) | {
            "train_batch_size": cut.micro * cut.accumulate * settings.workers,
            "train_micro_batch_size_per_gpu": cut.micro,
            "gradient_accumulation_steps": cut.accumulate,
            "gradient_clipping": settings.gradient_clip,
        }
        self.model, *_ = deepspeed.initialize(model=model, optimizer=self._optimizer, config=config)

    def begin(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def backward(self, loss: "torch.Tensor") -> None:
        # DeepSpeed takes means over workers and micro-batches.
        self.model.backward(loss * self._settings.workers * self._settings.batching.accumulate)
        self.model.step()

    def end(self) -> float:
        # The last backward's step was the one that counts.
        return float(self.model.get_global_grad_norm())

    def weights(self) -> "dict[str, torch.Tensor]":
        from deepspeed.utils import safe_get_full_fp32_param

        return {
            name: safe_get_full_fp32_param(weight).cpu().clone() for name, weight in trained(self.model.module).items()
        }

    def state(self) -> State:
        from deepspeed.utils import safe_get_full_optimizer_state

        found: State = {"weights": self.weights()} | {moment: {} for moment in MOMENTS}
        for name, weight in trained(self.model.module).items():
            for moment in MOMENTS:
                found[moment][name] = safe_get_full_optimizer_state(weight, moment).cpu().clone()
        return found

    def restore(self, state: State, steps: int, example: "Callable[[torch.device], tuple[Any, ...]]") -> None:
        import torch

        # Moments exist after a first step: one of a learning rate of 0 over a loss of 0 changes nothing else.
        self.begin(0.0)
        for _ in range(self._settings.batching.accumulate):
            found = self.model(*example(self.model.device))
            parts = [found] if isinstance(found, torch.Tensor) else found
            self.backward(sum(part.float().sum() for part in parts) * 0.0)
        for name, weight in trained(self.model.module).items():
            for moment in MOMENTS:
                self._set_moment(weight, moment, state[moment][name].to(self.model.device))
        for kept in self._optimizer.state.values():
            kept["step"].fill_(float(steps))

    def _set_moment(self, weight: "torch.nn.Parameter", moment: str, whole: "torch.Tensor") -> None:
        """Put this worker's part of a weight's moment in its place."""
        import torch
        from deepspeed.utils import (
            safe_get_local_optimizer_state,
            safe_set_full_optimizer_state,
            safe_set_local_optimizer_state,
        )

        if self._settings.zero_stage < 3:
            safe_set_full_optimizer_state(weight, whole, moment)
            return
        # DeepSpeed's own cutting fails where the parts are not equal (0.19.8): the last ones are padded.
        part = safe_get_local_optimizer_state(weight, moment).numel()
        rank, workers = torch.distributed.get_rank(), self._settings.workers
        padded = torch.nn.functional.pad(whole.flatten(), (0, part * workers - whole.numel()))
        safe_set_local_optimizer_state(weight, padded[rank * part : (rank + 1) * part], moment)
