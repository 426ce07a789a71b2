"""The recommender's stage: dialogues → turns, vectors, co-occurrence → Ray Train workers → measures → one artifact.

Below the output directory `.work/` holds what a run has so far (see runs.py). The artifact's `model/` holds everything
that ranking needs: the network, the catalogue, and what is named together.
"""

import json
import os
import pickle
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import runs, storage, training
from ecr_ray.config import ConfigError, RecommenderConfig, nearest
from ecr_ray.data import reading
from ecr_ray.data.reading import InputError
from ecr_ray.data.splits import held_out
from ecr_ray.encoders import embed, text
from ecr_ray.encoders.worker import checkpoints, read_checkpoint
from ecr_ray.recommender import baselines, catalogue, evaluate, examples, features, model, predict, report, worker
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.examples import Turn
from ecr_ray.records import SPLITS, RunRecord

WEIGHTS = "weights"
# Co-occurrence of the training dialogues is counted without the dialogue's own: in so many parts.
FOLDS = 5
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
    known = (*model.PARTS, WEIGHTS)
    for part in settings.without:
        if part not in known:
            raise ConfigError(f"--without {part}: there is no such part{nearest(part, known)}")
    text.load_tokenizer(settings.encoder)
    _sources(settings)
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


def _sources(settings: RecommenderConfig) -> dict[str, reading.Source]:
    given = {"input": settings.input, "valid": settings.valid_input, "test": settings.test_input}
    return {name: reading.find(place, "dialogues") for name, place in given.items() if place is not None}


def _digests(settings: RecommenderConfig) -> list[dict[str, Any]]:
    files = [file for source in _sources(settings).values() for file in source.files]
    if settings.catalogue not in ("sample", "redial"):
        files.append(settings.catalogue)
    return [storage.digest(file) for file in dict.fromkeys(files)]


# --- data -------------------------------------------------------------------------------------------------


def read_turns(settings: RecommenderConfig, what: Catalogue, rejected: list[reading.Rejected]) -> dict[str, list[Turn]]:
    """The turns of every split, in the order of the files.

    Raises:
        InputError: the input holds turns instead of dialogues, or nothing to learn from.
    """
    resolve = examples.resolver(what)
    found: dict[str, list[Turn]] = {split: [] for split in SPLITS}
    learnt = 0
    for name, source in _sources(settings).items():
        rows = reading.read(source, max_message_chars=settings.max_message_chars, number_rows=False)
        for row in rows:
            if isinstance(row, reading.Rejected):
                rejected.append(row)
                continue
            if row.kind == "turn":
                raise InputError(f"{source.files[0]} holds turns; a recommender is trained on whole dialogues")
            split = row.value["split"] if name == "input" else name
            if split == "train" and settings.limit is not None and learnt >= settings.limit:
                continue
            learnt += split == "train"
            found[split] += examples.of_dialogue(row.value, resolve)
    if not found["valid"]:
        kept = {turn.dialogue_id for turn in found["train"] if held_out(turn.dialogue_id, settings.valid_share)}
        found["valid"] = [turn for turn in found["train"] if turn.dialogue_id in kept]
        found["train"] = [turn for turn in found["train"] if turn.dialogue_id not in kept]
    if not any(turn.targets for turn in found["train"]):
        raise InputError("not one turn to learn from names a film of the catalogue")
    return found


def prepare(settings: RecommenderConfig, what: Catalogue, work: Path) -> None:
    """Leave in the work directory what workers, and the measuring after them, need."""
    rejected: list[reading.Rejected] = []
    turns = read_turns(settings, what, rejected)
    asked = {split: [turn for turn in turns[split] if turn.targets] for split in SPLITS}
    numbers = features.texts_of([turn for split in SPLITS for turn in asked[split]])
    said, items = list(numbers), [model.content_of(item) for item in what.items]
    vectors = _vectors(settings, [*said, *items])
    read = text.Reader(text.load_tokenizer(settings.encoder), settings.max_length)
    features.Texts.of(vectors[: len(said)], read.pieces(said)).save(work)
    matrix, dialogues = examples.mentions_matrix(turns["train"], len(what))
    together = baselines.ease(matrix, settings.ridge)
    np.save(work / "together.npy", together)
    np.save(work / "named.npy", matrix.sum(0))
    edges, popularity = model.edges_of(what.graph, len(what)), _recommended(asked["train"], len(what))
    model.Given(edges, vectors[len(said) :], popularity).save(work / worker.GIVEN)
    for split in SPLITS:
        if not asked[split]:
            continue
        named = baselines.mentioned(asked[split], len(what))
        scores = without_own(asked[split], named, matrix, dialogues, settings) if split == "train" else named @ together
        target, weight = _targets(asked[split], weighted=split == "train" and WEIGHTS not in settings.without)
        data = worker.Data(features.of_turns(asked[split], numbers), scores.astype(np.float16), target, weight)
        worker.write_data(work / split, data)
    # Only this run reads it again, from a directory of its own.
    (work / "turns.pickle").write_bytes(pickle.dumps((turns, asked)))
    if rejected:
        content = b"".join(row.as_json() for row in rejected)
        storage.write_bytes(storage.join(settings.output, "quarantine.jsonl"), content)
    storage.write_json(
        work / "data.json",
        {
            "rows": {f"{split}_turns": len(asked[split]) for split in SPLITS}
            | {f"{split}_films": sum(len(turn.targets) for turn in asked[split]) for split in SPLITS}
            | {"texts": len(numbers), "items": len(what), "quarantined": len(rejected)},
            "unknown": Counter(movie for split in SPLITS for turn in turns[split] for movie in turn.unknown).total(),
            "without_mention": {s: sum(not turn.mentions for turn in asked[s]) for s in SPLITS},
            "annotated": sum(any(m.emotions for m in turn.mentions) for s in SPLITS for turn in asked[s]),
        },
    )


def _vectors(settings: RecommenderConfig, texts: list[str]) -> np.ndarray:
    from tqdm import tqdm

    slow = not sys.stderr.isatty()
    with tqdm(total=len(texts), desc="sentences", mininterval=10 if slow else 0.5, dynamic_ncols=True) as bar:
        return embed.spread(
            texts,
            settings.encoder,
            max_length=settings.max_length,
            actors=settings.embedders,
            progress=bar.update,
        )


def _recommended(asked: Sequence[Turn], items: int) -> np.ndarray:
    """How often each item is recommended, (I,)."""
    return np.bincount([item for turn in asked for item in turn.targets], minlength=items).astype(np.float64)


def without_own(
    asked: Sequence[Turn],
    named_MI: np.ndarray,
    matrix_DI: np.ndarray,
    dialogues: Sequence[str],
    settings: RecommenderConfig,
) -> np.ndarray:
    """EASE's scores at training turns, from weights that have not seen the turn's dialogue, (M, I).

    Weights that have seen it know what is asked for: a network would learn to trust them more than it can later.
    """
    place = {dialogue: row for row, dialogue in enumerate(dialogues)}
    fold_D = np.random.default_rng(settings.seed).integers(0, FOLDS, len(dialogues))
    fold_M = fold_D[[place[turn.dialogue_id] for turn in asked]]
    found = np.zeros_like(named_MI)
    for fold in range(FOLDS):
        rows = np.flatnonzero(fold_M == fold)
        if len(rows):
            found[rows] = named_MI[rows] @ baselines.ease(matrix_DI[fold_D != fold], settings.ridge)
    return found


def _targets(asked: Sequence[Turn], *, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Items of every turn and their weights, (M, T) each; -1 and 0 where there are fewer."""
    most = max(len(turn.targets) for turn in asked)
    target = np.full((len(asked), most), -1, dtype=np.int32)
    weight = np.zeros((len(asked), most), dtype=np.float32)
    for row, turn in enumerate(asked):
        target[row, : len(turn.targets)] = turn.targets
        known = [examples.FEEDBACK_WEIGHTS[liked] if weighted else 1.0 for liked in turn.liked]
        weight[row, : len(known)] = known
    return target, weight


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
        without=tuple(part for part in settings.without if part != WEIGHTS),
    )


def fit(settings: RecommenderConfig, shape: model.Shape, work: Path, turns: int) -> None:
    """Train on what `prepare` left in the work directory, from the last checkpoint there.

    Raises:
        TrainingError: workers died more often than allowed.
    """
    import ray
    from ray.train.torch import TorchConfig, TorchTrainer

    device = training.choose_device(settings.device, ray.cluster_resources().get("GPU", 0))
    training.check_compiler(device, settings.zero_stage)
    steps = max(1, round(turns // settings.batch * settings.epochs))
    steps = min(steps, settings.max_steps or steps)
    trainer = TorchTrainer(
        worker.train,
        train_loop_config={
            "settings": asdict(worker.Settings.of(settings)),
            "shape": asdict(shape),
            "work": str(work),
            "steps": steps,
            "device": device,
            "threads": settings.threads_per_worker or max(1, (os.cpu_count() or 1) // settings.workers),
        },
        scaling_config=training.scaling(settings.workers, device, settings.cpus_per_worker),
        torch_config=TorchConfig(backend="gloo" if device == "cpu" else "nccl"),
        run_config=training.run_config(work / "ray", "recommender", settings.max_failures),
    )
    done = max(checkpoints(work), default=0)
    shown = {"loss": "loss", "valid_loss": "held out"}
    with training.Progress("recommender", work / worker.CURVE, steps, done, shown):
        training.fit(
            trainer,
            latest=lambda: max(checkpoints(work), default=None),
            max_failures=settings.max_failures,
            work=work,
        )


def train_recommender(settings: RecommenderConfig, what: Catalogue) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: there is nothing to learn, or the training fails more often than allowed.
    """
    began = time.perf_counter()
    work = runs.claim(settings.output, fingerprint(settings), overwrite=settings.overwrite)
    if not (work / "data.json").is_file():
        prepare(settings, what, work)
    data = json.loads((work / "data.json").read_text())
    if data["rows"]["train_turns"] < settings.batch:
        raise InputError(
            f"{data['rows']['train_turns']} turns to learn from are fewer than one batch: use a --batch (and "
            f"--micro-batch) below {settings.batch}"
        )
    shape = shape_of(settings, what, features.Texts.load(work).vector_UH.shape[1])
    prepared = time.perf_counter()
    if not (work / worker.DONE).is_file():
        fit(settings, shape, work, data["rows"]["train_turns"])
    timings = {"prepare": prepared - began, "train": time.perf_counter() - prepared}
    return finish(settings, what, shape, work, data, timings)


# --- the artifact -----------------------------------------------------------------------------------------


def finish(
    settings: RecommenderConfig,
    what: Catalogue,
    shape: model.Shape,
    work: Path,
    data: dict[str, Any],
    timings: dict[str, float],
) -> Result:
    """The recommender, everybody's ranks, measures, its page and its record; the run record comes last."""
    began = time.perf_counter()
    output = Path(storage.absolute(settings.output))
    weights = _weights(work)
    network = worker.load_parts(work, shape)
    network.load_state_dict(weights)
    shutil.rmtree(output / "model", ignore_errors=True)
    given, together = model.Given.load(work / worker.GIVEN), np.load(work / "together.npy")
    predict.save(output / "model", shape, weights, what, given.content_IH, together, settings.max_length)
    turns, asked = pickle.loads((work / "turns.pickle").read_bytes())
    again = {"resamples": settings.bootstrap, "seed": settings.seed}
    found = evaluate.measure(network.eval(), what, turns, asked, work, **again)
    storage.write_parquet(output / "ranks.parquet", found.ranks)
    curve = [json.loads(line) for line in (work / worker.CURVE).read_text().splitlines()]
    storage.write_parquet(output / "curve.parquet", report.curve(curve))
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
            "ease_bonus": found.bonus,
            "result": json.loads((work / worker.DONE).read_text()),
            "measures": found.rows,
            "model": [storage.digest(f) for f in storage.list_files(output / "model")],
        },
    )
    shown = report.shown(predict.Recommender(output / "model"), asked["test"] or asked["valid"])
    storage.write_bytes(output / "summary.html", report.page(record.as_dict(), curve, shown).encode())
    run = record.write(output)
    shutil.rmtree(work)
    return Result(settings.output, run)


def _weights(work: Path) -> dict[str, Any]:
    """Those with the lowest held-out loss; the last ones where nothing was held out."""
    from safetensors.torch import load_file

    best = work / worker.BEST
    if best.is_file():
        return load_file(best)
    _, state = read_checkpoint(work)
    if state is None:
        raise InputError(f"{work} holds no weights")
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
