"""The recommender's stage: dialogues → turns, vectors, co-occurrence → Ray Train workers → measures → one artifact.

Below the output directory `.work/` holds what a run has so far (see runs.py). The artifact's `model/` holds everything
that ranking needs: the network, the catalogue, and what is named together.
"""

import json
import os
import pickle
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import runs, storage, training
from ecr_ray.config import ConfigError, RecommenderConfig, nearest
from ecr_ray.data.reading import InputError
from ecr_ray.encoders import text
from ecr_ray.encoders.worker import checkpoints, read_checkpoint
from ecr_ray.recommender import catalogue, evaluate, features, model, predict, prepare, report, worker
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.records import RunRecord

_SPEED = {
    "workers", "cpus_per_worker", "threads_per_worker", "device", "max_failures", "overwrite", "log_every",
    "zero_stage", "save_every", "embedders",
}  # fmt: skip
_PLACE = {"profile", "config", "output"}


@dataclass(frozen=True)
class Result:
    """A finished run."""

    output: str
    run: dict[str, Any]


def check(settings: RecommenderConfig) -> Catalogue:
    """Everything that can be known to be wrong before any worker starts; what can be recommended.

    Raises:
        UserError: naming what is wrong and what to write instead.
    """
    training.batching(settings.batch, settings.micro_batch, settings.workers)
    for name, parts in (("without", settings.without), ("ablate", settings.ablate)):
        for part in parts:
            if part not in model.PARTS:
                raise ConfigError(f"--{name} {part}: there is no such part{nearest(part, model.PARTS)}")
    text.load_tokenizer(settings.encoder)
    prepare.sources(settings)
    return catalogue.load(settings.catalogue)


def finished(settings: RecommenderConfig) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = runs.finished(settings.output, "recommender", lambda: fingerprint(settings), overwrite=settings.overwrite)
    return Result(settings.output, run) if run is not None else None


def fingerprint(settings: RecommenderConfig) -> dict[str, Any]:
    """Everything that decides the ranking and what is said of it."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _SPEED | _PLACE}
    return runs.as_json(chosen | {"files": _digests(settings)})


def _digests(settings: RecommenderConfig) -> list[dict[str, Any]]:
    files = [file for source in prepare.sources(settings).values() for file in source.files]
    if settings.catalogue not in ("sample", "redial"):
        files.append(settings.catalogue)
    return [storage.digest(file) for file in dict.fromkeys(files)]


# --- training ---------------------------------------------------------------------------------------------


def shape_of(settings: RecommenderConfig, what: Catalogue, text_width: int) -> model.Shape:
    """What the network is."""
    return model.Shape(
        items=len(what),
        nodes=len(what.graph.names),
        relations=len(what.graph.relations),
        text_width=text_width,
        tokens=len(text.load_tokenizer(settings.encoder)),
        encoder=settings.encoder,
        width=settings.width,
        dropout=settings.dropout,
        word_dropout=settings.word_dropout,
        without=settings.without,
    )


@dataclass(frozen=True)
class Variant:
    """A network to train: one of the recommender's, or one without a part, which says what the part is worth."""

    name: str
    shape: model.Shape
    seed: int


def variants(settings: RecommenderConfig, shape: model.Shape) -> list[Variant]:
    """Everything that a run trains, one after the other; the recommender's own come first."""
    found = [Variant(f"network {n + 1}", shape, settings.seed + n) for n in range(settings.members)]
    for part in settings.ablate:
        rest = tuple(other for other in shape.without if other != part)
        name, without = ("with", rest) if part in shape.without else ("without", (*rest, part))
        found.append(Variant(f"{name} {part}", replace(shape, without=without), settings.seed))
    return found


def fit(settings: RecommenderConfig, variant: Variant, work: Path, turns: int) -> None:
    """Train one network on what `prepare` left in the work directory, from its last checkpoint there.

    Raises:
        TrainingError: workers died more often than allowed.
    """
    import ray
    from ray.train.torch import TorchConfig, TorchTrainer

    device = training.choose_device(settings.device, ray.cluster_resources().get("GPU", 0))
    steps = max(1, round(turns // settings.batch * settings.epochs))
    steps = min(steps, settings.max_steps or steps)
    own = place(work, variant)
    own.mkdir(exist_ok=True)
    trainer = TorchTrainer(
        worker.train,
        train_loop_config={
            "settings": asdict(worker.Settings.of(settings)) | {"seed": variant.seed},
            "shape": asdict(variant.shape),
            "data": str(work),
            "work": str(own),
            "steps": steps,
            "device": device,
            "threads": settings.threads_per_worker or max(1, (os.cpu_count() or 1) // settings.workers),
        },
        scaling_config=training.scaling(settings.workers, device, settings.cpus_per_worker),
        torch_config=TorchConfig(backend="gloo" if device == "cpu" else "nccl"),
        run_config=training.run_config(own / "ray", "recommender", settings.max_failures),
    )
    done = max(checkpoints(own), default=0)
    shown = {"loss": "loss", "valid_loss": "held out"}
    with training.Progress(variant.name, own / worker.CURVE, steps, done, shown):
        training.fit(
            trainer,
            latest=lambda: max(checkpoints(own), default=None),
            max_failures=settings.max_failures,
            work=own,
        )


def place(work: Path, variant: Variant) -> Path:
    """Where a network's checkpoints are."""
    return work / variant.name.replace(" ", "-")


def train_recommender(settings: RecommenderConfig, what: Catalogue) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: there is nothing to learn, or the training fails more often than allowed.
    """
    began = time.perf_counter()
    work = runs.claim(settings.output, fingerprint(settings), overwrite=settings.overwrite)
    if not (work / prepare.DATA).is_file():
        prepare.prepare(settings, what, work)
    data = json.loads((work / prepare.DATA).read_text())
    if data["rows"]["train_turns"] < settings.batch:
        raise InputError(
            f"{data['rows']['train_turns']} turns to learn from are fewer than one batch: use a --batch (and "
            f"--micro-batch) below {settings.batch}"
        )
    shape = shape_of(settings, what, features.Texts.load(work).vector_UH.shape[1])
    prepared = time.perf_counter()
    timings = {"prepare": prepared - began}
    for variant in variants(settings, shape):
        began = time.perf_counter()
        if not (place(work, variant) / worker.DONE).is_file():
            fit(settings, variant, work, data["rows"]["train_turns"])
        timings[f"train {variant.name}"] = time.perf_counter() - began
    return finish(settings, what, variants(settings, shape), work, data, timings)


# --- the artifact -----------------------------------------------------------------------------------------


def finish(
    settings: RecommenderConfig,
    what: Catalogue,
    trained: Sequence[Variant],
    work: Path,
    data: dict[str, Any],
    timings: dict[str, float],
) -> Result:
    """The recommender, everybody's ranks, measures, its page and its record; the run record comes last."""
    began = time.perf_counter()
    output = Path(storage.absolute(settings.output))
    given, together = model.Given.load(work / worker.GIVEN), np.load(work / prepare.TOGETHER)
    weights = {variant.name: _weights(place(work, variant)) for variant in trained}
    own = trained[: settings.members]
    shutil.rmtree(output / "model", ignore_errors=True)
    members = [weights[variant.name] for variant in own]
    predict.save(output / "model", own[0].shape, members, what, given.content_IH, together, settings.max_length)
    turns, asked = pickle.loads((work / prepare.TURNS).read_bytes())
    again = {"resamples": settings.bootstrap, "seed": settings.seed}
    networks = {variant.name: _network(variant, given, weights[variant.name]) for variant in trained}
    ranking = {evaluate.OURS: model.Members([networks[variant.name] for variant in own])}
    # What a part is worth, one network says: beside it stands one with all parts.
    ranking |= {v.name: networks[v.name] for v in trained if settings.ablate or settings.members > 1}
    beside = {variant.name: trained[0].name for variant in trained[settings.members :]}
    found = evaluate.measure(ranking, what, turns, asked, work, **again, beside=beside)
    storage.write_parquet(output / "ranks.parquet", found.ranks)
    curves = {variant.name: _curve(place(work, variant)) for variant in trained}
    storage.write_parquet(output / "curve.parquet", report.curve(curves))
    timings["measure"] = time.perf_counter() - began
    record = RunRecord(
        stage="recommender",
        config=asdict(settings),
        seed=settings.seed,
        inputs=_digests(settings),
        rows=data["rows"],
        failures={"films that the catalogue does not have": data["unknown"]} if data["unknown"] else {},
        timings=timings,
        details={
            "fingerprint": fingerprint(settings),
            "notes": list(what.notes),
            "turns_without_mention": data["without_mention"],
            "turns_with_emotions": data["annotated"],
            "bonus": found.bonus,
            "result": {v.name: json.loads((place(work, v) / worker.DONE).read_text()) for v in trained},
            "measures": found.rows,
            "model": [storage.digest(f) for f in storage.list_files(output / "model")],
        },
    )
    shown = report.shown(predict.Recommender(output / "model"), asked["test"] or asked["valid"])
    storage.write_bytes(output / "summary.html", report.page(record.as_dict(), curves, shown).encode())
    run = record.write(output)
    shutil.rmtree(work)
    return Result(settings.output, run)


def _network(variant: Variant, given: model.Given, weights: dict[str, Any]) -> Any:
    network = model.build(variant.shape, given)
    # What is measured is what is kept.
    network.load_state_dict({name: tensor.float() for name, tensor in predict.rounded(weights).items()})
    return network.eval()


def _curve(own: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (own / worker.CURVE).read_text().splitlines()]


def _weights(own: Path) -> dict[str, Any]:
    """Those with the lowest held-out loss; the last ones where nothing was held out."""
    from safetensors.torch import load_file

    best = own / worker.BEST
    if best.is_file():
        return load_file(best)
    _, state = read_checkpoint(own)
    if state is None:
        raise InputError(f"{own} holds no weights")
    return state["weights"]


def lines(run: dict[str, Any]) -> list[str]:
    """What a run prints at its end: recall by both protocols, beside the baselines."""
    found = []
    for split, rows in run["measures"].items():
        for protocol in ("published", "masked"):
            for name in dict.fromkeys(row["model"] for row in rows):
                cells = [
                    f"{row['measure']} {row['value']:.3f}"
                    for row in rows
                    if row["model"] == name and row["protocol"] == protocol and row["measure"].startswith("R@")
                ]
                found.append(f"{split}, {protocol}: {name} {', '.join(cells)}")
    return found
