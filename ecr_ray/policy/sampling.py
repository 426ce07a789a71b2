"""Answers of a policy in this process: continuous batches over prompts, with the log-probability of every token drawn.

What a prompt's answer is depends on the weights, the prompt and its seed only, and but for rounding not on what else is
in the batch. Needs nothing but torch and transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Tokens between two looks of the host at what a GPU has drawn.
GPU_LOOK = 8


@dataclass(frozen=True)
class Sampling:
    """How to draw. At temperature 0 the likeliest token is taken, and log-probabilities are of temperature 1."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability. PPO's ratios need 1.0."""
    rows: int = 64
    """Prompts at once."""


@dataclass(frozen=True)
class Sample:
    """An answer. `log_probs` are the policy's own, in nats, before any top-p; `ended`: it closed its turn by itself."""

    ids: list[int]
    log_probs: list[float]
    ended: bool


def generate(
    model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling, end: int, filler: int
) -> list[Sample]:
    """An answer to every prompt, in their order.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        prompts: token ids.
        seeds: of every answer.
        how: to draw.
        end: the token that closes a turn; it is part of the answer.
        filler: the token that pads; not `end`.

    Raises:
        ValueError: the filler is the end, and so could not be told from it.
    """
    if end == filler:
        raise ValueError("the token that pads is the one that ends a turn: padding could not be told from an end")
    found: list[Sample | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    for begin in range(0, len(order), how.rows):
        picked = order[begin : begin + how.rows]
        batch = _Batch(model, [prompts[n] for n in picked], [seeds[n] for n in picked], how, end, filler)
        for n, sample in zip(picked, batch.run(), strict=True):
            found[n] = sample
    return [sample for sample in found if sample is not None]


def any_length() -> Any:
    """A context in which attention is not computed by cuDNN, which plans anew for every length that it meets.

    Every token sampled and every batch learnt has a length of its own. Unmeasured: on an H100 a token took 35 ms in
    bfloat16, where torch may choose cuDNN, and 10 ms in float32, where it cannot.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


class _Batch:
    """Prompts that are answered together; rows that have ended leave it.

    What is drawn stays on the device; the host looks at it only every few tokens, because on a GPU every look waits
    for all that has been asked of it.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        how: Sampling,
        end: int,
        filler: int,
    ) -> None:
        import torch
        from transformers import DynamicCache

        self._model, self._how, self._end = model, how, end
        self._device = next(model.parameters()).device
        width = max(map(len, prompts))
        # Padded on the left, so that all go on at the same place; the mask also gives the positions.
        self._ids = torch.tensor([[filler] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        self._mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp_min(0)
        self._cache = DynamicCache(config=model.config)
        drawn = torch.stack([_uniform(seed, how.max_tokens) for seed in seeds])
        # A column a token: rows that are together lie together.
        self._drawn_TR = drawn.T.contiguous().to(self._device)
        # Row of the batch → number of its prompt.
        self._alive = torch.arange(len(prompts), device=self._device)
        self._done_R = torch.zeros(len(prompts), dtype=torch.bool, device=self._device)
        self._tokens_TR = torch.full((how.max_tokens, len(prompts)), filler, device=self._device)
        self._logs_TR = torch.zeros((how.max_tokens, len(prompts)), device=self._device)
        self._look = 1 if self._device.type == "cpu" else GPU_LOOK

    def run(self) -> list[Sample]:
        import torch

        with torch.inference_mode(), any_length():
            for step in range(self._how.max_tokens):
                tokens, logs = self._draw(self._next_logits(), self._drawn_TR[step, self._alive])
                self._tokens_TR[step, self._alive] = tokens
                self._logs_TR[step, self._alive] = logs
                self._done_R |= tokens == self._end
                kept = None
                if (step + 1) % self._look == 0:
                    kept = (~self._done_R).nonzero()[:, 0]
                    if not len(kept):
                        break
                self._go_on(tokens, kept)
        return self._samples()

    def _samples(self) -> list[Sample]:
        """What was drawn up to each row's end; what it was computed along after that is nobody's."""
        tokens, logs = self._tokens_TR.T.tolist(), self._logs_TR.T.tolist()
        found = []
        for ids, of_ids in zip(tokens, logs, strict=True):
            ended = self._end in ids
            count = ids.index(self._end) + 1 if ended else len(ids)
            found.append(Sample(ids[:count], of_ids[:count], ended))
        return found

    def _next_logits(self) -> "torch.Tensor":
        found = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return found.logits[:, -1].float()

    def _draw(self, logits_RV: "torch.Tensor", drawn_R: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        """A token for every row, by the inverse of the distribution function at a number drawn for it."""
        import torch

        how = self._how
        log_RV = torch.log_softmax(logits_RV / (how.temperature or 1.0), dim=-1)
        if not how.temperature:
            tokens_R = log_RV.argmax(-1)
        elif how.top_p < 1:
            ordered_RV, ids_RV = log_RV.exp().sort(descending=True)
            below_RV = ordered_RV.cumsum(-1)
            kept_RV = ordered_RV * (below_RV - ordered_RV < how.top_p)
            tokens_R = ids_RV.gather(-1, _inverse(kept_RV, drawn_R)[:, None])[:, 0]
        else:
            tokens_R = _inverse(log_RV.exp(), drawn_R)
        return tokens_R, log_RV.gather(-1, tokens_R[:, None])[:, 0]

    def _go_on(self, tokens: "torch.Tensor", kept: "torch.Tensor | None") -> None:
        """Put the new tokens in; once a quarter of the rows has ended, compute the others (`kept`) alone."""
        import torch

        if kept is not None and len(kept) <= 0.75 * len(self._done_R):
            self._cache.batch_select_indices(kept)
            self._alive, self._done_R, tokens = self._alive[kept], self._done_R[kept], tokens[kept]
            self._mask, self._positions = self._mask[kept], self._positions[kept]
        self._ids = tokens[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)
        self._positions = self._positions[:, -1:] + 1


def _uniform(seed: int, count: int) -> "torch.Tensor":
    import torch

    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def _inverse(weights_RV: "torch.Tensor", drawn_R: "torch.Tensor") -> "torch.Tensor":
    """The first entry at which the running sum reaches the drawn share of the whole, (R,)."""
    import torch

    below_RV = weights_RV.double().cumsum(-1)
    wanted_R1 = drawn_R.double()[:, None] * below_RV[:, -1:]
    return torch.searchsorted(below_RV, wanted_R1, right=True)[:, 0].clamp_max(weights_RV.shape[-1] - 1)
