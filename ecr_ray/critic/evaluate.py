"""The critic's own figures: on held-out targets, and on people's ratings that nothing has learnt from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import storage
from ecr_ray.config import CriticConfig
from ecr_ray.critic import measures, people, targets
from ecr_ray.data import ratings
from ecr_ray.encoders import predict
from ecr_ray.encoders.model import Shape

CRITIC, MEAN, LENGTH, WORDS = "critic", "the training mean", "words in the response", "bag-of-words ridge"
# Fewer rows than this say nothing.
ENOUGH = 20


@dataclass
class Found:
    """What is measured. `rows`: see measures.compare; `people`: see people.against."""

    split: str
    heads: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    people: list[dict[str, Any]] = field(default_factory=list)
    doubt: list[dict[str, Any]] = field(default_factory=list)
    """Per head: share of targets within the critic's own 90 % interval, and whether it doubts where it errs."""
    predictions: pa.Table = field(default_factory=lambda: pa.table({}))
    """Held-out turns: ids, texts, and per head the target (null where not known), the prediction and its doubt."""


def measure(settings: CriticConfig, work: Path, output: Path, shape: Shape) -> Found:
    """Predict the held-out rows and compare; writes `predictions.parquet` below the output."""
    pool = predict.Pool(str(output / "model"), actors=settings.predictors)
    split = next((s for s in ("test", "valid") if (work / f"{s}.parquet").exists()), "")
    found = Found(split, shape.heads)
    words = None
    if split:
        rows, train = _rows(work / f"{split}.parquet"), _rows(work / "train.parquet")
        predicted = pool.predict_ids(rows["ids"])
        for k, head in enumerate(shape.heads):
            words = _head(found, head, k, rows, train, predicted, settings)
        found.predictions = _table(rows, shape.heads, predicted)
        storage.write_parquet(output / "predictions.parquet", found.predictions)
    if settings.learn == "reactions" or targets.uses_people(settings.people):
        found.people = _people(settings, pool, shape, words)
    pool.close()
    return found


def _rows(path: Path) -> dict[str, Any]:
    table = storage.read_parquet(path)
    return {
        **{name: table[name].to_pylist() for name in ("turn_id", "dialogue_id", "text", "last", "ids")},
        "targets": np.array(table["targets"].to_pylist()),
        "weights": np.array(table["weights"].to_pylist()),
    }


def _head(
    found: Found,
    head: str,
    k: int,
    rows: dict[str, Any],
    train: dict[str, Any],
    predicted: predict.Predictions,
    settings: CriticConfig,
) -> measures.BagOfWords | None:
    """Measure one head; the bag of words that was fitted for it."""
    known, learnt = np.flatnonzero(rows["weights"][:, k] > 0), np.flatnonzero(train["weights"][:, k] > 0)
    if len(known) < ENOUGH or len(learnt) < ENOUGH:
        return None
    target, train_target = rows["targets"][known, k], train["targets"][learnt, k]
    bag = measures.BagOfWords().fit(_texts(train, learnt), train_target)
    line = measures.Length().fit(_lengths(train, learnt), train_target)
    mean, std = predicted.mean_NK[known, k], predicted.std_NK[known, k]
    sample = measures.Sample(
        {
            CRITIC: mean,
            MEAN: np.full(len(known), train_target.mean()),
            LENGTH: line.predict(_lengths(rows, known)),
            WORDS: bag.predict(_texts(rows, known)),
        },
        target,
        np.array(rows["dialogue_id"])[known],
    )
    again = {"resamples": settings.bootstrap, "seed": settings.seed}
    found.rows += measures.compare(head, sample, CRITIC, measures.MEASURES, **again)
    error = np.abs(target - mean)
    found.doubt.append(
        {
            "head": head,
            "coverage_90": measures.interval(
                lambda p: measures.coverage(mean[p], std[p], target[p]), sample.groups_N, **again
            ),
            "doubt_and_error_spearman": measures.interval(
                lambda p: measures.MEASURES["Spearman"](std[p], error[p]), sample.groups_N, **again
            ),
        }
    )
    return bag


def _texts(rows: dict[str, Any], picked: np.ndarray) -> list[str]:
    return [f"{rows['last'][n]} \n {rows['text'][n]}" for n in picked]


def _lengths(rows: dict[str, Any], picked: np.ndarray) -> np.ndarray:
    return np.array([float(len(rows["text"][n].split())) for n in picked])


def _table(rows: dict[str, Any], heads: tuple[str, ...], predicted: predict.Predictions) -> pa.Table:
    columns: dict[str, Any] = {name: rows[name] for name in ("turn_id", "dialogue_id", "last", "text")}
    for k, head in enumerate(heads):
        known = rows["weights"][:, k] > 0
        columns[head] = pa.array(rows["targets"][:, k], pa.float32(), mask=~known)
        columns[f"{head}_predicted"] = predicted.mean_NK[:, k].astype(np.float32)
        columns[f"{head}_doubt"] = predicted.std_NK[:, k].astype(np.float32)
    return pa.table(columns)


def _people(
    settings: CriticConfig, pool: predict.Pool, shape: Shape, words: measures.BagOfWords | None
) -> list[dict[str, Any]]:
    """Against people's ratings of dialogues that nothing has learnt from."""
    turns = [turn for turn in ratings.rated_turns() if ratings.is_held_out(turn.dialogue_id)]
    contexts, responses = [turn.context for turn in turns], [turn.response for turn in turns]
    if settings.learn == "reactions":
        turns = [turn for turn in turns if turn.reaction]
        contexts, responses = targets.reader_view((t.context, t.response, t.reaction) for t in turns)
    predicted = pool.predict(contexts, responses)
    read = ~predicted.unread
    turns = [turn for turn, known in zip(turns, read, strict=True) if known]
    scores = {f"{CRITIC}: {head}": predicted.of(head)[read] for head in shape.heads}
    if words is not None:
        texts = [f"{c[-1]['text'] if c else ''} \n {r}" for c, r in zip(contexts, responses, strict=True)]
        scores[WORDS] = words.predict([text for text, known in zip(texts, read, strict=True) if known])
    again = {"resamples": settings.bootstrap, "seed": settings.seed}
    return people.against(turns, scores, f"{CRITIC}: {shape.heads[-1]}", **again)
