"""The classifier's stage: GoEmotions → rows → Ray Train workers → measures → one artifact.

Below the output directory `.work/` holds what a run has so far (see runs.py).
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import pages, runs, storage, training
from ecr_ray.config import EmotionConfig
from ecr_ray.data.reading import InputError
from ecr_ray.emotion import evaluate, goemotions
from ecr_ray.emotion.goemotions import Example
from ecr_ray.encoders import fit, learning, model, predict, text, worker
from ecr_ray.records import EMOTIONS, RunRecord

RUBRIC = "emotions"
# What decides how fast the weights come, not which.
_SPEED = {
    "workers", "cpus_per_worker", "threads_per_worker", "device", "max_failures", "overwrite", "log_every",
    "eval_tokens", "zero_stage", "save_every",
}  # fmt: skip
_PLACE = {"profile", "config", "output"}
# A pass over the written sentences is short: they are seen so many times in one over the comments.
WRITTEN_REPEATS = 4


@dataclass(frozen=True)
class Result:
    """A finished run."""

    output: str
    run: dict[str, Any]


def check(settings: EmotionConfig) -> text.Reader:
    """Everything that can be known to be wrong before any worker starts; what encodes the encoder's input.

    Raises:
        UserError: naming what is wrong and what to write instead.
    """
    training.batching(settings.batch, settings.micro_batch, settings.workers)
    _files(settings)
    reader = text.Reader(text.load_tokenizer(settings.encoder), settings.max_length)
    reader.encode_alone(["a"])
    return reader


def finished(settings: EmotionConfig) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = runs.finished(settings.output, "emotion", lambda: fingerprint(settings), overwrite=settings.overwrite)
    return Result(settings.output, run) if run is not None else None


def fingerprint(settings: EmotionConfig) -> dict[str, Any]:
    """Everything that decides the weights and what is said of them."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _SPEED | _PLACE}
    return runs.as_json(chosen | {"files": [storage.digest(str(file)) for file in _files(settings).values()]})


def train_emotion(settings: EmotionConfig, reader: text.Reader) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: there is nothing to learn, or the training fails more often than allowed.
    """
    began = time.perf_counter()
    work = runs.claim(settings.output, fingerprint(settings), overwrite=settings.overwrite)
    examples = {split: goemotions.read(file) for split, file in _files(settings).items()}
    examples["train"] = examples["train"][: settings.limit] + WRITTEN_REPEATS * goemotions.written()
    if len(examples["train"]) < settings.batch:
        raise InputError(f"{len(examples['train'])} messages to learn from are fewer than one batch")
    if not (work / "train.parquet").is_file():
        # Nobody labelled nostalgia in what is held out; what says so outright is no measure of it.
        _write(work / "valid.parquet", [_without_nostalgia(e) for e in examples["valid"]], reader)
        _write(work / "train.parquet", examples["train"], reader)
    prepared = time.perf_counter()
    if not (work / "done.json").is_file():
        trainer, steps = fit.make_trainer(
            settings,
            worker.Settings.of(settings, loss="bce", pairwise_weight=0.0, pairwise_margin=0.0),
            shape_of(settings),
            [1.0] * len(EMOTIONS),
            work,
            stage="emotion",
            filler=reader.tokenizer.pad_token_id,
        )
        fit.run(trainer, "emotion", steps, work, {"loss": "loss", "valid_error": "unexplained"}, settings.max_failures)
    timings = {"prepare": prepared - began, "train": time.perf_counter() - prepared}
    return _finish(settings, work, reader, examples, timings)


def shape_of(settings: EmotionConfig) -> model.Shape:
    """What the classifier is."""
    return model.Shape(
        settings.encoder,
        EMOTIONS,
        RUBRIC,
        settings.pooling,
        settings.head_hidden,
        settings.dropout,
        settings.max_length,
        settings.lora_r,
    )


def _files(settings: EmotionConfig) -> dict[str, Path]:
    names = {"train": "train", "valid": "dev", "test": "test"}
    if settings.input == "goemotions":
        return {split: goemotions.path(name) for split, name in names.items()}
    found = {split: Path(settings.input) / f"{name}.tsv" for split, name in names.items()}
    for file in found.values():
        if not file.is_file():
            raise InputError(f"--input {settings.input}: there is no {file}")
    return found


def _write(path: Path, examples: list[Example], reader: text.Reader) -> None:
    values, weights = (np.array([getattr(e, name) for e in examples], dtype=float) for name in ("emotions", "weights"))
    fit.write_rows(path, reader.encode_alone([e.text for e in examples]), values, weights)


def _without_nostalgia(example: Example) -> Example:
    weights = list(example.weights)
    weights[goemotions.NOSTALGIA] = 0.0
    return replace(example, weights=tuple(weights))


def _finish(
    settings: EmotionConfig,
    work: Path,
    reader: text.Reader,
    examples: dict[str, list[Example]],
    timings: dict[str, float],
) -> Result:
    """The classifier, its predictions and measures, its page and its record; the run record comes last."""
    began = time.perf_counter()
    output = Path(storage.absolute(settings.output))
    shutil.rmtree(output / "model", ignore_errors=True)
    model.convert(work / worker.BEST, output / "model", settings.save_dtype)
    curve = learning.read_curve(work / worker.CURVE)
    storage.write_parquet(output / "curve.parquet", curve)
    pool = predict.Pool(str(output / "model"))
    found = evaluate.measure(
        pool,
        reader,
        *(examples[split] for split in ("train", "valid", "test")),
        resamples=settings.bootstrap,
        seed=settings.seed,
    )
    pool.close()
    storage.write_parquet(output / "predictions.parquet", found.predictions)
    timings["measure"] = time.perf_counter() - began
    record = RunRecord(
        stage="emotion",
        config=asdict(settings),
        seed=settings.seed,
        inputs=[storage.digest(str(file)) for file in _files(settings).values()],
        rows={f"{split}_messages": len(rows) for split, rows in examples.items()},
        timings=timings,
        details={
            "fingerprint": fingerprint(settings),
            "emotions": EMOTIONS,
            "mapping": goemotions.MAPPING,
            "unmapped": goemotions.UNMAPPED,
            "result": json.loads((work / "done.json").read_text()),
            "thresholds": found.thresholds,
            "measures": found.rows,
            "model": [storage.digest(f) for f in storage.list_files(output / "model")],
        },
    )
    page = pages.render(
        "ecr_ray.emotion",
        "report.html",
        learning.number,
        run=record.as_dict(),
        tables={title: tabulate(rows) for title, rows in found.rows.items()},
        learning=pages.svg(learning.draw_curve(curve)),
    )
    storage.write_bytes(output / "summary.html", page.encode())
    run = record.write(output)
    shutil.rmtree(work)
    return Result(settings.output, run)


def tabulate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of measures as one line a measure and emotion, with a cell a model."""
    lines: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in rows:
        key = (row["measure"], row["emotion"])
        line = lines.setdefault(key, {"measure": key[0], "emotion": key[1], "positive": row["positive"], "cells": {}})
        line["cells"][row["model"]] = row
    return sorted(lines.values(), key=lambda line: line["emotion"] is not None)


def lines(run: dict[str, Any]) -> list[str]:
    """What a run prints at its end: all emotions together, beside what is trivial."""
    found = []
    for title, rows in run["measures"].items():
        for measure in dict.fromkeys(row["measure"] for row in rows):
            shown = [row for row in rows if row["measure"] == measure and row["emotion"] is None]
            said = "; ".join(f"{r['model']} {r['value']:.3f} ({r['low']:.3f} to {r['high']:.3f})" for r in shown)
            found.append(f"{title}: {measure} {said}")
    return found
