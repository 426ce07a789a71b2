"""One worker of a PPO run: the loop on what the driver has prepared, with its curve, samples and checkpoints.

`train` is Ray Train's training function; `plain` runs the same in this process, where there is only torch.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import records, storage, training
from ecr_ray.config import PpoConfig
from ecr_ray.data import titles
from ecr_ray.errors import UserError
from ecr_ray.policy import engines, rollouts
from ecr_ray.policy.engines import EngineSettings
from ecr_ray.policy.ppo import checkpoints, group, networks, rewards
from ecr_ray.policy.ppo.group import Group
from ecr_ray.policy.ppo.learner import Learner
from ecr_ray.policy.ppo.loop import Asked, Hooks, Loop
from ecr_ray.policy.ppo.meter import Meter
from ecr_ray.policy.ppo.networks import LoraShape
from ecr_ray.policy.ppo.questions import Question
from ecr_ray.policy.ppo.rewards import MISSING_FILM, NO_END, REPETITION, UNKNOWN_TITLE, Rewarded, Rewarder
from ecr_ray.policy.rollouts import Rollouts

CURVE, SAMPLES, BEST, DONE, FAILED = "curve.jsonl", "samples", "best", "done.json", "failed.json"
# Where a run in one process ran, which may not be where its artifact is made.
MACHINE = "machine.json"
SAMPLE = pa.schema(
    [
        ("step", pa.int32()),
        ("turn_id", pa.string()),
        ("dialogue_id", pa.string()),
        ("response", pa.string()),
        ("opinion", pa.float64()),
        ("reward", pa.float64()),
        ("kl", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Job:
    """What the driver tells every worker."""

    settings: PpoConfig
    work: Path
    """A directory that all nodes share: learn.parquet, held_out.parquet, and what the run has so far."""
    base: str
    """Directory or hub id of the base model."""
    tokenizer: Any
    device: training.Device
    threads: int

    @property
    def lora(self) -> LoraShape | None:
        """The adapter's shape; None where all weights learn."""
        s = self.settings
        return LoraShape(s.lora_r, s.lora_alpha, tuple(s.lora_targets)) if s.method == "lora" else None

    def engine(self) -> EngineSettings:
        """What a rollout engine needs to start."""
        s = self.settings
        return EngineSettings(
            s.engine,
            self.base,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
            self.device,
            "bfloat16" if s.bf16 else "float32",
            self.lora,
            s.max_prompt + s.max_new_tokens,
            threads=self.threads,
            vllm=dict(s.vllm),
        )


def train(config: Mapping[str, Any]) -> None:
    """Ray Train's training function.

    Args:
        config: `job`, and for the first worker `rollouts` and `opinion` (a pool of each, on the driver's actors).
    """
    job: Job = config["job"]
    if (job.work / FAILED).is_file():
        # Started again after what would end in the same way: it is the driver's to say.
        return
    training.prepare_worker(job.device, job.threads)
    import ray.train

    context = ray.train.get_context()
    workers = context.get_world_size()
    together: Group = group.Distributed() if workers > 1 else group.Alone()
    first = together.rank == 0
    told = []

    def hurry() -> bool:
        # A barrier: every rank asks after every step, and all hear the same; once is enough.
        if not told and ray.train.get_preemption_info() is not None:
            told.append(True)
            return True
        return False

    try:
        run(
            job,
            together,
            config["rollouts"] if first else None,
            make_rewarder(job.settings, config["opinion"]) if first else None,
            hurry=hurry,
            report=ray.train.report,
        )
    except UserError as error:
        storage.write_json(job.work / FAILED, {"error": str(error), "kind": type(error).__name__})
        if workers > 1:
            # The others wait for this one; only an error ends them all.
            raise


def plain(job: Job) -> None:
    """The whole run in this process, without Ray."""
    training.prepare_worker(job.device, job.threads)
    machine = {"hardware": records.hardware(), "packages": records.package_versions(), "code": records.code_version()}
    storage.write_json(job.work / MACHINE, machine)
    run(job, group.Alone(), rollouts.Local(engines.make(job.engine())), make_rewarder(job.settings, _opinion(job)))


def _opinion(job: Job) -> rewards.Reward:
    from ecr_ray.encoders import predict

    if job.settings.reward != "critic":
        return rewards.load(job.settings.reward)
    local = predict.Local(job.settings.critic, device="cuda" if job.device == "gpu" else "cpu")
    return rewards.of_critic(local.predict, rewards.parse_aspects(job.settings.aspects), job.settings.doubt)


def make_rewarder(settings: PpoConfig, opinion: rewards.Reward) -> Rewarder:
    """What an answer is worth under these settings."""
    costs = {
        NO_END: settings.no_end_cost,
        UNKNOWN_TITLE: settings.unknown_title_cost,
        REPETITION: settings.repetition_cost,
        MISSING_FILM: settings.missing_film_cost,
    }
    catalogue = None if settings.titles == "none" else titles.load(settings.titles)
    return Rewarder(opinion, catalogue, costs)


def run(
    job: Job,
    together: Group,
    engines_: Rollouts | None,
    rewarder: Rewarder | None,
    *,
    hurry: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> None:
    """One worker's run, from its last checkpoint.

    Args:
        job: what to do.
        together: with whom.
        engines_: the first worker's.
        rewarder: the first worker's.
        hurry: whether the node is about to go.
        report: hears of every look at the held-out questions, on all workers.
    """
    settings, work = job.settings, job.work
    progress, state = checkpoints.load(work)
    resume = (state, progress.optimizer_steps) if state is not None else None
    learner = Learner(settings, job.base, job.lora, job.tokenizer.pad_token_id, together, job.device, resume)
    writer = Writer(job, learner, progress, report)
    hooks = Hooks(writer.entry, writer.held_out, writer.save, writer.best, writer.rejected, hurry)
    asked = Asked(read_questions(work / "learn.parquet"), read_questions(work / "held_out.parquet"))
    loop = Loop(settings, learner, asked, progress, job.tokenizer, hooks, engines_, rewarder)
    loop.run()
    if learner.group.rank == 0 and progress.step == settings.steps:
        storage.write_json(work / DONE, asdict(progress))


class Writer:
    """What a run leaves on disk as it goes."""

    def __init__(
        self, job: Job, learner: Learner, progress: checkpoints.Progress, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self._job, self._learner, self._progress, self._report = job, learner, progress, report
        self._began = time.time()
        # Metrics are Ray's.
        on_ray = "ray" in sys.modules and sys.modules["ray"].is_initialized()
        self._meter = Meter(job.settings.batch) if on_ray else None

    def entry(self, entry: dict[str, Any]) -> None:
        """A line of the curve."""
        line = {"at": time.time(), "elapsed": time.time() - self._began, **entry}
        with (self._job.work / CURVE).open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._meter:
            self._meter.stepped(entry)

    def held_out(
        self, step: int, asked: list[Question], texts: list[str], rewarded: Rewarded, kl_B: np.ndarray
    ) -> None:
        """The answers to the held-out questions."""
        columns = [
            [step] * len(asked),
            [q.turn_id for q in asked],
            [q.dialogue_id for q in asked],
            texts,
            rewarded.raw_N,
            rewarded.total_N,
            kl_B.astype(np.float64),
        ]
        table = pa.table(columns, schema=SAMPLE)
        storage.write_parquet(self._job.work / SAMPLES / f"step-{step:06d}.parquet", table)

    def rejected(self, count: int) -> None:
        """Samples that were too old."""
        if self._meter:
            self._meter.rejected(count)

    def save(self) -> None:
        """A checkpoint."""
        state = self._learner.stepper.state()
        if self._learner.group.rank == 0:
            job = self._job
            checkpoints.save(job.work, self._progress, state, job.base, job.lora, job.tokenizer)
            if self._meter:
                self._meter.saved()

    def best(self) -> None:
        """The policy as it is, as the best so far."""
        weights = self._learner.stepper.weights()
        if self._learner.group.rank == 0:
            job, target = self._job, self._job.work / BEST
            staging = target.with_name(f".{BEST}.new")
            shutil.rmtree(staging, ignore_errors=True)
            policy = networks.policy_weights(weights)
            checkpoints.save_policy(staging, policy, job.base, job.lora, job.tokenizer)
            checkpoints.replace(target, staging)


def write_questions(path: Path, asked: list[Question]) -> None:
    """Leave questions for the workers."""
    schema = pa.schema(
        [
            ("turn_id", pa.string()),
            ("dialogue_id", pa.string()),
            ("context", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
            ("ids", pa.list_(pa.int32())),
            ("response", pa.string()),
            ("film", pa.string()),
        ]
    )
    storage.write_parquet(path, pa.Table.from_pylist([q.as_row() for q in asked], schema=schema))


def read_questions(path: Path) -> list[Question]:
    """What `write_questions` left."""
    return [Question(**row) for row in storage.read_parquet(path).to_pylist()]
