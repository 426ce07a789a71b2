"""Rows that encoders are trained on, and the Ray Train run that streams them to workers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecr_ray import storage, training
from ecr_ray.encoders import batches, model, worker


class Stage(Protocol):
    """What a stage's settings say of the run as a whole."""

    epochs: float
    max_steps: int | None
    workers: int
    cpus_per_worker: float
    threads_per_worker: int | None
    device: training.Device | str
    max_failures: int


def write_rows(
    path: Path,
    ids: Sequence[Sequence[int]],
    values_NK: np.ndarray,
    weights_NK: np.ndarray,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the rows of a split: token ids, targets in 0-1 and their weights, beside further columns.

    A target that is not known has no weight, and no value that could spoil a sum.
    """
    columns = {
        "ids": pa.array(list(ids), pa.list_(pa.int32())),
        "targets": pa.array(list(np.nan_to_num(values_NK)), pa.list_(pa.float32())),
        "weights": pa.array(list(weights_NK.astype(np.float32)), pa.list_(pa.float32())),
    }
    storage.write_parquet(path, pa.table(dict(texts or {}) | columns))


def make_trainer(
    run: Stage,
    settings: worker.Settings,
    shape: model.Shape,
    head_weights: Sequence[float],
    work: Path,
    *,
    stage: str,
    filler: int,
    callbacks: list[Any] | None = None,
) -> tuple[Any, int]:
    """Ray Train's trainer over `train.parquet` (and `valid.parquet`, if there is one), and how many steps it will take.

    Args:
        run: how long, and on what.
        settings: of every step.
        shape: of what is trained.
        head_weights: how much each head counts in the loss.
        work: the directory that all nodes share.
        stage: its name in metrics.
        filler: the token that pads.
        callbacks: for its RunConfig; a search listens with one.
    """
    import ray
    from ray.data import DataContext, ExecutionOptions
    from ray.train import DataConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    device = training.choose_device(run.device, ray.cluster_resources().get("GPU", 0))
    rows = storage.read_parquet(work / "train.parquet", ["ids", "targets", "weights"])
    lengths = pc.list_value_length(rows["ids"]).to_numpy()
    steps = batches.plan(lengths, settings.batch, run.epochs, settings.seed)[: run.max_steps]
    shards = batches.write_shards(rows, steps, settings.micro_batch, run.workers, work / "shards")
    DataContext.get_current().enable_progress_bars = False
    trainer = TorchTrainer(
        worker.train,
        train_loop_config={
            "stage": stage,
            "settings": asdict(settings),
            "shape": asdict(shape),
            "work": str(work),
            "steps": len(steps),
            "filler": filler,
            "head_weights": list(head_weights),
            "device": device,
            "threads": run.threads_per_worker or max(1, (os.cpu_count() or 1) // run.workers),
        },
        datasets={f"rank-{n}": ray.data.read_parquet(str(path)) for n, path in enumerate(shards)},
        # Every worker has a dataset of its own, in the order of its steps.
        dataset_config=DataConfig(datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)),
        scaling_config=training.scaling(run.workers, device, run.cpus_per_worker),
        torch_config=TorchConfig(backend="gloo" if device == "cpu" else "nccl"),
        run_config=training.run_config(work / "ray", stage, run.max_failures, callbacks),
    )
    return trainer, len(steps)


def run(trainer: Any, name: str, steps: int, work: Path, shown: Mapping[str, str], max_failures: int) -> None:
    """Train to the end, from the last checkpoint in the work directory, with a progress bar.

    Args:
        shown: key of a line of the curve → its name beside the bar.

    Raises:
        TrainingError: workers died more often than allowed.
    """
    done = max(worker.checkpoints(work), default=0)
    with training.Progress(name, work / worker.CURVE, steps, done, shown):
        training.fit(
            trainer,
            latest=lambda: max(worker.checkpoints(work), default=None),
            max_failures=max_failures,
            work=work,
        )
