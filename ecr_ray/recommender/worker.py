"""What one Ray Train worker does with a recommender: take its turns of every step, learn, look at the held-out ones.

Dropout is seeded by step and slot, and the loss is divided by the whole step's weights: the same run on any number of
workers is the same run.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import optimizers, storage, training
from ecr_ray.cluster import metrics
from ecr_ray.encoders import batches
from ecr_ray.encoders.worker import learning_rate, read_checkpoint, write_checkpoint
from ecr_ray.recommender import model
from ecr_ray.recommender.features import Features, Texts

CURVE, BEST, DONE, GIVEN = "curve.jsonl", "best.safetensors", "done.json", "given.npz"
# Turns at once when nothing is learnt.
EVAL_TURNS = 256


@dataclass(frozen=True)
class Settings:
    """How it is trained; fields as in RecommenderConfig, which says what they mean."""

    seed: int
    epochs: float
    batch: int
    micro_batch: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    gradient_clip: float
    zero_stage: int
    log_every: int
    eval_every: int
    save_every: int
    patience: int

    @classmethod
    def of(cls, stage: Any) -> "Settings":
        """From the stage's settings."""
        return cls(**{f.name: getattr(stage, f.name) for f in fields(cls)})


@dataclass(frozen=True)
class Data:
    """One split's turns that name a film, with what they name and how much it counts."""

    features: Features
    together_MI: np.ndarray
    target_MT: np.ndarray
    """Items by number, -1 where there is none."""
    weight_MT: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


def write_data(directory: Path, data: Data) -> None:
    """Leave a split for the workers."""
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "together.npy", data.together_MI)
    np.save(directory / "target.npy", data.target_MT)
    np.save(directory / "weight.npy", data.weight_MT)
    data.features.save(directory / "features.npz")


def read_data(directory: Path) -> Data:
    """What `write_data` left; the large array stays on the disk until it is looked at."""
    return Data(
        Features.load(directory / "features.npz"),
        np.load(directory / "together.npy", mmap_mode="r"),
        np.load(directory / "target.npy"),
        np.load(directory / "weight.npy"),
    )


def train(job: Mapping[str, Any]) -> None:
    """The training function.

    Args:
        job: `settings`, `shape`, `data` (a directory that all nodes share), `work` (another one, of this network
            alone), `steps`, `device`, `threads`.
    """
    training.prepare_worker(job["device"], job["threads"])
    import ray.train

    context = ray.train.get_context()
    Loop(job, context.get_world_rank(), context.get_world_size()).run()


def as_one(data: Data) -> Data:
    """The same with every film counting once, whatever was said of it."""
    return replace(data, weight_MT=(data.target_MT >= 0).astype(np.float32))


class Loop:
    """One worker's run; the ranks do everything together but writing, which the first one does."""

    def __init__(self, job: Mapping[str, Any], rank: int, workers: int) -> None:
        import torch

        self.settings, self.shape = Settings(**job["settings"]), model.Shape(**job["shape"])
        self.work, self.rank, self.workers = Path(job["work"]), rank, workers
        self.device = "cuda" if job["device"] == "gpu" else "cpu"
        data = Path(job["data"])
        self.train, self.valid, self.texts = read_data(data / "train"), _valid(data / "valid"), Texts.load(data)
        if "weights" in self.shape.without:
            self.train = as_one(self.train)
        settings = self.settings
        every = np.ones(len(self.train))
        self.steps = batches.plan(every, settings.batch, settings.epochs, settings.seed)[: job["steps"]]
        torch.manual_seed(self.settings.seed)
        self.progress, state = read_checkpoint(self.work)
        self.cut = training.batching(settings.batch, settings.micro_batch, workers)
        self.stepper = optimizers.make(
            model.build(self.shape, model.Given.load(data / GIVEN)),
            optimizers.Settings(
                workers, self.cut, settings.weight_decay, settings.gradient_clip, job["device"], settings.zero_stage,
                betas=(0.9, 0.999), epsilon=1e-8,
            ),
            self._example,
            state,
            self.progress.step,
        )  # fmt: skip
        self.stopped, self._told, self._losses, self._began = False, False, [], time.time()
        self._meter = metrics.Training("recommender")

    def _example(self, device: Any) -> tuple[Any, ...]:
        return tuple(part.to(device) for part in self._batch(self.train, np.array([0])))

    def run(self) -> None:
        """From the last checkpoint to the end."""
        for step in range(self.progress.step + 1, len(self.steps) + 1):
            self._step(step)
            if self.stopped:
                break
        if self.rank == 0:
            storage.write_json(self.work / DONE, asdict(self.progress) | {"stopped_early": self.stopped})

    def _step(self, step: int) -> None:
        import torch

        rows = self.steps[step - 1]
        total = float(self.train.weight_MT[rows].sum())
        slots = rows.reshape(-1, self.settings.micro_batch)
        self.stepper.model.train()
        rate = learning_rate(step, len(self.steps), self.settings)
        self.stepper.begin(rate)
        loss = 0.0
        for slot in range(self.rank, len(slots), self.workers):
            # The same dropout for the same turns, whoever computes them.
            torch.manual_seed(hash((self.settings.seed, step, slot)))
            part = self._loss(self.train, np.sort(slots[slot]), total)
            self.stepper.backward(part)
            loss += float(part.detach())
        norm = self.stepper.end()
        self._losses.append(training.summed(np.array([loss]), self.device)[0])
        self.progress.step = step
        if self.rank == 0:
            self._meter.stepped(len(rows))
        self._after(step, rate, norm)

    def _batch(self, data: Data, rows: np.ndarray) -> tuple[Any, ...]:
        parts = model.batch_of(data.features.of(rows), self.texts, data.together_MI[rows])
        return tuple(part.to(self.device) for part in parts)

    def _loss(self, data: Data, rows: np.ndarray, total: float) -> Any:
        """These turns' part of the weighted cross-entropy of everything that a step's turns name."""
        import torch

        logs = torch.log_softmax(self.stepper.model(*self._batch(data, rows)), dim=-1)
        target = torch.from_numpy(data.target_MT[rows].astype(np.int64)).to(self.device)
        weight = torch.from_numpy(data.weight_MT[rows]).to(self.device)
        return -(logs.gather(1, target.clamp_min(0)) * weight).sum() / total

    def _after(self, step: int, rate: float, norm: float) -> None:
        import ray.train

        settings, last = self.settings, step == len(self.steps)
        due = False
        if not self._told:
            # A barrier: every rank asks after every step, and all hear the same.
            self._told = due = ray.train.get_preemption_info() is not None
        entry: dict[str, Any] = {}
        if step % settings.log_every == 0 or last:
            entry |= {"loss": float(np.mean(self._losses)), "learning_rate": rate, "gradient_norm": norm}
            self._losses = []
        if self.valid is not None and (step % settings.eval_every == 0 or last):
            entry |= self._look()
            self.stopped = bool(settings.patience) and self.progress.since_best >= settings.patience
        if due or last or self.stopped or step % settings.save_every == 0:
            state = self.stepper.state()
            if self.rank == 0:
                write_checkpoint(self.work, self.progress, state)
                self._meter.saved()
        if entry and self.rank == 0:
            line = {"step": step, "at": time.time(), "seconds": time.time() - self._began, **entry}
            with (self.work / CURVE).open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._meter.looked(
                train=entry.get("loss"), valid=entry.get("valid_loss"),
                learning_rate=entry.get("learning_rate"), gradient_norm=entry.get("gradient_norm"),
            )  # fmt: skip
        if "valid_loss" in entry or last:
            ray.train.report({"step": step, **entry})

    def _look(self) -> dict[str, float]:
        """The loss on held-out turns, every film counting once; the best weights so far are put aside."""
        import torch
        from safetensors.torch import save_file

        assert self.valid is not None
        self.stepper.model.eval()
        found = 0.0
        with torch.inference_mode():
            for begin in range(self.rank * EVAL_TURNS, len(self.valid), self.workers * EVAL_TURNS):
                rows = np.arange(begin, min(begin + EVAL_TURNS, len(self.valid)))
                found += float(self._loss(self.valid, rows, float(self.valid.weight_MT.sum())))
        loss = float(training.summed(np.array([found]), self.device)[0])
        progress = self.progress
        if progress.best is not None and loss >= progress.best:
            progress.since_best += 1
            return {"valid_loss": loss}
        progress.best, progress.best_step, progress.since_best = loss, progress.step, 0
        weights = self.stepper.weights()
        if self.rank == 0:
            save_file(weights, self.work / f".{BEST}")
            (self.work / f".{BEST}").rename(self.work / BEST)
        return {"valid_loss": loss}


def _valid(directory: Path) -> Data | None:
    return read_data(directory) if directory.is_dir() else None
