"""Supervised fine-tuning: data by recipe, tokenized and packed once, trained by Ray Train workers, saved once.

Below the output directory `.work/` holds what a run has so far: the packed rows, the trainer's checkpoints, and a
fingerprint of everything that decides the weights, so that a run goes on only where it is the same.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ecr_ray import prompts, runs, storage, training
from ecr_ray.config import ConfigError, SftConfig, nearest
from ecr_ray.data import knowledge, ratings, reading, retrieval, reviews
from ecr_ray.models import tiny
from ecr_ray.policy import grounding, judging, recipes, sft_report, sft_worker, templates, tokens, weights
from ecr_ray.records import RunRecord

# What decides how fast the weights come, not which.
_SPEED = {"workers", "cpus_per_worker", "threads_per_worker", "device", "max_failures", "overwrite", "log_every"}
_PLACE = {"profile", "config", "output"}


@dataclass
class Unused:
    """What was read and is not learnt from: lines that cannot be read, and rows left out, counted by reason."""

    rejected: list[reading.Rejected] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Result:
    """A finished run."""

    output: str
    run: dict[str, Any]


def check(settings: SftConfig) -> Any:
    """Everything that can be known to be wrong before any worker starts; the base model's tokenizer.

    Raises:
        UserError: naming what is wrong and what to write instead.
    """
    for recipe in settings.recipes:
        if recipe not in recipes.RECIPES:
            raise ConfigError(f"--recipes {recipe}: no such recipe{nearest(recipe, recipes.RECIPES)}")
    training.batching(settings.batch, settings.micro_batch, settings.workers)
    if settings.save_every % settings.eval_every:
        raise ConfigError(
            f"--save-every {settings.save_every} is not a multiple of --eval-every {settings.eval_every}: the best "
            "weights would not be among those saved"
        )
    tokenizer = weights.load_tokenizer(settings.base, settings.pad_token)
    templates.training_template(tokenizer)
    if settings.adapter and settings.method != "lora":
        raise ConfigError("--adapter goes with --method lora")
    if settings.adapter:
        weights.check_adapter(settings.adapter, settings.base)
    elif settings.method == "lora":
        weights.check_lora(settings.base, settings.lora_targets, settings.lora_r)
    return tokenizer


def finished(settings: SftConfig) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = runs.finished(settings.output, "sft", lambda: fingerprint(settings), overwrite=settings.overwrite)
    return Result(settings.output, run) if run is not None else None


def finetune(settings: SftConfig, tokenizer: Any) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: there is nothing to learn, or the training fails more often than allowed.
    """
    began = time.perf_counter()
    work = runs.claim(settings.output, fingerprint(settings), overwrite=settings.overwrite)
    if not (work / "data.json").is_file():
        prepare(settings, tokenizer, work)
    data = json.loads((work / "data.json").read_text())
    prepared = time.perf_counter()
    _check_workers(settings, work)
    if not (work / "done.json").is_file():
        train(settings, tokenizer, work)
    return _finish(settings, work, data, {"prepare": prepared - began, "train": time.perf_counter() - prepared})


def fingerprint(settings: SftConfig) -> dict[str, Any]:
    """Everything that decides the weights."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _SPEED | _PLACE}
    return runs.as_json(chosen | {"files": _digests(settings)})


def _digests(settings: SftConfig) -> list[dict[str, Any]]:
    """The files that the run learns from."""
    files: list[str] = []
    if "dialogue" in settings.recipes:
        files += [file for location in _inputs(settings) for file in reading.find(location).files]
    if "ecr" in settings.recipes or settings.grounded:
        files.append(reviews.find(settings.reviews))
        # `sample` and `redial` are no files of the user's.
        files += [settings.knowledge] if Path(settings.knowledge).is_file() else []
    if "judge" in settings.recipes:
        files += map(str, ratings.paths())
    return [storage.digest(file) for file in files]


def _inputs(settings: SftConfig) -> list[str]:
    return [settings.input] + ([settings.valid_input] if settings.valid_input else [])


# --- data -------------------------------------------------------------------------------------------------


def prepare(settings: SftConfig, tokenizer: Any, work: Path) -> None:
    """Read, tokenize and pack, for all workers at once."""
    unused = Unused()
    examples = _examples(settings, prompts.accepts_system_role(tokenizer), unused)
    found = tokens.tokenize(examples, tokenizer, settings.max_length, learn_all=settings.learn == "all")
    rows = {}
    for split, tokenized in found.items():
        if tokenized.rows:
            rows[split] = _pack(tokenized, settings, work / f"{split}.parquet")
    if unused.rejected:
        content = b"".join(row.as_json() for row in unused.rejected)
        storage.write_bytes(storage.join(settings.output, "quarantine.jsonl"), content)
    data = {
        split: {
            "conversations": len(tokenized.rows),
            "answers": tokenized.answers,
            "tokens": tokenized.tokens,
            "trained_tokens": tokenized.trained_tokens,
            "rows": rows.get(split, 0),
        }
        for split, tokenized in found.items()
    }
    left_out = unused.left_out + found["train"].left_out + found["valid"].left_out
    storage.write_json(work / "data.json", data | {"quarantined": len(unused.rejected), "left_out": left_out})


def _examples(settings: SftConfig, system_role: bool, unused: "Unused") -> Iterator[tokens.Example]:
    if "dialogue" in settings.recipes:
        # With a file of its own to validate on, nothing of the input is held out.
        share = 0.0 if settings.valid_input else settings.valid_share
        ground = _grounder(settings).of_turn if settings.grounded else None
        for location in _inputs(settings):
            split = None if not settings.valid_input else "train" if location == settings.input else "valid"
            rows = _accepted(settings, location, unused)
            yield from recipes.dialogue_examples(
                rows, system_role=system_role, valid_share=share, split=split, ground=ground
            )
    if "ecr" in settings.recipes:
        yield from _review_examples(settings, system_role, unused)
    if "judge" in settings.recipes:
        rated = judging.part(ratings.rated_turns(), settings.rated_dialogues)
        yield from judging.examples(rated, settings.seed, settings.valid_share)


def _grounder(settings: SftConfig) -> grounding.Grounder:
    limits = retrieval.Limits(settings.knowledge_triples, settings.knowledge_entities, settings.related_min_count)
    return grounding.load(settings.knowledge, settings.reviews, limits, settings.seed)


def _review_examples(settings: SftConfig, system_role: bool, unused: "Unused") -> Iterator[tokens.Example]:
    read = list(reviews.read(settings.reviews))
    unused.rejected += [row for row in read if isinstance(row, reading.Rejected)]
    filters = reviews.SHORT if settings.review_filters == "short" else reviews.Filters()
    kept = reviews.select((row for row in read if isinstance(row, reviews.Review)), filters, unused.left_out)
    limits = retrieval.Limits(settings.knowledge_triples, settings.knowledge_entities, settings.related_min_count)
    retriever = retrieval.Retriever(knowledge.load(settings.knowledge), kept, limits, settings.seed)
    yield from recipes.review_examples(
        kept, retriever, system_role=system_role, valid_share=settings.valid_share, left_out=unused.left_out
    )


def _accepted(settings: SftConfig, location: str, unused: "Unused") -> Iterator[reading.Row]:
    count = 0
    source = reading.find(location)
    for row in reading.read(source, max_message_chars=settings.max_message_chars, number_rows=False):
        if isinstance(row, reading.Rejected):
            unused.rejected.append(row)
            continue
        if settings.limit is not None and count >= settings.limit:
            return
        count += 1
        yield row


def _pack(tokenized: tokens.Tokenized, settings: SftConfig, path: Path) -> int:
    """Write the rows as the workers take them; how many there are after packing."""
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    dataset = Dataset.from_list(tokenized.rows).shuffle(seed=settings.seed)
    if settings.packing:
        dataset = pack_dataset(dataset, settings.max_length, "bfd")
    dataset.to_parquet(str(path))
    return len(dataset)


# --- training ---------------------------------------------------------------------------------------------


def train(settings: SftConfig, tokenizer: Any, work: Path) -> None:
    """Train on the rows that `prepare` left in the work directory, from the last checkpoint there.

    Raises:
        TrainingError: workers died more often than allowed.
    """
    import ray
    from ray.train.torch import TorchConfig, TorchTrainer

    device = training.choose_device(settings.device, ray.cluster_resources().get("GPU", 0))
    threads = settings.threads_per_worker or max(1, (os.cpu_count() or 1) // settings.workers)
    trainer = TorchTrainer(
        sft_worker.train,
        train_loop_config={
            "settings": asdict(settings),
            "work": str(work),
            "model": tiny.resolve_model(settings.base),
            "adapter": storage.absolute(settings.adapter) if settings.adapter else None,
            "tokenizer": tokenizer,
            "device": device,
            "threads": threads,
            "cache": str(tiny.cache_dir() / "datasets"),
        },
        scaling_config=training.scaling(settings.workers, device, settings.cpus_per_worker),
        torch_config=TorchConfig(backend="gloo" if device == "cpu" else "nccl"),
        run_config=training.run_config(work / "ray", "sft", settings.max_failures),
    )
    data = json.loads((work / "data.json").read_text())
    steps = sft_report.total_steps(settings, data["train"]["rows"])
    latest = sft_worker.latest_checkpoint(work)
    done = sft_worker.step_of(latest) if latest else 0
    shown = {"loss": "loss", "eval_loss": "valid"}
    with training.Progress("sft", work / sft_worker.CURVE, steps, done, shown):
        training.fit(
            trainer,
            latest=lambda: sft_worker.latest_checkpoint(work),
            max_failures=settings.max_failures,
            work=work,
        )


def _check_workers(settings: SftConfig, work: Path) -> None:
    """DeepSpeed's checkpoints are of as many parts as there were workers.

    Raises:
        ConfigError: this run was begun with another number of them.
    """
    latest = sft_worker.latest_checkpoint(work)
    if latest is None or not settings.zero_stage:
        return
    workers = json.loads((Path(latest) / sft_worker.COMPLETE).read_text())["workers"]
    if workers != settings.workers:
        raise ConfigError(
            f"the unfinished run in {settings.output} has checkpoints of {workers} worker(s), which DeepSpeed cannot "
            f"share among {settings.workers}: go on with --workers {workers}, or start over with --overwrite"
        )


def _finish(settings: SftConfig, work: Path, data: dict[str, Any], timings: dict[str, float]) -> Result:
    """The model, its curve, its page and its record; the run record comes last."""
    output = Path(storage.absolute(settings.output))
    done = json.loads((work / "done.json").read_text())
    shutil.rmtree(output / "model", ignore_errors=True)
    weights.save_model(Path(done["checkpoint"]), output / "model", settings.save_dtype, settings.base)
    curve = sft_report.read_curve(work / sft_worker.CURVE)
    storage.write_parquet(output / "curve.parquet", curve)
    record = RunRecord(
        stage="sft",
        config=asdict(settings),
        seed=settings.seed,
        inputs=_digests(settings),
        rows={"quarantined": data["quarantined"]}
        | {f"{s}_{k}": v for s in ("train", "valid") for k, v in data[s].items()},
        failures=data["left_out"],
        timings=timings,
        details={
            "fingerprint": fingerprint(settings),
            "result": sft_report.result(curve, done),
            "model": [storage.digest(f) for f in storage.list_files(output / "model")],
        },
    )
    storage.write_bytes(output / "summary.html", sft_report.page(record.as_dict(), curve).encode())
    run = record.write(output)
    shutil.rmtree(work)
    return Result(settings.output, run)
