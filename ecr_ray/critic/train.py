"""The critic's stage: targets and hindsight → rows → Ray Train workers → measures → one artifact.

Below the output directory `.work/` holds what a run has so far (see runs.py): `targets`, the rows of every split, the
workers' shards, checkpoints, the best weights.
"""

import json
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import progress, runs, storage, training
from ecr_ray.config import ConfigError, CriticConfig
from ecr_ray.critic import evaluate, report, targets
from ecr_ray.critic.targets import Turn
from ecr_ray.data import ratings
from ecr_ray.data.reading import InputError
from ecr_ray.data.splits import held_out
from ecr_ray.encoders import fit, learning, model, predict, text, worker
from ecr_ray.records import RunRecord

# What decides how fast the weights come, not which.
_SPEED = {
    "workers", "cpus_per_worker", "threads_per_worker", "device", "max_failures", "overwrite", "log_every",
    "predictors", "eval_tokens", "zero_stage", "save_every",
}  # fmt: skip
_PLACE = {"profile", "config", "output"}
TOO_LONG = "the response alone is longer than the encoder reads"
NO_TARGET = "nobody said anything of the turn"
KEPT_FOR_PEOPLE = "its dialogue is kept to measure on people's ratings"


@dataclass(frozen=True)
class Result:
    """A finished run."""

    output: str
    run: dict[str, Any]


def check(settings: CriticConfig) -> text.Reader:
    """Everything that can be known to be wrong before any worker starts; what encodes the encoder's input.

    Raises:
        UserError: naming what is wrong and what to write instead.
    """
    training.batching(settings.batch, settings.micro_batch, settings.workers)
    reader = text.Reader(text.load_tokenizer(settings.encoder), settings.max_length)
    # Asks for the tokens that an encoder's texts start with and are separated by.
    reader.encode([[]], ["a"])
    if settings.learn == "scores" and settings.reader != "none":
        shape = model.read_shape(model.find(settings.reader))
        if targets.SATISFACTION not in shape.heads:
            raise ConfigError(
                f"--reader {settings.reader} is a critic with the heads {', '.join(shape.heads)}, not a reaction "
                "reader (--learn reactions makes one)"
            )
    if settings.people == "yes" or settings.learn == "reactions":
        ratings.paths()
    return reader


def finished(settings: CriticConfig) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = runs.finished(settings.output, "critic", lambda: fingerprint(settings), overwrite=settings.overwrite)
    return Result(settings.output, run) if run is not None else None


def fingerprint(settings: CriticConfig) -> dict[str, Any]:
    """Everything that decides the weights and what is said of them."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _SPEED | _PLACE}
    return runs.as_json(chosen | {"files": _digests(settings)})


def train_critic(settings: CriticConfig, reader: text.Reader) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: there is nothing to learn, or the training fails more often than allowed.
    """
    began = time.perf_counter()
    work = runs.claim(settings.output, fingerprint(settings), overwrite=settings.overwrite)
    if not (work / "data.json").is_file():
        prepare(settings, reader, work)
    data = json.loads((work / "data.json").read_text())
    prepared = time.perf_counter()
    if not (work / "done.json").is_file():
        train(settings, reader, work, data)
    trained = time.perf_counter()
    return _finish(settings, work, data, {"prepare": prepared - began, "train": trained - prepared}, trained)


# --- data -------------------------------------------------------------------------------------------------


def prepare(settings: CriticConfig, reader: text.Reader, work: Path) -> None:
    """Read and check the targets, add hindsight, encode; leaves the rows of every split in the work directory."""
    left_out: Counter[str] = Counter()
    if settings.learn == "reactions":
        rubric, names = "", (targets.SATISFACTION,)
        turns = targets.rated([t for t in ratings.rated_turns() if not ratings.is_held_out(t.dialogue_id)])
    else:
        rubric, turns = targets.read(settings.targets, settings.judge_noise)
        turns = _without_kept(turns, settings, left_out)
        names = targets.heads(rubric, hindsight=settings.reader != "none")
    turns = _splits(turns, settings)
    if settings.learn == "scores" and settings.reader != "none":
        _add_hindsight(turns, settings)
    kept = _encoded(turns, names, settings, reader, left_out)
    if not kept["train"]:
        raise InputError(f"not one turn is left to learn from ({_reasons(left_out)})")
    if len(kept["train"]) < settings.batch:
        raise InputError(
            f"{len(kept['train'])} turns to learn from are fewer than one batch (--batch {settings.batch}): a worker "
            "would have none"
        )
    usual = np.ones(len(names))
    for split, rows in kept.items():
        if rows:
            values, weights = targets.arrays([row.turn for row in rows], names)
            if split == "train":
                # Every head's weights have a mean of 1 over the rows that know it.
                known = weights > 0
                usual = weights.sum(0) / np.maximum(known.sum(0), 1)
            texts = {
                "turn_id": [row.turn.turn_id for row in rows],
                "dialogue_id": [row.turn.dialogue_id for row in rows],
                "text": [row.text for row in rows],
                "last": [row.last for row in rows],
            }
            weights = weights / np.where(usual > 0, usual, 1)
            fit.write_rows(work / f"{split}.parquet", [row.ids for row in rows], values, weights, texts)
    everything = [row.turn for rows in kept.values() for row in rows]
    storage.write_parquet(work / "targets.parquet", targets.table(everything, names))
    known = {name: sum(name in row.turn.scores for row in kept["train"]) for name in names}
    storage.write_json(
        work / "data.json",
        {
            "rubric": rubric,
            "heads": names,
            "rows": {split: len(rows) for split, rows in kept.items()},
            "known": known,
            "overall_from": Counter(turn.sources.get(names[-1], "nobody") for turn in everything),
            "left_out": left_out,
        },
    )


def _without_kept(turns: list[Turn], settings: CriticConfig, left_out: Counter[str]) -> list[Turn]:
    """The turns but those of dialogues that are kept to measure on people's ratings."""
    if not targets.uses_people(settings.people):
        return turns
    measured = {t.dialogue_id for t in ratings.rated_turns() if ratings.is_held_out(t.dialogue_id)}
    kept = [turn for turn in turns if turn.dialogue_id not in measured or turn.split == "test"]
    left_out[KEPT_FOR_PEOPLE] += len(turns) - len(kept)
    return kept


def _splits(turns: list[Turn], settings: CriticConfig) -> list[Turn]:
    """Hold out dialogues to validate on where the targets have none, and keep to the limit."""
    if not any(turn.split == "valid" for turn in turns):
        for turn in turns:
            if turn.split == "train" and held_out(turn.dialogue_id, settings.valid_share):
                turn.split = "valid"
    if settings.limit is None:
        return turns
    kept, count = [], 0
    for turn in turns:
        count += turn.split == "train"
        if turn.split != "train" or count <= settings.limit:
            kept.append(turn)
    return kept


def _add_hindsight(turns: list[Turn], settings: CriticConfig) -> None:
    """The reaction of every turn that has a next message, from the reader or from people; and `overall` with it."""
    seen = [turn for turn in turns if turn.reaction_text]
    pool = predict.Pool(settings.reader, actors=settings.predictors)
    with progress.bar("reactions", total=len(seen)) as bar:
        found = pool.predict(*targets.reader_view(map(_seen, seen)), progress=bar.update)
    pool.close()
    for turn, value in zip(seen, found.of(targets.SATISFACTION), strict=True):
        if not np.isnan(value):
            turn.put("reaction", float(value), 1.0, "reader")
    if targets.uses_people(settings.people):
        rated = [t for t in ratings.rated_turns() if not ratings.is_held_out(t.dialogue_id)]
        targets.add_people([turn for turn in turns if turn.split == "train"], rated)
    targets.mix(turns, settings.hindsight_share)


def _seen(turn: Turn) -> tuple[list[dict[str, str]], str, str]:
    return turn.context, turn.response, turn.reaction_text


@dataclass(frozen=True)
class Row:
    """A turn as the encoder takes it: its token ids, and its last two texts for baselines and pages."""

    turn: Turn
    ids: list[int]
    last: str
    text: str


def _encoded(
    turns: list[Turn], names: tuple[str, ...], settings: CriticConfig, reader: text.Reader, left_out: Counter[str]
) -> dict[str, list[Row]]:
    """The turns that can be used, by split."""
    if settings.learn == "reactions":
        contexts, responses = targets.reader_view(map(_seen, turns))
    else:
        contexts, responses = [turn.context for turn in turns], [turn.response for turn in turns]
    kept: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
    for turn, ids, context, said in zip(turns, reader.encode(contexts, responses), contexts, responses, strict=True):
        if not any(name in turn.scores for name in names):
            left_out[NO_TARGET] += 1
        elif ids is None:
            left_out[TOO_LONG] += 1
        else:
            kept[turn.split].append(Row(turn, ids, context[-1]["text"] if context else "", said))
    return kept


def _reasons(left_out: Counter[str]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "none was read"


# --- training ---------------------------------------------------------------------------------------------


def train(settings: CriticConfig, reader: text.Reader, work: Path, data: dict[str, Any]) -> None:
    """Train on the rows that `prepare` left in the work directory, from the last checkpoint there.

    Raises:
        TrainingError: workers died more often than allowed.
    """
    trainer, steps = make_trainer(settings, reader.tokenizer.pad_token_id, work, data)
    shown = {"loss": "loss", "valid_error": "unexplained", "valid_spearman": "spearman"}
    fit.run(trainer, "critic", steps, work, shown, settings.max_failures)


def make_trainer(
    settings: CriticConfig, filler: int, work: Path, data: dict[str, Any], callbacks: list[Any] | None = None
) -> tuple[Any, int]:
    """Ray Train's trainer, and how many steps it will take; see fit.make_trainer."""
    return fit.make_trainer(
        settings,
        worker.Settings.of(settings),
        shape_of(settings, data),
        head_weights(settings, tuple(data["heads"])),
        work,
        stage="critic",
        filler=filler,
        callbacks=callbacks,
    )


def shape_of(settings: CriticConfig, data: dict[str, Any]) -> model.Shape:
    """What the critic is, from settings and data."""
    return model.Shape(
        settings.encoder,
        tuple(data["heads"]),
        data["rubric"],
        settings.pooling,
        settings.head_hidden,
        settings.dropout,
        settings.max_length,
    )


def head_weights(settings: CriticConfig, heads: tuple[str, ...]) -> list[float]:
    """How much each head counts in the loss."""
    special = {targets.OVERALL: settings.overall_weight} | dict.fromkeys(targets.HINDSIGHT, settings.hindsight_weight)
    return [special.get(head, 1.0) for head in heads]


# --- the artifact -----------------------------------------------------------------------------------------


def _finish(
    settings: CriticConfig, work: Path, data: dict[str, Any], timings: dict[str, float], trained: float
) -> Result:
    """The critic, its predictions and measures, its page and its record; the run record comes last."""
    output = Path(storage.absolute(settings.output))
    done = json.loads((work / "done.json").read_text())
    shape = shape_of(settings, data)
    best = work / worker.BEST
    if not best.is_dir():
        # Nothing was held out: the last weights are the result.
        _, state = worker.read_checkpoint(work)
        assert state is not None
        model.save(best, shape, state["weights"], "float32")
    shutil.rmtree(output / "model", ignore_errors=True)
    model.convert(best, output / "model", settings.save_dtype)
    curve = learning.read_curve(work / worker.CURVE)
    storage.write_parquet(output / "curve.parquet", curve)
    shutil.copyfile(work / "targets.parquet", output / "targets.parquet")
    found = evaluate.measure(settings, work, output, shape)
    timings["measure"] = time.perf_counter() - trained
    record = RunRecord(
        stage="critic",
        config=asdict(settings),
        seed=settings.seed,
        inputs=_digests(settings),
        rows={f"{split}_turns": count for split, count in data["rows"].items()},
        failures=data["left_out"],
        timings=timings,
        details={
            "fingerprint": fingerprint(settings),
            "heads": data["heads"],
            "rubric": data["rubric"],
            "known_targets": data["known"],
            "overall_from": data["overall_from"],
            "result": done,
            "measures": found.rows,
            "people": found.people,
            "doubt": found.doubt,
            "model": [storage.digest(f) for f in storage.list_files(output / "model")],
        },
    )
    report.write(output, record.as_dict(), curve, found)
    run = record.write(output)
    shutil.rmtree(work)
    return Result(settings.output, run)


def _digests(settings: CriticConfig) -> list[dict[str, Any]]:
    """The files that the run learns from."""
    files: list[str] = []
    if settings.learn == "scores":
        for artifact in settings.targets:
            files += [storage.join(artifact, "targets.parquet")] if storage.exists(artifact) else []
        if settings.reader != "none":
            files.append(str(model.find(settings.reader) / model.WEIGHTS))
    if settings.learn == "reactions" or targets.uses_people(settings.people):
        files += map(str, ratings.paths())
    return [storage.digest(file) for file in files]


def lines(run: dict[str, Any]) -> list[str]:
    """What a run prints at its end: the last head against what is trivial, on targets and on people."""
    found = []
    for what, rows in (("held out", run["measures"]), ("people", run["people"])):
        heads = list(dict.fromkeys(row["head"] for row in rows))
        for head in heads[-1:] if what == "held out" else heads[:1]:
            shown = [row for row in rows if row["head"] == head and row["measure"] == "Spearman"]
            said = "; ".join(f"{row['model']} {_figure(row)}" for row in shown if row["value"] is not None)
            found.append(f"{what}, {head}: Spearman {said}")
    return found


def _figure(row: dict[str, Any]) -> str:
    return f"{row['value']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else "")
