"""The judge's figures: how far its scores go with what people said of turns that it has not learnt from.

The scores come from jobs/score.py, as a user's would.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from ecr_ray.data import ratings
from ecr_ray.data.ratings import Rated
from ecr_ray.errors import UserError
from ecr_ray.models.measuring import interval
from ecr_ray.policy import judging
from ecr_ray.scoring.agreement import spearman

_ROOT = Path(__file__).parents[2]


def measure(directory: Path, seed: int) -> dict[str, Any]:
    """All figures of the judge."""
    held_out = [turn for turn in judging.rated_turns() if judging.is_held_out(turn.dialogue_id)]
    judges = {"ecr-tiny-judge": str(directory), "untrained twin": "tiny:0"}
    scores = {name: score(held_out, model) for name, model in judges.items()}
    rows = []
    for aspect in ratings.ASPECTS:
        turns = [n for n, turn in enumerate(held_out) if len(turn.ratings.get(aspect, [])) > 1]
        rows += _rows(aspect, [held_out[n] for n in turns], {k: v[turns] for k, v in scores.items()}, seed)
    return {"rows": rows, "labels": judging.LABELS, "held_out": len(held_out)}


def score(turns: Sequence[Rated], model: str) -> np.ndarray:
    """The judge's overall score of every turn, (N,); jobs/score.py gives them.

    Raises:
        UserError: the scoring failed, or left a turn out.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lines = [
            {"turn_id": f"{turn.dialogue_id}:{n}", "context": turn.context, "response": turn.response}
            for n, turn in enumerate(turns)
        ]
        (work / "turns.jsonl").write_text("\n".join(map(json.dumps, lines)))
        judge = {"model": model, "device": "cpu", "max_model_len": 2048, "max_num_seqs": 64, "dtype": "float32"}
        settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in judge.items())
        (work / "judge.toml").write_text(f"[judges.measured]\n{settings}\n")
        words = [sys.executable, str(_ROOT / "jobs" / "score.py"), "--config", str(work / "judge.toml")]
        words += ["--judges", "measured", "--input", str(work / "turns.jsonl"), "--output", str(work / "scores")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"jobs/score.py ended with {done.returncode}: {done.stderr[-2000:]}")
        table = pq.read_table(work / "scores" / "scores.parquet").to_pylist()
    by_id = {row["turn_id"]: row["overall"] for row in table}
    return np.array([by_id[line["turn_id"]] for line in lines])


def _rows(aspect: str, turns: Sequence[Rated], scores: dict[str, np.ndarray], seed: int) -> list[dict[str, Any]]:
    """Spearman and AUC against the mean of people's ratings, for the judges and for what is trivial."""
    people = np.array([np.mean(turn.ratings[aspect]) for turn in turns])
    # Of a scale from 1 to 5, three is neither: whoever is above it is satisfied.
    middle = sum(ratings.SCALES[aspect]) / 2
    groups = np.array([turn.dialogue_id for turn in turns])
    # One of them at random against the mean of the others: no judge can be asked for more.
    rng = np.random.default_rng(seed)
    one, others = np.empty(len(turns)), np.empty(len(turns))
    for n, turn in enumerate(turns):
        values = np.array(turn.ratings[aspect])
        chosen = rng.integers(len(values))
        one[n], others[n] = values[chosen], np.delete(values, chosen).mean()
    predictors = scores | {
        "words in the response": np.array([float(len(turn.response.split())) for turn in turns]),
        "the mean for every turn": np.full(len(turns), people.mean()),
    }
    rows = []

    def add(model: str, measure: str, value: Callable[[np.ndarray], float]) -> None:
        rows.append({"measure": f"{measure}, {aspect}", "model": model, **interval(value, groups, seed)})

    for model, predicted in predictors.items():
        add(model, "Spearman", lambda picked, p=predicted: spearman(np.column_stack([p[picked], people[picked]])))
        add(model, "AUC", lambda picked, p=predicted: auc(p[picked], people[picked] > middle))
    add("one person against the others", "Spearman", lambda picked: spearman(np.column_stack([one, others])[picked]))
    add("one person against the others", "AUC", lambda picked: auc(one[picked], others[picked] > middle))
    return rows


def auc(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Probability that a positive turn has the higher score than a negative one, ties counting half (Mann-Whitney)."""
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(scores_N)
    return float((ranks[positive_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))
