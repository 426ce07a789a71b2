"""The PPO stage: questions from dialogues, engines and critic as actors, Ray Train workers that learn, one artifact.

Below the output directory `.work/` holds what a run has so far (see runs.py): the questions, the curve, the answers to
the held-out questions, checkpoints, the best policy.
"""

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecr_ray import runs, storage, training
from ecr_ray.config import ConfigError, PpoConfig
from ecr_ray.data import reading, retrieval, reviews, titles
from ecr_ray.data.reading import InputError
from ecr_ray.encoders import model, predict
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.policy import grounding, weights
from ecr_ray.policy.ppo import checkpoints, questions, report, rewards, worker
from ecr_ray.policy.rollouts import Pool
from ecr_ray.records import RunRecord

# What decides how fast the policy comes, not which.
_SPEED = {
    "workers", "cpus_per_worker", "gpus_per_worker", "threads_per_worker", "device", "zero_stage", "engines",
    "cpus_per_engine", "gpus_per_engine", "rollout_role", "train_role", "max_failures", "deadline_s", "save_every",
    "overwrite",
}  # fmt: skip
OF_TEST = "dialogues or turns of the split test"
_PLACE = {"profile", "config", "output"}


@dataclass(frozen=True)
class Result:
    """A finished run."""

    output: str
    run: dict[str, Any]


def check(settings: PpoConfig) -> Any:
    """Everything that can be known to be wrong before any actor starts; the policy's tokenizer.

    Raises:
        UserError: naming what is wrong and what to write instead.
    """
    training.batching(settings.minibatch, settings.micro_batch, settings.workers)
    if settings.batch % settings.minibatch:
        raise ConfigError(f"--batch {settings.batch} is not a multiple of --minibatch {settings.minibatch}")
    if settings.engine == "vllm" and settings.method == "full":
        raise ConfigError("--engine vllm takes adapters, not whole weights: use --method lora")
    if settings.temperature <= 0:
        raise ConfigError("--temperature must be above 0: without chance there is nothing to compare")
    base = weights.base_of(settings.base)
    tokenizer = weights.load_tokenizer(base, settings.pad_token)
    _check_room(settings, base)
    if settings.method == "lora":
        weights.check_lora(base, settings.lora_targets, settings.lora_r)
    aspects = rewards.parse_aspects(settings.aspects)
    if settings.reward == "critic":
        rewards.check_heads(model.read_shape(model.find(settings.critic)).heads, aspects)
    else:
        rewards.load(settings.reward)
    if settings.titles != "none":
        titles.load(settings.titles)
    return tokenizer


def _check_room(settings: PpoConfig, base: str) -> None:
    from transformers import AutoConfig

    room = AutoConfig.from_pretrained(tiny.resolve_model(base)).get_text_config().max_position_embeddings
    if settings.max_prompt + settings.max_new_tokens > room:
        raise ConfigError(
            f"--max-prompt {settings.max_prompt} and --max-new-tokens {settings.max_new_tokens} are more than the "
            f"{room} tokens that {base} reads"
        )


def finished(settings: PpoConfig) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = runs.finished(settings.output, "ppo", lambda: fingerprint(settings), overwrite=settings.overwrite)
    return Result(settings.output, run) if run is not None else None


def fingerprint(settings: PpoConfig) -> dict[str, Any]:
    """Everything that decides the policy."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _SPEED | _PLACE}
    return runs.as_json(chosen | {"files": _digests(settings)})


def _digests(settings: PpoConfig) -> list[dict[str, Any]]:
    locations = [settings.input] + ([settings.valid_input] if settings.valid_input else [])
    files = [file for location in locations for file in reading.find(location).files]
    if settings.grounded:
        files += [settings.knowledge] if Path(settings.knowledge).is_file() else []
        files += [] if settings.reviews == "none" else [reviews.find(settings.reviews)]
    if settings.reward == "critic":
        files.append(str(model.find(settings.critic) / model.WEIGHTS))
    return [storage.digest(file) for file in files]


def reinforce(settings: PpoConfig, tokenizer: Any) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: there is nothing to ask, the reward is broken, a delivery cannot be proven, or actors die too often.
    """
    began = time.perf_counter()
    work = runs.claim(settings.output, fingerprint(settings), overwrite=settings.overwrite)
    if not (work / "data.json").is_file():
        prepare(settings, tokenizer, work)
    prepared = time.perf_counter()
    if not (work / worker.DONE).is_file():
        train(settings, tokenizer, work)
    return finish(settings, work, {"prepare": prepared - began, "train": time.perf_counter() - prepared})


# --- questions --------------------------------------------------------------------------------------------


def prepare(settings: PpoConfig, tokenizer: Any, work: Path) -> None:
    """Leave the questions in the work directory, and the base model where an adapter has to be merged into one.

    Raises:
        InputError: there are fewer questions than one step takes, or none to look at.
    """
    left_out: Counter[str] = Counter()
    rejected: list[reading.Rejected] = []

    ground = None
    if settings.grounded:
        ground = grounding.load(settings.knowledge, settings.reviews, retrieval.Limits(), settings.seed).of_turn

    def asked(location: str, limit: int | None = None) -> list[questions.Question]:
        rows = _accepted(settings, location, rejected)
        if location == settings.input:
            rows = _without_test(rows, left_out)
        return questions.ask(rows, tokenizer, settings.max_prompt, left_out, limit, ground)

    learn, held_out = asked(settings.input, settings.limit), []
    if settings.valid_input:
        held_out = asked(settings.valid_input)
    else:
        learn, held_out = questions.split(learn, settings.valid_share)
    if not learn or not held_out:
        raise InputError(
            f"{len(learn)} questions to learn from and {len(held_out)} to look at are left: give more dialogues, or "
            f"another --valid-share (left out: {dict(left_out) or 'none'})"
        )
    worker.write_questions(work / "learn.parquet", learn)
    worker.write_questions(work / "held_out.parquet", questions.spread(held_out, settings.eval_prompts, settings.seed))
    if rejected:
        content = b"".join(row.as_json() for row in rejected)
        storage.write_bytes(storage.join(settings.output, "quarantine.jsonl"), content)
    base = weights.merged(settings.base, work / "base")
    counts = {"learn": len(learn), "held_out": min(len(held_out), settings.eval_prompts)}
    data = {"base": base, "rows": counts | {"quarantined": len(rejected)}, "left_out": left_out}
    storage.write_json(work / "data.json", data)


def _accepted(settings: PpoConfig, location: str, rejected: list[reading.Rejected]) -> Iterator[reading.Row]:
    for row in reading.read(reading.find(location), max_message_chars=settings.max_message_chars, number_rows=False):
        if isinstance(row, reading.Rejected):
            rejected.append(row)
        else:
            yield row


def _without_test(rows: Iterator[reading.Row], left_out: Counter[str]) -> Iterator[reading.Row]:
    """Nothing is learnt from what a policy will be measured on."""
    for row in rows:
        if row.value["split"] == "test":
            left_out[OF_TEST] += 1
        else:
            yield row


# --- training ---------------------------------------------------------------------------------------------


def make_job(settings: PpoConfig, tokenizer: Any, work: Path, device: training.Device) -> worker.Job:
    """What every worker is told."""
    base = json.loads((work / "data.json").read_text())["base"]
    threads = settings.threads_per_worker or max(1, (os.cpu_count() or 1) // settings.workers)
    return worker.Job(settings, work, base, tokenizer, device, threads)


def train(settings: PpoConfig, tokenizer: Any, work: Path) -> None:
    """Start engines, critic and workers, and run them to the end of the run, from its last checkpoint.

    Raises:
        UserError: see reinforce.
    """
    import ray
    from ray.train.torch import TorchConfig, TorchTrainer

    device = training.choose_device(settings.device, ray.cluster_resources().get("GPU", 0))
    job = make_job(settings, tokenizer, work, device)
    (work / worker.FAILED).unlink(missing_ok=True)
    rollouts = Pool.start(
        job.engine(),
        settings.engines,
        cpus=settings.cpus_per_engine,
        gpus=settings.gpus_per_engine if device == "gpu" else 0.0,
        role=settings.rollout_role,
        deadline_s=settings.deadline_s,
        max_failures=settings.max_failures,
    )
    opinion, critic = _opinion(settings)
    trainer = TorchTrainer(
        worker.train,
        train_loop_config={"job": job, "rollouts": rollouts, "opinion": opinion},
        scaling_config=training.scaling(
            settings.workers, device, settings.cpus_per_worker, gpus=settings.gpus_per_worker, role=settings.train_role
        ),
        torch_config=TorchConfig(backend="gloo" if device == "cpu" else "nccl", timeout_s=int(2 * settings.deadline_s)),
        run_config=training.run_config(work / "ray", "ppo", settings.max_failures),
    )
    done = max(checkpoints.steps(work), default=0)
    shown = {"reward": "reward", "kl": "kl", "held_out_reward": "held out"}
    try:
        with (
            report.Pages(settings, work),
            training.Progress("ppo", work / worker.CURVE, settings.steps, done, shown),
        ):
            training.fit(
                trainer,
                latest=lambda: max(checkpoints.steps(work), default=None),
                max_failures=settings.max_failures,
                work=work,
            )
    finally:
        rollouts.close()
        if critic is not None:
            critic.close()
    _raise_failed(work)


def _opinion(settings: PpoConfig) -> tuple[rewards.Reward, predict.Pool | None]:
    """The reward function, and the critic's actors where there are some."""
    import ray

    if settings.reward != "critic":
        function = rewards.load(settings.reward)
        module = sys.modules[function.__module__]
        if not module.__name__.startswith("ecr_ray."):
            # It travels as it is: the workers, perhaps on other nodes, have no such file.
            ray.cloudpickle.register_pickle_by_value(module)
        return function, None
    pool = predict.Pool(settings.critic, deadline_s=settings.deadline_s)
    return rewards.of_critic(pool.predict, rewards.parse_aspects(settings.aspects), settings.doubt), pool


def _raise_failed(work: Path) -> None:
    """What a worker gave up for, as an error of this process."""
    failed = work / worker.FAILED
    if failed.is_file():
        raise UserError(json.loads(failed.read_text())["error"])


def finish(settings: PpoConfig, work: Path, timings: dict[str, float]) -> Result:
    """The policy, its curve, answers, page and record; the run record comes last."""
    output = Path(storage.absolute(settings.output))
    data = json.loads((work / "data.json").read_text())
    done = json.loads((work / worker.DONE).read_text())
    shutil.rmtree(output / "model", ignore_errors=True)
    known_as = settings.base if settings.method == "lora" and data["base"] != str(work / "base") else None
    weights.save_model(work / worker.BEST, output / "model", settings.save_dtype, known_as)
    if data["base"] == str(work / "base"):
        # An adapter's base that was made here goes with it.
        shutil.rmtree(output / "base", ignore_errors=True)
        shutil.copytree(work / "base", output / "base")
    curve, answers = report.read_curve(work / worker.CURVE), report.read_samples(work)
    storage.write_parquet(output / "curve.parquet", curve)
    storage.write_parquet(output / "samples.parquet", answers)
    ran = json.loads((work / worker.MACHINE).read_text()) if (work / worker.MACHINE).is_file() else {}
    record = RunRecord(
        stage="ppo",
        config=asdict(settings),
        seed=settings.seed,
        inputs=_digests(settings),
        rows=data["rows"],
        failures=data["left_out"],
        timings=timings,
        details={
            "fingerprint": fingerprint(settings),
            "result": report.result(curve, answers, done, settings.seed),
            "model": [storage.digest(f) for f in storage.list_files(output / "model")],
            **ran,
        },
    )
    storage.write_bytes(output / "summary.html", report.page(record.as_dict(), curve, answers, work).encode())
    run = record.write(output)
    shutil.rmtree(work)
    return Result(settings.output, run)
