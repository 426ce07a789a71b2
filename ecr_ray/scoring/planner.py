"""What a judge needs against what the cluster has, before anything is loaded.

The arithmetic is a model's own: bytes of weights, bytes of KV cache a token, over the GPUs that share them.
It is an estimate and meant to be on the safe side; the engine has the last word.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ecr_ray.cluster.inventory import GIB, Node
from ecr_ray.config import JudgeConfig
from ecr_ray.errors import UserError

# Activations, CUDA context and graphs of an engine, a GPU: what vLLM's profiling run typically sets aside.
OVERHEAD_GIB = 2.0
# Sequences of full length that must fit at once; below that an engine thrashes.
MIN_SEQUENCES = 4
BYTES_BY_QUANTIZATION = {"awq": 0.56, "gptq": 0.56, "bitsandbytes": 0.56, "fp8": 1.0, "int8": 1.0}
BYTES_BY_DTYPE = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "auto": 2.0, "half": 2.0, "float": 4.0}


@dataclass(frozen=True)
class Shape:
    """What a decoder's size follows from."""

    params: int
    layers: int
    kv_heads: int
    head_dim: int

    def kv_bytes_per_token(self, bytes_per_value: float = 2.0) -> float:
        """Keys and values of one token, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value


# The judges known by name, so that a plan needs no download (and no licence click).
KNOWN = {
    "meta-llama/Llama-2-7b-chat-hf": Shape(6_738_415_616, 32, 32, 128),
    "meta-llama/Llama-2-70b-chat-hf": Shape(68_976_648_192, 80, 8, 128),
    "mistralai/Mistral-7B-Instruct-v0.2": Shape(7_241_732_096, 32, 8, 128),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": Shape(46_702_792_704, 32, 8, 128),
    "TheBloke/Mixtral-8x7B-Instruct-v0.1-AWQ": Shape(46_702_792_704, 32, 8, 128),
}


@dataclass(frozen=True)
class Need:
    """What one engine of a judge needs. Memory is GiB a GPU, or of main memory for a CPU engine."""

    weights_gib: float
    kv_gib: float
    total_gib: float
    gpus: int
    cpus: float


class DoesNotFit(UserError):
    """A judge that the cluster cannot hold; the message names the smallest change that would fit."""


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape in a Hugging Face `config.json` of the Llama family (Llama, Mistral, Mixtral, Qwen).

    Raises:
        KeyError: the config does not name what the arithmetic needs.
    """
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    experts = config.get("num_local_experts") or 1
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    mlp = 3 * hidden * config["intermediate_size"] * experts + (hidden * experts if experts > 1 else 0)
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return Shape(layers * (attention + mlp + 2 * hidden) + embeddings + hidden, layers, kv_heads, head_dim)


def need(judge: JudgeConfig, shape: Shape) -> Need:
    """What one engine needs."""
    dtype_bytes = BYTES_BY_DTYPE.get(judge.dtype, 2.0)
    weight_bytes = BYTES_BY_QUANTIZATION.get(judge.quantization or "", dtype_bytes)
    share = judge.tensor_parallel_size
    weights = shape.params * weight_bytes / share / GIB
    # KV heads are split over the GPUs as far as there are any.
    kv_share = min(share, shape.kv_heads)
    kv = shape.kv_bytes_per_token(dtype_bytes) * judge.max_model_len * MIN_SEQUENCES / kv_share / GIB
    if judge.device == "cpu":
        kv = max(kv, float(judge.cpu_kv_cache_gib))
        return Need(weights, kv, weights + kv + OVERHEAD_GIB / 2, 0, judge.cpus_per_engine)
    return Need(weights, kv, weights + kv + OVERHEAD_GIB, share, judge.cpus_per_engine * share)


def problem(judge: JudgeConfig, shape: Shape, nodes: Sequence[Node]) -> str | None:
    """Why a judge does not fit, or None. An engine's GPUs must be on one node."""
    wanted = need(judge, shape)
    if judge.device == "cpu":
        places = sum(int(min(n.cpus / wanted.cpus, n.memory_gib / wanted.total_gib)) for n in nodes)
        missing = f"{wanted.total_gib:.1f} GiB of memory and {wanted.cpus:g} CPU each"
        return (
            None if places >= judge.engines else f"{judge.engines} engines need {missing}; there is room for {places}"
        )
    if not any(n.gpus for n in nodes):
        return f"it needs {wanted.gpus} GPU{'s' * (wanted.gpus > 1)} and the cluster has none"
    fitting = [n for n in nodes if n.gpu_gib * judge.gpu_memory_utilization >= wanted.total_gib]
    if not fitting:
        best = max(n.gpu_gib for n in nodes)
        usable = best * judge.gpu_memory_utilization
        have = f"the largest has {usable:.1f} GiB to use"
        return f"it needs {wanted.total_gib:.1f} GiB on each of {wanted.gpus} GPUs; {have}"
    places = sum(int(min(n.gpus // wanted.gpus, n.cpus // wanted.cpus)) for n in fitting)
    if places < judge.engines:
        return f"{judge.engines} engines need {wanted.gpus} GPUs each on one node; there is room for {places}"
    return None


def check(judge: JudgeConfig, shape: Shape, nodes: Sequence[Node]) -> None:
    """Raise unless the judge fits.

    Raises:
        DoesNotFit: with the reason and the smallest change of settings that would fit, if there is one.
    """
    reason = problem(judge, shape, nodes)
    if reason is None:
        return
    for change, changed in _changes(judge, nodes):
        if problem(changed, shape, nodes) is None:
            raise DoesNotFit(f"judge {judge.name} does not fit: {reason}. It would fit with {change}")
    raise DoesNotFit(f"judge {judge.name} does not fit: {reason}. No change of settings would make it fit here")


def _changes(judge: JudgeConfig, nodes: Sequence[Node]) -> Iterable[tuple[str, JudgeConfig]]:
    """Settings to try, the least invasive first: fewer engines, more GPUs an engine, shorter prompts, 4-bit."""
    for engines in range(judge.engines - 1, 0, -1):
        yield f"--engines {engines}", replace(judge, engines=engines)
    most = max((n.gpus for n in nodes), default=0)
    shares = [s for s in (1, 2, 4, 8, 16) if judge.tensor_parallel_size < s <= most]
    for share in shares:
        changed = replace(judge, tensor_parallel_size=share)
        yield f"--tensor-parallel-size {share}", changed
        yield f"--tensor-parallel-size {share} --engines 1", replace(changed, engines=1)
    for length in (judge.max_model_len // 2, judge.max_model_len // 4):
        yield f"--max-model-len {length}", replace(judge, max_model_len=length)
        yield f"--max-model-len {length} --engines 1", replace(judge, max_model_len=length, engines=1)
    if judge.quantization is None and judge.device == "gpu":
        advice = "--quantization awq (and a model whose weights are stored so)"
        for share in [judge.tensor_parallel_size, *shares]:
            changed = replace(judge, quantization="awq", tensor_parallel_size=share, engines=1)
            more = f" --tensor-parallel-size {share}" * (share != judge.tensor_parallel_size)
            yield f"{advice}{more}{' --engines 1' * (judge.engines > 1)}", changed


def fit_together(judges: Sequence[JudgeConfig], shapes: Mapping[str, Shape], nodes: Sequence[Node]) -> bool:
    """Whether all judges fit at the same time, each engine placed on the first node with room.

    CPU engines each take all cores that they find; two judges of them only get in each other's way.
    """
    if sum(j.device == "cpu" for j in judges if j.backend == "vllm") > 1:
        return False
    free = [[n.cpus, n.gpus, n.memory_gib, n] for n in nodes]
    engines = [(j, need(j, shapes[j.name])) for j in judges if j.backend == "vllm" for _ in range(j.engines)]
    for judge, wanted in sorted(engines, key=lambda e: -e[1].gpus):
        for place in free:
            roomy = place[3].gpu_gib * judge.gpu_memory_utilization >= wanted.total_gib
            memory = wanted.total_gib if judge.device == "cpu" else 0.0
            if (
                (wanted.gpus == 0 or roomy)
                and place[0] >= wanted.cpus
                and place[1] >= wanted.gpus
                and place[2] >= memory
            ):
                place[0], place[1], place[2] = (
                    place[0] - wanted.cpus,
                    place[1] - wanted.gpus,
                    place[2] - memory,
                )
                break
        else:
            return False
    return True


def table(judges: Sequence[JudgeConfig], shapes: Mapping[str, Shape], nodes: Sequence[Node]) -> str:
    """The plan as text: a line a judge, then what the cluster has."""
    lines = ["judge                        engines  GPUs/engine  weights  KV cache  total GiB each"]
    for judge in judges:
        if judge.backend == "http":
            lines.append(f"{judge.name:<28} over HTTP at {judge.url}")
            continue
        if judge.backend == "critic":
            lines.append(f"{judge.name:<28} {judge.engines:>7}  a critic: an encoder, no engine")
            continue
        wanted = need(judge, shapes[judge.name])
        lines.append(
            f"{judge.name:<28} {judge.engines:>7}  {wanted.gpus:>11}  {wanted.weights_gib:>7.2f}  {wanted.kv_gib:>8.2f}"
            f"  {wanted.total_gib:>14.2f}"
        )
    gpus = sum(n.gpus for n in nodes)
    largest = max((n.gpu_gib for n in nodes), default=0.0)
    having = f"{gpus} GPUs (largest {largest:.0f} GiB)" if gpus else "no GPU"
    memory = math.floor(sum(n.memory_gib for n in nodes))
    lines.append(f"cluster: {len(nodes)} nodes, {sum(n.cpus for n in nodes):g} CPUs, {memory} GiB memory, {having}")
    return "\n".join(lines)
