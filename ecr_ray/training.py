"""What every training stage shares: Ray Train's settings, DeepSpeed's, and what they need of a worker's environment."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecr_ray.config import ConfigError

if TYPE_CHECKING:
    from ray.train import RunConfig, ScalingConfig

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Batching:
    """How a global batch is cut: `micro` rows a worker at once, `accumulate` times before each step."""

    micro: int
    accumulate: int


def batching(batch: int, micro: int, workers: int) -> Batching:
    """The same global batch on any number of workers.

    Raises:
        ConfigError: it cannot be cut into equal parts.
    """
    if batch % (micro * workers):
        raise ConfigError(
            f"--batch {batch} cannot be shared by {workers} worker(s) of --micro-batch {micro}: make it a multiple "
            f"of {micro * workers}"
        )
    return Batching(micro, batch // (micro * workers))


def choose_device(asked: Literal["auto", "cpu", "gpu"], gpus: float) -> Device:
    """Where to train; `gpus` is what the cluster has.

    Raises:
        ConfigError: GPUs are asked for and there is none.
    """
    if asked == "gpu" and not gpus:
        raise ConfigError("--device gpu, but the Ray cluster has no GPU: use --device cpu or another cluster")
    return ("gpu" if gpus else "cpu") if asked == "auto" else asked


def check_compiler(device: Device, zero_stage: int) -> None:
    """On a CPU DeepSpeed compiles a small operation of its own at its first start.

    Raises:
        ConfigError: there is nothing here to compile it with.
    """
    if device == "cpu" and zero_stage and not (shutil.which("c++") or shutil.which("g++")):
        raise ConfigError(
            "DeepSpeed needs a C++ compiler on machines without GPU, and there is none: install g++, or train without "
            "DeepSpeed by --zero-stage 0"
        )


def scaling(workers: int, device: Device, cpus: float) -> "ScalingConfig":
    """Ray Train's workers, `cpus` each and one GPU where the device is one."""
    from ray.train import ScalingConfig

    resources = {"CPU": cpus} | ({"GPU": 1} if device == "gpu" else {})
    return ScalingConfig(num_workers=workers, use_gpu=device == "gpu", resources_per_worker=resources)


def run_config(storage: Path, name: str, max_failures: int) -> "RunConfig":
    """A run that survives so many deaths of workers, and ends when there are more."""
    from ray.train import FailureConfig, RunConfig

    return RunConfig(
        name=name,
        storage_path=str(storage),
        failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures),
    )


def deepspeed_config(stage: int, *, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's settings for ZeRO `stage` 1 to 3; the trainer fills in what says `auto`.

    The optimizer is the trainer's: DeepSpeed's own CPU Adam would be compiled on every node.
    """
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            # The whole weights are saved, not only each worker's part of them.
            "stage3_gather_16bit_weights_on_model_save": stage == 3,
        },
        "steps_per_print": 10**9,
    }


def prepare_worker(device: Device, threads: int) -> None:
    """Set what DeepSpeed and torch look for, before they are imported for the first time."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        # DeepSpeed compiles its shared-memory operation once, with the ninja that stands beside this Python.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        import torch

        torch.set_num_threads(threads)
