"""What a PPO run needs to go on: every learnt weight and moment, where it was, and the policy as others load it.

`checkpoints/checkpoint-STEP/` has `policy/` (servable as it is), `weights`, `exp_avg` and `exp_avg_sq` as safetensors,
`rewarder` and progress in `complete.json`, which is written last and names every file's digest.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecr_ray import optimizers, storage
from ecr_ray.errors import UserError
from ecr_ray.policy.ppo import networks
from ecr_ray.policy.ppo.networks import LoraShape

COMPLETE = "complete.json"
KEPT = 2
POLICY = "policy"


class CheckpointError(UserError):
    """A checkpoint that cannot be written, or is not what was written."""


@dataclass
class Progress:
    """Where a run is; the questions and random numbers of a step follow from its number and the seed."""

    step: int = 0
    optimizer_steps: int = 0
    beta: float | None = None
    best: float | None = None
    """Highest mean reward on the held-out questions so far, as scaled for PPO."""
    best_step: int = 0
    scale: dict[str, float] | None = None
    """Of the rewards, fixed by the policy before PPO."""


def save(
    work: Path, progress: Progress, state: optimizers.State, base: str, lora: LoraShape | None, tokenizer: Any
) -> None:
    """Write a checkpoint, whole or not at all, and forget those before the last two.

    Raises:
        CheckpointError: the disk is full, or cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = work / "checkpoints" / f"checkpoint-{progress.step}"
    staging = target.with_name(f".{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        for name, tensors in state.items():
            save_file(tensors, staging / f"{name}.safetensors")
        save_policy(staging / POLICY, networks.policy_weights(state["weights"]), base, lora, tokenizer)
        files = [path for path in sorted(staging.rglob("*")) if path.is_file()]
        digests = {str(path.relative_to(staging)): storage.digest(path)["sha256"] for path in files}
        (staging / COMPLETE).write_text(json.dumps(asdict(progress) | {"digests": digests}))
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        free = shutil.disk_usage(work).free / 2**20
        raise CheckpointError(
            f"cannot write the checkpoint of step {progress.step} to {target.parent} ({free:.0f} MiB free): {error}; "
            "the one before is as it was"
        ) from error
    for old in steps(work)[:-KEPT]:
        shutil.rmtree(work / "checkpoints" / f"checkpoint-{old}")


def save_policy(directory: Path, weights: dict[str, Any], base: str, lora: LoraShape | None, tokenizer: Any) -> None:
    """Write a policy as transformers, PEFT and vLLM load it.

    Args:
        directory: must not exist.
        weights: the trained ones, by the policy's own names.
        base: directory or hub id of the base model.
        lora: None where all weights are trained.
        tokenizer: goes with it.
    """
    directory.mkdir(parents=True)
    if lora is None:
        from safetensors.torch import save_file
        from transformers import AutoConfig, GenerationConfig

        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        config = AutoConfig.from_pretrained(base)
        config.dtype = "float32"
        config.save_pretrained(directory)
        if (Path(base) / "generation_config.json").is_file():
            GenerationConfig.from_pretrained(base).save_pretrained(directory)
    else:
        write_adapter(directory, weights, base, lora)
    tokenizer.save_pretrained(directory)


def write_adapter(directory: Path, weights: dict[str, Any], base: str, lora: LoraShape) -> None:
    """An adapter in PEFT's form, from a policy's trained weights by its own names."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    # PEFT leaves the adapter's name out of its files.
    stored = {name.replace(".default.weight", ".weight"): tensor.contiguous() for name, tensor in weights.items()}
    save_file(stored, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = lora.config("CAUSAL_LM")
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(directory)


def steps(work: Path) -> list[int]:
    """The steps after which whole checkpoints were written, in order."""
    found = (work / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")
    return sorted(int(path.parent.name.rpartition("-")[2]) for path in found)


def load(work: Path) -> tuple[Progress, optimizers.State | None]:
    """The newest one; the beginning where there is none.

    Raises:
        CheckpointError: a file is not what was written.
    """
    from safetensors.torch import load_file

    found = steps(work)
    if not found:
        return Progress(), None
    directory = work / "checkpoints" / f"checkpoint-{found[-1]}"
    content = json.loads((directory / COMPLETE).read_text())
    for name, wanted in content.pop("digests").items():
        if not (directory / name).is_file() or storage.digest(directory / name)["sha256"] != wanted:
            raise CheckpointError(
                f"{directory / name} is not what was written: remove {directory} to go on from the checkpoint before "
                "it, or start over with --overwrite"
            )
    state = {name: load_file(directory / f"{name}.safetensors") for name in ("weights", *optimizers.MOMENTS)}
    return Progress(**content), state


def replace(directory: Path, staging: Path) -> None:
    """Put a directory that is whole in another's place."""
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(staging, directory)
    shutil.rmtree(old, ignore_errors=True)
