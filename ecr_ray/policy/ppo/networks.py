"""What PPO trains, as one module: the policy, and what says how good a state is, apart from each other.

With an adapter both are the same frozen base, each with an adapter of its own, and the reference is the policy with its
adapter off. With full weights they are copies, and the reference is a third one that stays as it was. So nothing needs
to be switched on and off while DeepSpeed holds the weights that learn.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecr_ray.policy.ppo import maths

if TYPE_CHECKING:
    import torch

POLICY, VALUE = "policy.", "value."


@dataclass(frozen=True)
class LoraShape:
    """What an adapter is, apart from its weights."""

    r: int
    alpha: int
    targets: tuple[str, ...]

    def config(self, task: str) -> Any:
        """PEFT's; without dropout, or sampling and learning would not see the same policy."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.r, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=list(self.targets), task_type=task
        )


@dataclass(frozen=True)
class Packed:
    """N response tokens of some rows, row after row.

    `ids_BL` prompts and responses, padded on the right; `at_N` where in the flattened `ids_BL` each token is foreseen
    (one place before it); `tokens_N` the tokens.
    """

    ids_BL: "torch.Tensor"
    at_N: "torch.Tensor"
    tokens_N: "torch.Tensor"

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[int], Sequence[int]]], filler: int, device: str) -> "Packed":
        """From prompts and their responses as token ids, each at least one."""
        import numpy as np
        import torch

        width = max(len(prompt) + len(response) for prompt, response in rows)
        ids = np.full((len(rows), width), filler, dtype=np.int64)
        at = []
        for n, (prompt, response) in enumerate(rows):
            end = len(prompt) + len(response)
            ids[n, :end] = [*prompt, *response]
            at.append(n * width + np.arange(len(prompt) - 1, end - 1))
        tokens = np.concatenate([response for _, response in rows])
        return cls(*(torch.from_numpy(a).to(device) for a in (ids, np.concatenate(at), tokens)))


def build(base: str, lora: LoraShape | None, dtype: str = "float32") -> "torch.nn.Module":
    """Policy and value from a base model, with the weights that learn marked.

    Args:
        base: directory or hub id of a causal language model.
        lora: None trains all weights.
        dtype: of a frozen base; what learns is float32.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(base, dtype=dtype if lora else "float32")
    policy.config.use_cache = False
    width = policy.config.get_text_config().hidden_size
    # Structure of its own; with an adapter the frozen weights are the very same tensors.
    shared = {id(weight): weight for weight in policy.get_decoder().parameters()} if lora else {}
    value = copy.deepcopy(policy.get_decoder(), shared)
    if lora:
        from peft import get_peft_model

        policy = get_peft_model(policy, lora.config("CAUSAL_LM"), autocast_adapter_dtype=True)
        value = get_peft_model(value, lora.config("FEATURE_EXTRACTION"), autocast_adapter_dtype=True)

    class Networks(nn.Module):
        """Packed rows → log-probability and entropy of each response token, and the value before it, (N,) each."""

        def __init__(self) -> None:
            super().__init__()
            self.policy, self.value = policy, value
            self.head = nn.Linear(width, 1)
            # The rewards are centred: what is not known yet is worth 0.
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

        def forward(
            self, ids_BL: torch.Tensor, at_N: torch.Tensor, tokens_N: torch.Tensor, temperature: float = 1.0
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            log_N, entropy_N = token_log_probs(self.policy, ids_BL, at_N, tokens_N, temperature)
            states_NH = self.value(input_ids=ids_BL, use_cache=False).last_hidden_state.flatten(0, 1)[at_N]
            return log_N, entropy_N, self.head(states_NH.float())[:, 0]

    return Networks().eval()


def token_log_probs(
    policy: Any, ids_BL: "torch.Tensor", at_N: "torch.Tensor", tokens_N: "torch.Tensor", temperature: float
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Log-probability and entropy of each response token under a causal language model, (N,) each, in nats.

    Padding on the right is behind all that is asked for, so that no mask is needed; the vocabulary is looked at only
    where a response token is foreseen.
    """
    whole = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    states_NH = whole.get_decoder()(input_ids=ids_BL, use_cache=False).last_hidden_state.flatten(0, 1)[at_N]
    return maths.token_log_probs(whole.get_output_embeddings()(states_NH), tokens_N, temperature)


def recompute(networks: Any) -> None:
    """Keep no activations for the backward pass, but compute them again (gradient checkpointing).

    transformers does so in training mode only; what that would drop out at random stays in.
    """
    from torch import nn

    for part in (networks.policy, networks.value):
        part.gradient_checkpointing_enable()
    networks.train()
    for module in networks.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def reference_of(networks: Any, lora: LoraShape | None) -> Any:
    """The policy before PPO: a frozen copy, or with an adapter the policy itself, to be used inside `as_reference`."""
    return networks.policy if lora else copy.deepcopy(networks.policy).requires_grad_(False).eval()


def as_reference(reference: Any, lora: LoraShape | None) -> Any:
    """A context in which `reference` answers as the policy before PPO did."""
    return reference.disable_adapter() if lora else nullcontext()


def example(device: "torch.device") -> tuple["torch.Tensor", ...]:
    """Something that Networks can be called with."""
    import torch

    ids = torch.ones(1, 4, dtype=torch.long, device=device)
    return ids, torch.arange(2, device=device), ids[0, :2]


def policy_weights(weights: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Of the trained weights by name those of the policy, by the names that the policy itself has for them."""
    return {name.removeprefix(POLICY): tensor for name, tensor in weights.items() if name.startswith(POLICY)}
