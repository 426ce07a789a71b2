"""What a PPO run shows: its curve, its answers beside those of the policy before, and a page that grows as it goes."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import pages, storage
from ecr_ray.config import PpoConfig
from ecr_ray.policy.ppo import worker
from ecr_ray.policy.ppo.questions import Question
from ecr_ray.records import RunRecord
from ecr_ray.scoring.agreement import with_interval

RESAMPLES = 1000
SHOWN_ANSWERS = 12
LOOK_S = 5.0
# Figure of the curve → what stands beside its plot.
PLOTS = {
    "reward": "reward of the step's answers, and of the held-out ones",
    "kl": "KL from the policy before PPO, nats an answer",
    "entropy": "entropy, nats a token",
    "tokens": "tokens an answer",
    "ended_share": "share of answers that end by themselves",
    "distinct_2": "distinct-2 over the step's answers",
    "clip_fraction": "share of tokens whose ratio was clipped",
    "explained_variance": "explained variance of the returns",
}


def read_curve(path: Path) -> pa.Table:
    """The curve as a table, a row a step; of a step that was done again after a crash, the last time counts."""
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        entry = json.loads(line)
        found[entry["step"]] = entry
    rows = [found[step] for step in sorted(found)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def read_samples(work: Path) -> pa.Table:
    """The answers to the held-out questions, of every look."""
    files = sorted((work / worker.SAMPLES).glob("step-*.parquet"))
    return pa.concat_tables([storage.read_parquet(file) for file in files]) if files else worker.SAMPLE.empty_table()


def result(curve: pa.Table, answers: pa.Table, done: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The run in a few figures: the policy that is kept against the one before PPO, on the same held-out questions."""
    first, kept = (of_step(answers, step) for step in (0, done["best_step"]))
    rows = curve.to_pylist()
    found: dict[str, Any] = {
        "steps": done["step"],
        "kept_step": done["best_step"],
        "scale": done["scale"],
        "held_out_before": described(first),
        "held_out_kept": described(kept),
        "gain": {name: gain(first, kept, name, seed) for name in ("opinion", "reward")},
        "kl": interval([row["kl"] for row in kept], kept, seed),
        "first_ratio_worst": max((abs(row["first_ratio"] - 1) for row in rows), default=None),
    }
    return found | {"seconds": shares(rows)}


def of_step(answers: pa.Table, step: int) -> list[dict[str, Any]]:
    """The answers of one look, in the order of the questions."""
    return [row for row in answers.to_pylist() if row["step"] == step]


def described(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means of some answers."""
    return {name: float(np.mean([row[name] for row in rows])) for name in ("opinion", "reward", "kl")} | {
        "n": len(rows)
    }


def gain(before: list[dict[str, Any]], after: list[dict[str, Any]], name: str, seed: int) -> dict[str, Any]:
    """How much better the same questions are answered, with a 95 % bootstrap interval over dialogues."""
    return interval([b[name] - a[name] for a, b in zip(before, after, strict=True)], before, seed)


def interval(values: Sequence[float], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The mean of a value of every answer, with a 95 % bootstrap interval over their dialogues."""
    _, groups_N = np.unique([row["dialogue_id"] for row in rows], return_inverse=True)
    values_N1 = np.array(values)[:, None]
    found = with_interval(
        lambda picked: float(picked[:, 0].mean()), values_N1, groups_N, resamples=RESAMPLES, seed=seed
    )
    return {**found.as_json(), "n": len(values_N1), "dialogues": int(groups_N.max()) + 1}


def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the time of all steps: the shares of its parts, and what a step took."""
    if not rows:
        return {}
    total = sum(row["seconds"] for row in rows)
    parts = {
        name: sum(row.get(f"seconds_{name}") or 0.0 for row in rows) for name in ("rollout", "reward", "learn", "sync")
    }
    rest = {"other": total - sum(parts.values())}
    return {"a_step": total / len(rows)} | {f"{name}_share": value / total for name, value in (parts | rest).items()}


def page(run: dict[str, Any], curve: pa.Table, answers: pa.Table, work: Path) -> str:
    """One self-contained HTML page about a run, finished or not."""
    asked = {q.turn_id: q for q in worker.read_questions(work / "held_out.parquet")}
    steps = sorted(set(answers["step"].to_pylist()))
    rows = curve.to_pylist()
    return pages.render(
        "ecr_ray.policy.ppo",
        "report.html",
        _number,
        run=run,
        plots=[(text, _plot(rows, name)) for name, text in PLOTS.items() if rows],
        last=rows[-1] if rows else None,
        time=shares(rows),
        answers=_beside(asked, of_step(answers, 0), of_step(answers, steps[-1]) if steps else []),
        steps=steps,
    )


def _beside(
    asked: Mapping[str, Question], before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    return [
        {"context": asked[a["turn_id"]].context[-3:], "before": a, "after": b}
        for a, b in list(zip(before, after, strict=True))[:SHOWN_ANSWERS]
    ]


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def _plot(rows: list[dict[str, Any]], name: str) -> str:
    figure, axis = pages.figure(figsize=(5, 2.2))
    axis.plot([row["step"] for row in rows], [row.get(name) for row in rows], linewidth=1, alpha=0.8)
    looked = [(row["step"], row[f"held_out_{name}"]) for row in rows if row.get(f"held_out_{name}") is not None]
    if looked:
        axis.plot(*zip(*looked, strict=True), "o-", markersize=3, linewidth=1.2, label="held out")
        axis.legend()
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    return pages.svg(figure)


class Pages:
    """Writes the page of a run that is under way, whenever it has looked at the held-out questions again."""

    def __init__(self, settings: PpoConfig, work: Path) -> None:
        self._settings, self._work = settings, work
        self._seen = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Pages":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_S):
            looks = len(list((self._work / worker.SAMPLES).glob("step-*.parquet")))
            if looks != self._seen and (self._work / worker.CURVE).exists():
                self._seen = looks
                self.write()

    def write(self) -> None:
        """The page as the run stands."""
        settings = self._settings
        record = RunRecord(stage="ppo", config=asdict(settings), seed=settings.seed).as_dict()
        curve, answers = read_curve(self._work / worker.CURVE), read_samples(self._work)
        text = page(record, curve, answers, self._work)
        storage.write_bytes(storage.join(settings.output, "summary.html"), text.encode())
