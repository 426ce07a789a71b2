"""How fast one core ranks a catalogue of 6,281 films after a dialogue: `python jobs/benchmark.py recommend`.

Against two peers that rank the same films after the same dialogues on the same core: retrieval by text (transformers'
feature-extraction pipeline with the same encoder, and a cosine with every film's vector) and co-occurrence alone
(EASE's scores of the named films, as a numpy matrix product). The networks have ReDial's shape and random weights: how
fast they are does not depend on them. Loading is not counted.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import benchmarks
from ecr_ray.config import RecommenderConfig
from ecr_ray.data import reading
from ecr_ray.encoders import embed, text
from ecr_ray.errors import UserError
from ecr_ray.recommender import catalogue, model, predict, train

MODULE = "ecr_ray.benchmarks.recommend"
DIALOGUES, BATCH, SHOWN = 200, 64, 10
Dialogue = list[dict[str, Any]]


def run(rounds: int) -> list[dict[str, Any]]:
    """Needs ReDial and its graph.

    Raises:
        UserError: they are not there.
    """
    if not os.environ.get("ECR_DATA_DIR"):
        raise UserError("jobs/benchmark.py recommend ranks ReDial's catalogue: set ECR_DATA_DIR")
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder))
        names = ("ours", "retrieval", "ease")
        arms = {name: (lambda name=name: benchmarks.run_arm(MODULE, name, folder, env=_ONE)) for name in names}
        found = benchmarks.in_turn(arms, rounds)
    work = f"{DIALOGUES} dialogues of ReDial's test split, 6,281 films, one core"
    rows = []
    for arm, peer in (("retrieval", "retrieval by text: transformers' pipeline and a cosine"), ("ease", "EASE alone")):
        for measure, key in _MEASURES.items():
            if key in found[arm][0]:
                ours, theirs = ([result[key] for result in found[name]] for name in ("ours", arm))
                rows.append(benchmarks.row(peer, measure, ours, theirs, work))
    return rows


_ONE = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_MEASURES = {
    "next turn of a dialogue, p50, ms": "next_ms",
    "next turn of a dialogue, p95, ms": "next_p95_ms",
    "a dialogue never seen before, p50, ms": "new_ms",
    f"dialogues/s, {BATCH} at once": "per_second",
}


def _write_model(folder: Path) -> None:
    what = catalogue.load("redial")
    settings = RecommenderConfig(catalogue="redial")
    embedder = embed.Local(settings.encoder)
    content = embedder.embed([model.content_of(item) for item in what.items])
    shape = train.shape_of(settings, what, content.shape[1])
    given = model.Given(model.edges_of(what.graph, len(what)), content, np.ones(len(what)))
    rng = np.random.default_rng(0)
    together = rng.normal(scale=0.01, size=(len(what), len(what))).astype(np.float32)
    members = [model.build(shape, given).state_dict() for _ in range(settings.members)]
    predict.save(folder, shape, members, what, content, together, settings.max_length)
    np.save(folder / "dense.npy", together)


def dialogues() -> list[Dialogue]:
    """Dialogues of the test split up to their middle, without ids: titles have to be found."""
    found = []
    rows = reading.read(reading.find("redial:test"), max_message_chars=20_000, number_rows=False)
    for row in rows:
        if isinstance(row, reading.Row) and len(row.value["messages"]) >= 8:
            said = row.value["messages"][: len(row.value["messages"]) // 2]
            found.append([{"role": m["role"], "text": m["text"]} for m in said])
        if len(found) == DIALOGUES:
            break
    return found


# --- arms -------------------------------------------------------------------------------------------------


def _timed(asked: list[Dialogue], answer: Callable[[Dialogue], object]) -> list[float]:
    found = []
    for dialogue in asked:
        began = time.perf_counter()
        answer(dialogue)
        found.append(1e3 * (time.perf_counter() - began))
    return found


def _measure(answer: Callable[[Dialogue], object], many: Callable[[list[Dialogue]], object]) -> dict[str, float]:
    """Every dialogue is asked after without its last message, which nobody has seen, then with it."""
    asked = dialogues()
    warm = asked[: DIALOGUES // 10]
    _timed(warm, answer)
    rest = asked[DIALOGUES // 10 :]
    new = _timed([dialogue[:-1] for dialogue in rest], answer)
    following = _timed(rest, answer)
    began = time.perf_counter()
    for begin in range(0, len(rest), BATCH):
        # Nobody has heard of these: every text is another one.
        many([[{**m, "text": f"{m['text']} {begin}"} for m in d] for d in rest[begin : begin + BATCH]])
    return {
        "next_ms": statistics.median(following),
        "next_p95_ms": float(np.percentile(following, 95)),
        "new_ms": statistics.median(new),
        "per_second": len(rest) / (time.perf_counter() - began),
    }


def _ours(folder: Path) -> dict[str, float]:
    recommender = predict.Recommender(folder)

    def many(asked: list[Dialogue]) -> np.ndarray:
        scores = recommender.scores([recommender.turn(dialogue) for dialogue in asked])
        return np.argpartition(-scores, SHOWN, axis=1)[:, :SHOWN]

    return _measure(lambda dialogue: recommender.recommend(dialogue, SHOWN), many)


def _retrieval(folder: Path) -> dict[str, float]:
    from transformers import pipeline

    place = text.resolve_encoder(text.MINILM)
    reader = pipeline("feature-extraction", model=place, device="cpu", tokenizer=place)
    items = np.load(folder / predict.CONTENT).astype(np.float32)

    def vectors(asked: list[Dialogue]) -> np.ndarray:
        said = [" ".join(message["text"] for message in dialogue) for dialogue in asked]
        found = reader(said, return_tensors="np", batch_size=BATCH, truncation=True, max_length=256)
        return np.stack([states[0].mean(0) for states in found])

    def many(asked: list[Dialogue]) -> np.ndarray:
        return np.argpartition(-(vectors(asked) @ items.T), SHOWN, axis=1)[:, :SHOWN]

    return _measure(lambda dialogue: many([dialogue]), many)


def _ease(folder: Path) -> dict[str, float]:
    recommender = predict.Recommender(folder)
    weights = np.load(folder / "dense.npy")

    def many(asked: list[Dialogue]) -> np.ndarray:
        named = np.zeros((len(asked), len(weights)), dtype=np.float32)
        for row, dialogue in enumerate(asked):
            named[row, recommender.turn(dialogue).mentioned] = 1
        return np.argpartition(-(named @ weights), SHOWN, axis=1)[:, :SHOWN]

    return _measure(lambda dialogue: many([dialogue]), many)


if __name__ == "__main__":
    # One core: the first one that this process may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    chosen, where = sys.argv[1:3]
    found = {"ours": _ours, "retrieval": _retrieval, "ease": _ease}[chosen](Path(where))
    print(json.dumps(found))
