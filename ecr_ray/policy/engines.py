"""What samples a policy's answers: one interface, with transformers in this process or with vLLM.

An engine has no state but the version of the policy that it holds. It is given token ids and gives token ids back,
with the log-probability of each at the temperature that it was drawn with.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ecr_ray.errors import UserError
from ecr_ray.policy import sampling
from ecr_ray.policy.ppo import checkpoints, delivery, networks
from ecr_ray.policy.ppo.delivery import Row
from ecr_ray.policy.ppo.networks import LoraShape
from ecr_ray.policy.sampling import Sample, Sampling
from ecr_ray.scoring import orphans

# transformers: prompts sampled from together on a GPU.
GPU_ROWS = 512


class EngineError(UserError):
    """An engine that cannot do what is asked of it."""


# A prompt is read in one piece: where it reads one in several, vLLM 0.29 winds back the random numbers of a request
# with a seed, which those of a CPU cannot do, and dies.
VLLM_ON_CPU = {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}


@dataclass(frozen=True)
class EngineSettings:
    """What an engine needs to start."""

    kind: Literal["transformers", "vllm"]
    base: str
    """Directory or hub id."""
    end: int
    filler: int
    device: Literal["cpu", "gpu"] = "cpu"
    dtype: str = "float32"
    lora: LoraShape | None = None
    """None: full weights are delivered."""
    max_length: int = 1024
    """Tokens of a prompt and its answer."""
    threads: int = 1
    vllm: dict[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's LLM."""


class Engine(Protocol):
    """Samples one version of the policy."""

    version: int | None

    def load(self, sent: delivery.Delivery) -> str:
        """Take a version of the policy; the digest of what was taken."""

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling) -> list[Sample]:
        """An answer to every prompt, in their order."""

    def log_probs(self, rows: Sequence[Row]) -> np.ndarray:
        """Log-probabilities of the responses' tokens at temperature 1, row after row, (N,)."""


def make(settings: EngineSettings) -> Engine:
    """The engine that the settings name."""
    return (Vllm if settings.kind == "vllm" else InProcess)(settings)


class InProcess:
    """transformers and PEFT in this process; see sampling.py."""

    def __init__(self, settings: EngineSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if settings.device == "cpu":
            torch.set_num_threads(settings.threads)
        self._settings, self.version = settings, None
        self._device = "cuda" if settings.device == "gpu" else "cpu"
        model = AutoModelForCausalLM.from_pretrained(settings.base, dtype=settings.dtype)
        if settings.lora:
            from peft import get_peft_model

            model = get_peft_model(model, settings.lora.config("CAUSAL_LM"))
        self.model = model.to(self._device).eval().requires_grad_(False)

    def load(self, sent: delivery.Delivery) -> str:
        import torch
        from safetensors.torch import load

        tensors = load(sent.payload)
        own = {name: p for name, p in self.model.named_parameters() if not self._settings.lora or ".lora_" in name}
        check_fit(tensors, {name: tuple(p.shape) for name, p in own.items()})
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])
        self.version = sent.version
        return delivery.digest(sent.payload)

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling) -> list[Sample]:
        if self._settings.device == "gpu":
            # A step takes as long for many rows as for few.
            how = replace(how, rows=max(how.rows, GPU_ROWS))
        return sampling.generate(self.model, prompts, seeds, how, self._settings.end, self._settings.filler)

    def log_probs(self, rows: Sequence[Row]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            packed = networks.Packed.of(rows, self._settings.filler, self._device)
            found, _ = networks.token_log_probs(self.model, packed.ids_BL, packed.at_N, packed.tokens_N, 1.0)
        return found.double().cpu().numpy()


class Vllm:
    """vLLM, one adapter a version, each under a name and number of its own: vLLM caches prefixes by them."""

    def __init__(self, settings: EngineSettings) -> None:
        os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", orphans.VARIABLE: "1"}
        if settings.device == "cpu":
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # One process: on a CPU a second one spins while it waits.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
        import vllm

        cpu = VLLM_ON_CPU if settings.device == "cpu" else {}
        arguments = {
            "model": settings.base,
            "dtype": settings.dtype,
            "max_model_len": settings.max_length,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            # Of the distribution that was drawn from, its temperature included.
            "logprobs_mode": "processed_logprobs",
        }
        # Without one it samples its base model only.
        lora = settings.lora
        adapters = {"enable_lora": True, "max_lora_rank": _lora_rank(lora.r), "max_loras": 1} if lora else {}
        self._vllm, self._settings, self.version = vllm, settings, None
        self._arguments = arguments | adapters | cpu | settings.vllm
        self._llm: Any = vllm.LLM(**self._arguments)
        self._folder = Path(tempfile.mkdtemp(prefix="ecr-adapters-"))
        self._adapter: Any = None

    def load(self, sent: delivery.Delivery) -> str:
        from safetensors.torch import load
        from vllm.lora.request import LoRARequest

        if self._settings.lora is None:
            raise EngineError("vLLM takes adapters, not whole weights: --engine vllm goes with --method lora")
        tensors = load(sent.payload)
        check_rank(tensors, self._settings.lora.r)
        if self._llm is None:
            self._llm, self._adapter = self._vllm.LLM(**self._arguments), None
        directory = self._folder / f"{sent.version}-{uuid.uuid4().hex[:8]}"
        checkpoints.write_adapter(directory, tensors, self._settings.base, self._settings.lora)
        old, number = self._adapter, self._number()
        self._adapter = LoRARequest(f"policy-{number}-{sent.digest[:12]}", number, str(directory))
        if not self._llm.llm_engine.add_lora(self._adapter):
            raise delivery.PolicySyncError(f"vLLM did not take version {sent.version} of the policy")
        if old is not None:
            self._llm.llm_engine.remove_lora(old.lora_int_id)
            shutil.rmtree(old.lora_path)
        self.version = sent.version
        return delivery.digest(sent.payload)

    def _number(self) -> int:
        return 1 if self._adapter is None else self._adapter.lora_int_id + 1

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Sampling) -> list[Sample]:
        asked = [
            self._vllm.SamplingParams(
                temperature=how.temperature,
                top_p=how.top_p,
                max_tokens=how.max_tokens,
                seed=seed,
                logprobs=0,
                stop_token_ids=[self._settings.end],
                detokenize=False,
            )
            for seed in seeds
        ]
        found = self._ask(prompts, asked)
        return [self._sample(output.outputs[0]) for output in found]

    def _sample(self, output: Any) -> Sample:
        ids = list(output.token_ids)
        logs = [step[token].logprob for token, step in zip(ids, output.logprobs, strict=True)]
        return Sample(ids, logs, bool(ids) and ids[-1] == self._settings.end)

    def log_probs(self, rows: Sequence[Row]) -> np.ndarray:
        # A question a token, which the prefix cache makes cheap: prompts' own log-probabilities fail with an adapter
        # on a CPU (vLLM 0.29.0).
        before, asked, tokens = [], [], []
        for prompt, response in rows:
            for n, token in enumerate(response):
                before.append([*prompt, *response[:n]])
                asked.append(
                    self._vllm.SamplingParams(
                        temperature=1.0, max_tokens=1, logprob_token_ids=[token], detokenize=False
                    )
                )
                tokens.append(token)
        found = self._ask(before, asked)
        return np.array(
            [output.outputs[0].logprobs[0][token].logprob for output, token in zip(found, tokens, strict=True)]
        )

    def _ask(self, prompts: Sequence[Sequence[int]], asked: Sequence[Any]) -> list[Any]:
        rows = [{"prompt_token_ids": list(ids)} for ids in prompts]
        if self._llm is None:
            raise EngineError("vLLM broke off at the last request, and has not been given a policy since")
        try:
            return self._llm.generate(rows, list(asked), lora_request=self._adapter, use_tqdm=False)
        except Exception:
            # What it had begun is still in it, and would fail whatever it is asked next.
            self._llm = None
            raise


def _lora_rank(r: int) -> int:
    """The smallest rank that vLLM makes room for which is enough."""
    return next((rank for rank in (8, 16, 32, 64, 128, 256, 320, 512) if rank >= r), r)


def check_rank(tensors: dict[str, Any], r: int) -> None:
    """Make sure that an adapter that was sent has the rank that an engine was started for.

    Raises:
        PolicySyncError: naming the first weight that has not.
    """
    for name, tensor in tensors.items():
        rank = tensor.shape[0 if ".lora_A." in name else 1]
        if rank != r:
            raise delivery.PolicySyncError(
                f"the weight {name} that was sent is of an adapter of rank {rank}, the engine's has rank {r}"
            )


def check_fit(tensors: dict[str, Any], wanted: dict[str, tuple[int, ...]]) -> None:
    """Make sure that a delivery is of the weights that an engine has.

    Raises:
        PolicySyncError: naming the first that is not.
    """
    other = sorted(set(tensors) ^ set(wanted))
    if other:
        raise delivery.PolicySyncError(
            f"the policy that was sent {'has' if other[0] in tensors else 'lacks'} the weight {other[0]}, unlike the "
            "engine: both must be of the same base model and adapter shape"
        )
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise delivery.PolicySyncError(
                f"the weight {name} that was sent has shape {tuple(tensors[name].shape)}, the engine's has {shape}: "
                "an adapter of another rank or base model"
            )
