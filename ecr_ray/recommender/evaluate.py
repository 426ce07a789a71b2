"""A trained recommender beside the baselines, by both protocols, on the validation and the test split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray.recommender import baselines, examples, model, protocol, worker
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.examples import Turn
from ecr_ray.recommender.features import Texts
from ecr_ray.recommender.protocol import Examples, Ranked

OURS = "ecr_ray"
AGAIN = "with a bonus for films mentioned before"
# What a film that was named before gets on top of EASE's score, and of the network's, in nats: the protocol rewards
# what names films again. The best one on the validation split is taken.
BONUSES, OWN_BONUSES = (0.02, 0.05, 0.1, 0.2), (0.0, 0.5, 1.0, 2.0, 3.0)
# A split's turns that name a film, their examples, and the turn of every example.
Questions = tuple[list[Turn], Examples, np.ndarray]


@dataclass(frozen=True)
class Found:
    """Rows of measures by split, every example's ranks, and the bonus that was chosen for each."""

    rows: dict[str, list[dict[str, Any]]]
    ranks: pa.Table
    bonus: dict[str, float]


def network_scores(network: Any, data: worker.Data, texts: Texts) -> np.ndarray:
    """A network's scores at a split's turns, (M, I)."""
    import torch

    found = []
    with torch.inference_mode():
        items = network.items()
        for begin in range(0, len(data), worker.EVAL_TURNS):
            rows = np.arange(begin, min(begin + worker.EVAL_TURNS, len(data)))
            batch = model.batch_of(data.features.of(rows), texts, data.together_MI[rows])
            found.append(network.rank(items, *batch).numpy())
    return np.concatenate(found)


def measure(
    networks: Mapping[str, Any],
    what: Catalogue,
    turns: Mapping[str, Sequence[Turn]],
    asked: Mapping[str, Sequence[Turn]],
    work: Path,
    *,
    resamples: int,
    seed: int,
    beside: Mapping[str, str] | None = None,
) -> Found:
    """Every measure of the networks and of every baseline, on the splits that are there.

    Args:
        networks: that have learnt; `OURS` is what is reported, and every other one compared with it.
        turns: all turns by split; baselines learn from those of `train`.
        asked: those that name a film.
        work: where the workers' data is.
        beside: network → another one that it is compared with, in place of `OURS`.
    """
    texts, named_I = Texts.load(work), np.load(work / "named.npy")
    questions = {split: examples.to_rank(asked[split]) for split in ("valid", "test") if asked[split]}
    plain = {split: network_scores(networks[OURS], worker.read_data(work / split), texts) for split in questions}
    bonus = {"EASE": BONUSES[1], OURS: 0.0}
    if "valid" in questions:
        ease = baselines.Ease(turns["train"], len(what)).scores(questions["valid"][0])
        bonus = {
            "EASE": _bonus(ease, questions["valid"], BONUSES),
            OURS: _bonus(plain["valid"], questions["valid"], OWN_BONUSES),
        }
    ranked: dict[str, dict[str, Ranked]] = {split: {} for split in questions}

    def place(name: str, scores: Callable[[str], np.ndarray]) -> None:
        for split, (named, rows, turn_N) in questions.items():
            mentioned = [turn.mentioned for turn in named]
            ranked[split][name] = protocol.place(scores(split), rows, turn_N, mentioned)

    place(OURS, lambda split: plain[split])
    place(f"{OURS}, {AGAIN}", lambda split: _again(plain[split], questions[split][0], bonus[OURS]))
    for name, network in networks.items():
        if name != OURS:
            place(name, lambda split, n=network: network_scores(n, worker.read_data(work / split), texts))
    for name, make in baselines.all_of(turns["train"], what, bonus["EASE"]).items():
        made = make()
        place(name, lambda split, made=made: made.scores(questions[split][0]))
    again = {"resamples": resamples, "seed": seed}
    tables = {split: _rows(ranked[split], questions[split][1], named_I, again, beside or {}) for split in questions}
    return Found(tables, _ranks(ranked, questions, what), bonus)


def _rows(
    ranked: Mapping[str, Ranked], rows: Examples, named_I: np.ndarray, again: dict[str, int], beside: Mapping[str, str]
) -> list[dict[str, Any]]:
    found = []
    for name, places in ranked.items():
        other = beside.get(name, OURS)
        ahead = {} if name == OURS else protocol.ahead(ranked[other], places, rows, **again)
        for row in protocol.figures(places, rows, named_I, **again):
            difference = ahead.get((row["protocol"], row["measure"]))
            found.append({"model": name, **row, "ahead": difference and {"of": other, **difference}})
    return found


def _again(score_MI: np.ndarray, asked: Sequence[Turn], bonus: float) -> np.ndarray:
    """Scores with a bonus for films mentioned before."""
    return score_MI + bonus * baselines.mentioned(asked, score_MI.shape[1])


def _bonus(score_MI: np.ndarray, valid: Questions, bonuses: Sequence[float]) -> float:
    """The bonus with the best published R@10 on the validation split."""
    asked, rows, turn_N = valid
    mentioned = [turn.mentioned for turn in asked]
    found = [
        protocol.recall(protocol.place(_again(score_MI, asked, b), rows, turn_N, mentioned).rank_N, 10).mean()
        for b in bonuses
    ]
    return bonuses[int(np.argmax(found))]


def _ranks(ranked: Mapping[str, Mapping[str, Ranked]], questions: Mapping[str, Questions], what: Catalogue) -> pa.Table:
    tables = []
    for split, systems in ranked.items():
        asked, rows, turn_N = questions[split]
        columns: dict[str, Any] = {
            "split": [split] * len(rows),
            "turn_id": [f"{asked[n].dialogue_id}:{asked[n].index}" for n in turn_N],
            "item_id": [what.items[n].item_id for n in rows.target_N],
            "liked": pa.array([None if n < 0 else int(n) for n in rows.liked_N], pa.int8()),
        }
        for name, places in systems.items():
            columns[f"rank: {name}"] = places.rank_N
            columns[f"masked rank: {name}"] = pa.array(places.masked_rank_N, from_pandas=True)
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)
