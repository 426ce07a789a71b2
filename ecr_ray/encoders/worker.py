"""What one Ray Train worker does with an encoder: take its rows as Ray Data streams them, step, measure, save.

Dropout is seeded by step and slot, and every part of a loss is divided by the whole step's weights: the same run on
any number of workers is the same run.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ecr_ray import optimizers, storage, training
from ecr_ray.cluster import metrics
from ecr_ray.encoders import batches, losses, model
from ecr_ray.scoring.agreement import spearman

# Written last into a checkpoint: one without it was being written when its worker died.
COMPLETE = "complete.json"
CURVE = "curve.jsonl"
BEST = "best"
KEPT = 2


class Schedule(Protocol):
    """What the learning rate of a step depends on."""

    learning_rate: float
    warmup_share: float


@dataclass(frozen=True)
class Settings:
    """How an encoder with heads is trained; fields as in the stages' settings, which say what they mean."""

    seed: int
    batch: int
    micro_batch: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    gradient_clip: float
    train_layers: int | None
    train_embeddings: bool
    loss: losses.Kind
    pairwise_weight: float
    pairwise_margin: float
    zero_stage: int
    bf16: bool
    log_every: int
    eval_every: int
    eval_tokens: int
    patience: int
    save_every: int

    @classmethod
    def of(cls, stage: Any, **others: Any) -> "Settings":
        """From a stage's settings, and values for what these do not have."""
        return cls(**{f.name: getattr(stage, f.name) for f in fields(cls) if f.name not in others}, **others)


@dataclass
class Progress:
    """Where a run is; part of every checkpoint."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    """Looks at the held-out rows since the best one."""


def train(job: Mapping[str, Any]) -> None:
    """The training function.

    Args:
        job: `stage` (its name in metrics), `settings`, `shape`, `work` (a directory that all nodes share), `steps`,
            `filler`, `head_weights`, `device`, `threads`.
    """
    settings, shape = Settings(**job["settings"]), model.Shape(**job["shape"])
    training.prepare_worker(job["device"], job["threads"])
    import ray.train
    import torch

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    work = Path(job["work"])
    torch.manual_seed(settings.seed)
    encoder = model.build(shape)
    model.freeze(encoder, settings.train_layers, embeddings=settings.train_embeddings)
    progress, state = read_checkpoint(work)
    cut = training.batching(settings.batch, settings.micro_batch, workers)
    stepper = optimizers.make(
        encoder,
        optimizers.Settings(
            workers, cut, settings.weight_decay, settings.gradient_clip, job["device"], settings.zero_stage
        ),
        model.example,
        state,
        progress.step,
    )
    loop = Loop(settings, shape, stepper, work, rank, workers, progress, job)
    shard = ray.train.get_dataset_shard(f"rank-{rank}")
    for step, micros in steps_of(shard, settings.micro_batch, cut.accumulate, progress.step):
        loop.step(step, micros)
        if loop.stopped:
            break
    loop.finish()


def steps_of(shard: Any, micro: int, accumulate: int, done: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A worker's micro-batches, gathered by step, from the first one that is not done yet."""
    gathered: list[dict[str, Any]] = []
    for batch in shard.iter_batches(batch_size=micro, batch_format="pyarrow", prefetch_batches=2):
        step = batch["step"][0].as_py()
        if step <= done:
            continue
        gathered.append(batch.to_pydict())
        if len(gathered) == accumulate:
            yield step, gathered
            gathered = []


class Loop:
    """One worker's run; the ranks do everything together but writing, which the first one does."""

    def __init__(
        self,
        settings: Settings,
        shape: model.Shape,
        stepper: optimizers.Stepper,
        work: Path,
        rank: int,
        workers: int,
        progress: Progress,
        job: Mapping[str, Any],
    ) -> None:
        self.settings, self.shape, self.stepper, self.work = settings, shape, stepper, work
        self.rank, self.workers, self.progress = rank, workers, progress
        self.total, self.filler, self.head_weights = job["steps"], job["filler"], job["head_weights"]
        self.device = "cuda" if job["device"] == "gpu" else "cpu"
        self.stopped = self._told = False
        self._began, self._losses = time.time(), []
        self._meter = metrics.Training(job["stage"])
        self._valid = _rows(work / "valid.parquet")

    def step(self, step: int, micros: list[dict[str, Any]]) -> None:
        """One optimizer step, and whatever is due after it."""
        import torch

        self.stepper.model.train()
        rate = learning_rate(step, self.total, self.settings)
        self.stepper.begin(rate)
        loss = 0.0
        for micro in micros:
            # The same dropout for the same rows, whoever computes them.
            torch.manual_seed(hash((self.settings.seed, step, micro["slot"][0])))
            part = self._loss(micro)
            self.stepper.backward(part)
            loss += float(part.detach())
        norm = self.stepper.end()
        self._losses.append(training.summed(np.array([loss]), self.device)[0])
        self.progress.step = step
        if self.rank == 0:
            self._meter.stepped(self.settings.batch)
        self._after(step, rate, norm)

    def _loss(self, micro: Mapping[str, Any]) -> Any:
        import torch

        targets, weights, totals = (
            torch.tensor(micro[name], dtype=torch.float32, device=self.device)
            for name in ("targets", "weights", "totals")
        )
        raw = self._forward(micro["ids"])
        mean, log_variance = losses.squash(raw)
        settings = self.settings
        heads = torch.tensor(self.head_weights, device=self.device)
        loss = losses.weighted(losses.regression(mean, log_variance, targets, settings.loss), weights, totals[0], heads)
        if settings.pairwise_weight:
            count = targets.shape[1]
            pairs = [
                losses.pairwise(raw[:, k].float(), targets[:, k], weights[:, k], settings.pairwise_margin)
                for k in range(count)
            ]
            share = settings.micro_batch / settings.batch
            loss = loss + settings.pairwise_weight * share * torch.stack(pairs).mean()
        return loss

    def _forward(self, ids: list[list[int]]) -> Any:
        import torch

        padded, mask = (torch.from_numpy(a).to(self.device) for a in batches.pad(ids, self.filler))
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.settings.bf16):
            return self.stepper.model(padded, mask)

    def _after(self, step: int, rate: float, norm: float) -> None:
        import ray.train

        settings, last = self.settings, step == self.total
        due = False
        if not self._told:
            # A barrier: every rank asks after every step, and all hear the same.
            self._told = due = ray.train.get_preemption_info() is not None
        entry: dict[str, Any] = {}
        if step % settings.log_every == 0 or last:
            entry |= {"loss": float(np.mean(self._losses)), "learning_rate": rate, "gradient_norm": norm}
            self._losses = []
        if self._valid and (step % settings.eval_every == 0 or last):
            entry |= self._look()
            self.stopped = bool(settings.patience) and self.progress.since_best >= settings.patience
        if due or last or self.stopped or step % settings.save_every == 0:
            self.save()
        if entry:
            self._report(step, entry)

    def _look(self) -> dict[str, float]:
        """How far the held-out rows are missed; the best weights so far are put aside."""
        found = self._measure()
        progress = self.progress
        if progress.best is not None and found["valid_error"] >= progress.best:
            progress.since_best += 1
            return found
        progress.best, progress.best_step, progress.since_best = found["valid_error"], progress.step, 0
        state = self.stepper.state()
        if self.rank == 0:
            staging = self.work / f".{BEST}"
            shutil.rmtree(staging, ignore_errors=True)
            model.save(staging, self.shape, state["weights"], "float32")
            shutil.rmtree(self.work / BEST, ignore_errors=True)
            staging.rename(self.work / BEST)
        return found

    def _measure(self) -> dict[str, float]:
        """`valid_error`: the share of the targets' variance that is not explained, a mean over the heads; 1.0 is what
        predicting the mean gives. `valid_spearman`: of the last head, overall; not of labels.
        """
        import torch

        rows = self._valid
        assert rows is not None
        self.stepper.model.eval()
        cut = batches.by_length([len(ids) for ids in rows["ids"]], self.settings.eval_tokens)
        predicted = np.zeros(rows["targets"].shape)
        with torch.inference_mode():
            # All ranks go through as many batches: ZeRO-3 gathers weights in every one.
            for number in range(-(-len(cut) // self.workers)):
                at = number * self.workers + self.rank
                picked = cut[at] if at < len(cut) else cut[-1][:1]
                mean, _ = losses.squash(self._forward([rows["ids"][n] for n in picked]))
                if at < len(cut):
                    predicted[picked] = mean.double().cpu().numpy()
        predicted = training.summed(predicted, self.device)
        found = {"valid_error": unexplained(predicted, rows["targets"], rows["weights"], np.array(self.head_weights))}
        known = rows["weights"][:, -1] > 0
        if known.sum() > 1 and self.settings.loss != "bce":
            both = np.column_stack([predicted[known, -1], rows["targets"][known, -1]])
            found["valid_spearman"] = spearman(both)
        return found

    def save(self) -> None:
        """Write a checkpoint, and forget those before the last two."""
        state = self.stepper.state()
        if self.rank == 0:
            write_checkpoint(self.work, self.progress, state)
            self._meter.saved()

    def _report(self, step: int, entry: dict[str, Any]) -> None:
        import ray.train

        if self.rank == 0:
            line = {"step": step, "at": time.time(), "seconds": time.time() - self._began, **entry}
            with (self.work / CURVE).open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._meter.looked(
                train=entry.get("loss"), valid=entry.get("valid_error"),
                learning_rate=entry.get("learning_rate"), gradient_norm=entry.get("gradient_norm"),
            )  # fmt: skip
        if "valid_error" in entry or step == self.total:
            # A barrier; whoever listens (a search) wants the held-out figures.
            rows = {"step": step, "rows": step * self.settings.batch, "best_error": self.progress.best}
            ray.train.report(rows | entry)

    def finish(self) -> None:
        """Say that the run is over."""
        if self.rank == 0:
            done = asdict(self.progress) | {"stopped_early": self.stopped}
            storage.write_json(self.work / "done.json", done)


def unexplained(predicted_NK: np.ndarray, target_NK: np.ndarray, weight_NK: np.ndarray, head_K: np.ndarray) -> float:
    """1 − R², weighted over rows and then over heads; heads whose known targets are all the same do not count."""
    total = weight_NK.sum(0)
    safe = np.where(total > 0, total, 1)
    mean = (weight_NK * target_NK).sum(0) / safe
    error = (weight_NK * (target_NK - predicted_NK) ** 2).sum(0) / safe
    variance = (weight_NK * (target_NK - mean) ** 2).sum(0) / safe
    counted = head_K * (variance > 1e-9)
    if not counted.sum():
        return float(error.mean())
    return float((counted * error / np.where(variance > 1e-9, variance, 1)).sum() / counted.sum())


def learning_rate(step: int, steps: int, settings: Schedule) -> float:
    """Linear warm-up, then linear down, to zero after the last step; `step` counts from 1."""
    warm = max(1, round(settings.warmup_share * steps))
    if step <= warm:
        return settings.learning_rate * step / warm
    return settings.learning_rate * max(0.0, (steps + 1 - step) / (steps + 1 - warm))


def write_checkpoint(work: Path, progress: Progress, state: optimizers.State) -> None:
    """`checkpoints/checkpoint-STEP`, whole or not at all."""
    from safetensors.torch import save_file

    target = work / "checkpoints" / f"checkpoint-{progress.step}"
    staging = target.with_name(f".{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name, tensors in state.items():
        save_file(tensors, staging / f"{name}.safetensors")
    (staging / COMPLETE).write_text(json.dumps(asdict(progress)))
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    for old in sorted(checkpoints(work))[:-KEPT]:
        shutil.rmtree(work / "checkpoints" / f"checkpoint-{old}")


def checkpoints(work: Path) -> list[int]:
    """The steps after which whole checkpoints were written."""
    found = (work / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")
    return sorted(int(path.parent.name.rpartition("-")[2]) for path in found)


def read_checkpoint(work: Path) -> tuple[Progress, optimizers.State | None]:
    """The newest one; the beginning where there is none."""
    from safetensors.torch import load_file

    found = checkpoints(work)
    if not found:
        return Progress(), None
    directory = work / "checkpoints" / f"checkpoint-{found[-1]}"
    state = {name: load_file(directory / f"{name}.safetensors") for name in ("weights", *optimizers.MOMENTS)}
    return Progress(**json.loads((directory / COMPLETE).read_text())), state


def _rows(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    table = storage.read_parquet(path)
    return {
        "ids": table["ids"].to_pylist(),
        "targets": np.array(table["targets"].to_pylist(), dtype=np.float32),
        "weights": np.array(table["weights"].to_pylist(), dtype=np.float32),
    }
