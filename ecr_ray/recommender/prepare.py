"""Dialogues → what the workers of a recommender read: turns, vectors, co-occurrence, targets; once a run.

Everything lies in the stage's work directory, which all nodes share.
"""

import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import progress, storage
from ecr_ray.config import RecommenderConfig
from ecr_ray.data import reading
from ecr_ray.data.reading import InputError
from ecr_ray.data.splits import held_out
from ecr_ray.encoders import embed, text
from ecr_ray.recommender import baselines, examples, features, model, worker
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.examples import Turn
from ecr_ray.recommender.linking import Linker
from ecr_ray.records import SPLITS

# Co-occurrence of the training dialogues is counted without the dialogue's own: in so many parts.
FOLDS = 5
DATA, TURNS, TOGETHER = "data.json", "turns.pickle", "together.npy"
Turns = dict[str, list[Turn]]


def sources(settings: RecommenderConfig) -> dict[str, reading.Source]:
    """Where the dialogues are: `input`, and `valid` and `test` where they are given apart.

    Raises:
        UserError: there is nothing at a place.
    """
    given = {"input": settings.input, "valid": settings.valid_input, "test": settings.test_input}
    return {name: reading.find(place, "dialogues") for name, place in given.items() if place is not None}


def read_turns(settings: RecommenderConfig, what: Catalogue, rejected: list[reading.Rejected]) -> Turns:
    """The turns of every split, in the order of the files.

    Raises:
        InputError: the input holds turns instead of dialogues, or nothing to learn from.
    """
    resolve = examples.resolver(what)
    found: Turns = {split: [] for split in SPLITS}
    for name, source in sources(settings).items():
        dialogues = list(_dialogues(settings, name, source, rejected))
        # Where nobody wrote down an id, the texts are searched for titles.
        link = None if any(map(examples.has_ids, dialogues)) else Linker(what).items
        for dialogue in dialogues:
            split = dialogue["split"] if name == "input" else name
            found[split] += examples.of_dialogue(dialogue, resolve, link)
    if not found["valid"]:
        kept = {turn.dialogue_id for turn in found["train"] if held_out(turn.dialogue_id, settings.valid_share)}
        found["valid"] = [turn for turn in found["train"] if turn.dialogue_id in kept]
        found["train"] = [turn for turn in found["train"] if turn.dialogue_id not in kept]
    if not any(turn.targets for turn in found["train"]):
        raise InputError("not one turn to learn from names a film of the catalogue")
    return found


def _dialogues(
    settings: RecommenderConfig, name: str, source: reading.Source, rejected: list[reading.Rejected]
) -> Iterator[dict[str, Any]]:
    """The dialogues of a source, as many of the split train as are wanted."""
    learnt = 0
    for row in reading.read(source, max_message_chars=settings.max_message_chars, number_rows=False):
        if isinstance(row, reading.Rejected):
            rejected.append(row)
            continue
        if row.kind == "turn":
            raise InputError(f"{source.files[0]} holds turns; a recommender is trained on whole dialogues")
        if name == "input" and row.value["split"] == "train":
            learnt += 1
            if settings.limit is not None and learnt > settings.limit:
                continue
        yield row.value


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
    np.save(work / TOGETHER, together)
    np.save(work / "named.npy", matrix.sum(0))
    edges, popularity = model.edges_of(what.graph, len(what)), _recommended(asked["train"], len(what))
    model.Given(edges, vectors[len(said) :], popularity).save(work / worker.GIVEN)
    for split in SPLITS:
        if not asked[split]:
            continue
        named = baselines.mentioned(asked[split], len(what))
        scores = without_own(asked[split], named, matrix, dialogues, settings) if split == "train" else named @ together
        target, weight = targets(asked[split], weighted=split == "train")
        data = worker.Data(features.of_turns(asked[split], numbers), scores.astype(np.float16), target, weight)
        worker.write_data(work / split, data)
    # Only this run reads it again, from a directory of its own.
    (work / TURNS).write_bytes(pickle.dumps((turns, asked)))
    if rejected:
        content = b"".join(row.as_json() for row in rejected)
        storage.write_bytes(storage.join(settings.output, "quarantine.jsonl"), content)
    storage.write_json(
        work / DATA,
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
    with progress.bar("sentences", total=len(texts)) as bar:
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


def targets(asked: Sequence[Turn], *, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Items of every turn and their weights, (M, T) each; -1 and 0 where there are fewer."""
    most = max(len(turn.targets) for turn in asked)
    target = np.full((len(asked), most), -1, dtype=np.int32)
    weight = np.zeros((len(asked), most), dtype=np.float32)
    for row, turn in enumerate(asked):
        target[row, : len(turn.targets)] = turn.targets
        known = [examples.FEEDBACK_WEIGHTS[liked] if weighted else 1.0 for liked in turn.liked]
        weight[row, : len(known)] = known
    return target, weight
