"""What every training stage shares: Ray Train's settings, DeepSpeed's, and what they need of a worker's environment."""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecr_ray import runs
from ecr_ray.cli import StoppedForLater
from ecr_ray.cluster import scheduling
from ecr_ray.config import ConfigError
from ecr_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

Device = Literal["cpu", "gpu"]
LOOK_S = 0.5


class TrainingError(UserError):
    """The training did not get to its end."""


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


def computes_bf16(device: Device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; where it does not, it is slower than float32."""
    if device == "gpu":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpus = Path("/proc/cpuinfo")
    flags = (
        next((line for line in cpus.read_text().splitlines() if line.startswith("flags")), "") if cpus.exists() else ""
    )
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))


def keep_bf16(module: "torch.nn.Module") -> None:
    """Round the matrices of a module that only predicts, once: autocast would round them anew on every call."""
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            part.to(torch.bfloat16)


def scaling(
    workers: int, device: Device, cpus: float, *, gpus: float = 1.0, role: str | None = None
) -> "ScalingConfig":
    """Ray Train's workers: `cpus` each, `gpus` where the device is one; on nodes with the label `role`, if named."""
    from ray.train import ScalingConfig

    resources = {"CPU": cpus} | ({"GPU": gpus} if device == "gpu" else {})
    return ScalingConfig(
        num_workers=workers,
        use_gpu=device == "gpu",
        resources_per_worker=resources,
        label_selector={"role": role} if role else None,
    )


def run_config(storage: Path, name: str, max_failures: int, callbacks: list[Any] | None = None) -> "RunConfig":
    """A run that survives so many deaths of workers, and ends when there are more."""
    from ray.train import FailureConfig, RunConfig

    # How often Ray's controller looks after its workers; by itself every two seconds, which a short run waits for at
    # its start, at its end and at every report.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    return RunConfig(
        name=name,
        storage_path=str(storage),
        callbacks=callbacks,
        failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures),
    )


def deepspeed_config(stage: int, *, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's settings for ZeRO `stage` 1 to 3; the trainer fills in what says `auto`.

    The optimizer is the trainer's: DeepSpeed's own CPU Adam would be compiled on every node, too.
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


def compile_nothing() -> None:
    """Before DeepSpeed starts: on a CPU it would compile a sum over workers that only inference in parts calls.

    That takes a minute at the first start on every machine, and a C++ compiler.
    """
    from deepspeed import ops
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False


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
        scheduling.compute()


def summed(values: "np.ndarray", device: str) -> "np.ndarray":
    """The sum of an array over all workers; every rank calls it."""
    import torch

    if torch.distributed.get_world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy()


def fit(trainer: "TorchTrainer", *, latest: Callable[[], Any], max_failures: int, work: Path) -> None:
    """Run the workers to their end.

    Args:
        latest: names the newest whole checkpoint, or is None; asked again when time is nearly up.
        max_failures: what the trainer allows, to say so.
        work: where the checkpoints are, to say so.

    Raises:
        TrainingError: workers died more often than allowed.
        StoppedForLater: after the workers had time to save.
    """
    before = latest()
    scheduling.give_way()
    try:
        in_thread(trainer.fit)
    except StoppedForLater:
        # The nodes have been told, too: the workers save after the step that they are in.
        runs.await_change(latest, before)
        raise
    except Exception as error:
        # Ray wraps what a worker raised; its last line says it.
        cause = str(error).strip().splitlines()
        raise TrainingError(
            f"training failed more than {max_failures} time(s): {cause[-1] if cause else error!r}; the "
            f"same command goes on from the last checkpoint in {work}"
        ) from error


def in_thread(call: Callable[[], Any]) -> Any:
    """Call it in a thread of its own and wait for it, so that a signal's exception reaches the waiting caller.

    Ray's own waiting lets only Ctrl-C through; an exception of another signal's handler it drops.
    """
    ended: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_S)
    result, error = ended[0]
    if error is not None:
        raise error
    return result


class Progress:
    """A bar on the driver that follows the curve (a JSON line a look) which the first worker writes.

    Args:
        name: what stands before the bar.
        curve: the file; its lines have `step` and some of the keys of `shown`.
        steps: of the whole run.
        done: how many an earlier start did.
        shown: key of a line → name beside the bar.
    """

    def __init__(self, name: str, curve: Path, steps: int, done: int, shown: Mapping[str, str]) -> None:
        from tqdm import tqdm

        # What is there already is of an earlier start.
        self._curve, self._read = curve, curve.stat().st_size if curve.exists() else 0
        self._names, self._shown = dict(shown), {}
        self._stop = threading.Event()
        slow = not sys.stderr.isatty()
        self._bar = tqdm(
            total=steps, initial=done, desc=name, unit="step", mininterval=10 if slow else 0.5, dynamic_ncols=True
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._bar.close()

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        if not self._curve.exists():
            return
        with self._curve.open("rb") as file:
            file.seek(self._read)
            # A line without its end is still being written.
            lines = [line for line in file if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        for entry in map(json.loads, lines):
            self._shown |= {name: f"{entry[key]:.3f}" for key, name in self._names.items() if key in entry}
            self._bar.n = entry["step"]
        if lines:
            self._bar.set_postfix(self._shown)
