"""What judges say of the replies: each alone, through the scoring stage; and two by two, in both orders.

A comparison is answered like a rating, a digit an aspect from 0 (the first by far) to 9 (the second by far), and read
as the expectation over the digits; so one answer costs as much as one rating, and a judge that always prefers what
stands first is seen by setting both orders side by side.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import prompts, storage
from ecr_ray.config import EvaluateConfig, JudgeConfig, ScoreConfig
from ecr_ray.evaluation.asking import Prompts
from ecr_ray.evaluation.replies import OK
from ecr_ray.records import TURN, score_schema
from ecr_ray.scoring import agreement, engines, parts, passes
from ecr_ray.scoring import run as scoring
from ecr_ray.scoring.requests import Asker

# Between a turn's id and what it is asked about; no id of a dialogue has it.
_APART = "\x1f"
CONCURRENT, BATCH = 4, 256


class PairAsker(Asker):
    """Asks a judge about two answers; a row's response holds both."""

    @property
    def instructions(self) -> prompts.Rubric:
        """What the judge is told."""
        return prompts.pair_rubric(prompts.RUBRICS[self.rubric])

    def question(self, context: Sequence[Mapping[str, Any]], response: str) -> str:
        """The dialogue and both answers."""
        first, second = json.loads(response)
        return prompts.pair_question(context, first, second)


def chosen(settings: EvaluateConfig) -> list[JudgeConfig]:
    """The judges.

    Raises:
        ConfigError: there is none of that name, or it cannot judge by this rubric.
    """
    of_scoring = {name: getattr(settings, name) for name in ("profile", "config", "judges", "rubric")}
    return scoring.chosen_judges(ScoreConfig(**of_scoring))


def alone(
    settings: EvaluateConfig, judges: list[JudgeConfig], asked: Prompts, rows: Sequence[Mapping[str, Any]], work: Path
) -> tuple[pa.Table, dict[str, Any]]:
    """Every judge's rating of every reply; those that it gave before are not asked for again.

    Returns:
        `system`, `turn_id`, `judge`, the rubric's aspects and `overall` in 0-1 (null where the judgment failed),
        `status`, `reason`; and `judges` and `agreement` as the record of a scoring run has them.
    """
    turns = [
        _turn(asked.rows[n], row["system"], row["text"])
        for n, row in sorted(_placed(asked, rows), key=lambda placed: placed[0])
        if row["status"] == OK
    ]
    outcomes = _ask([Asker(judge, settings.rubric, settings.seed) for judge in judges], turns, work / "alone")
    tables = {outcome.judge.name: outcome.scores for outcome in outcomes}
    aspects = tuple(prompts.RUBRICS[settings.rubric].aspects)
    intervals = {"resamples": settings.bootstrap, "seed": settings.seed}
    compared = agreement.agreement(tables, aspects, **intervals) if len(tables) > 1 else []
    about = {"judges": [outcome.record(settings.rubric) for outcome in outcomes], "agreement": compared}
    return _unpacked(outcomes, settings.rubric, ("system",)), about


def _ask(askers: Sequence[Asker], turns: Sequence[Mapping[str, Any]], folder: Path) -> list[passes.Outcome]:
    """What each says of every turn. Failures are not told: what is withheld is decided figure by figure.

    More turns than last time are no other run: an endpoint may have answered meanwhile what it had not.
    """
    storage.write_parquet(folder / "turns" / "part-00000.parquet", pa.Table.from_pylist(list(turns), schema=TURN))
    ids = pa.chunked_array([pa.array([turn["turn_id"] for turn in turns], pa.string())])
    found = []
    for asker in askers:
        todo = engines.Work(str(folder / "turns"), str(folder / asker.judge.name), BATCH, CONCURRENT)
        found.append(passes.judge(asker, todo, ids, retries=1))
    return found


def nobody(rubric: str) -> pa.Table:
    """The ratings where there is no judge."""
    return _unpacked([], rubric, ("system",))


def _placed(asked: Prompts, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    at = {row["turn_id"]: n for n, row in enumerate(asked.rows)}
    return [(at[row["turn_id"]], row) for row in rows]


def _turn(prompt: Mapping[str, Any], about: str, response: str) -> dict[str, Any]:
    context = [{**message, "movie_ids": [], "emotions": []} for message in prompt["context"]]
    return {
        "turn_id": f"{prompt['turn_id']}{_APART}{about}",
        "dialogue_id": prompt["dialogue_id"],
        "index": 0,
        "split": "test",
        "context": context,
        "response": response,
        "target_movie_ids": [],
        "target_liked": [],
    }


def _unpacked(outcomes: Sequence[passes.Outcome], rubric: str, names: Sequence[str]) -> pa.Table:
    """Scores and failures with what stands behind the turn's id in columns of their own."""
    none = score_schema(tuple(prompts.RUBRICS[rubric].aspects)).empty_table()
    scores = pa.concat_tables([none, *(table for outcome in outcomes for table in (outcome.scores, outcome.failures))])
    split = [turn_id.split(_APART) for turn_id in scores["turn_id"].to_pylist()]
    columns = {"turn_id": [parts[0] for parts in split]}
    columns |= {name: [parts[n + 1] for parts in split] for n, name in enumerate(names)}
    kept = ["dialogue_id", "judge", *prompts.RUBRICS[rubric].aspects, "overall", "status", "reason"]
    return pa.table(columns | {name: scores[name] for name in kept})


# --- two by two -------------------------------------------------------------------------------------------


def pairs_of(settings: EvaluateConfig, systems: Sequence[str]) -> list[tuple[str, str]]:
    """Which systems are compared."""
    if settings.pairs == "none":
        return []
    found = list(combinations(systems, 2))
    return found if settings.pairs == "all" else [pair for pair in found if settings.baseline in pair]


def compared(
    settings: EvaluateConfig,
    judges: list[JudgeConfig],
    asked: Prompts,
    rows: Sequence[Mapping[str, Any]],
    work: Path,
) -> pa.Table:
    """Every judge's comparison of every pair's replies, in both orders.

    Returns:
        `turn_id`, `first`, `second`, `judge`, the aspects and `overall`: the share that the second wins, in 0-1.
    """
    texts = {(row["system"], row["turn_id"]): row["text"] for row in rows if row["status"] == OK}
    names = list(dict.fromkeys(row["system"] for row in rows))
    turns = []
    for prompt in asked.rows[: settings.pair_prompts]:
        for pair in pairs_of(settings, names):
            both = [texts.get((name, prompt["turn_id"])) for name in pair]
            if None in both:
                continue
            for order in ((0, 1), (1, 0)):
                about = _APART.join(pair[n] for n in order)
                turns.append(_turn(prompt, about, json.dumps([both[n] for n in order])))
    askers = [PairAsker(judge, settings.rubric, settings.seed) for judge in judges if judge.backend != "critic"]
    outcomes = _ask(askers, turns, work / "pairs")
    return _unpacked(outcomes, settings.rubric, ("first", "second"))


def shares(table: pa.Table, judge: str, aspect: str) -> list[tuple[str, str, float, str]]:
    """(first, second, share that the second wins, dialogue) of a judge: the mean of both orders, of those in which
    both were answered."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in table.to_pylist():
        if row["judge"] != judge or row["status"] != parts.OK:
            continue
        a, b = sorted((row["first"], row["second"]))
        entry = found.setdefault((row["turn_id"], a, b), {"dialogue": row["dialogue_id"]})
        entry[row["first"]] = row[aspect]
    return [
        (a, b, (entry[a] + 1 - entry[b]) / 2, entry["dialogue"])
        for (_, a, b), entry in found.items()
        if a in entry and b in entry
    ]


def position_bias(table: pa.Table, judge: str, aspect: str) -> tuple[np.ndarray, np.ndarray]:
    """How far a judge leans to what stands second, over both orders of the same two replies; 0 is no bias.

    Returns:
        (N,) share won by the second, mean of both orders, less a half; and (N,) dialogues.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    dialogues: dict[tuple[str, str, str], str] = {}
    for row in table.to_pylist():
        if row["judge"] == judge and row["status"] == parts.OK:
            key = (row["turn_id"], *sorted((row["first"], row["second"])))
            found.setdefault(key, []).append(row[aspect])
            dialogues[key] = row["dialogue_id"]
    whole = [key for key, values in found.items() if len(values) == 2]
    return np.array([np.mean(found[key]) - 0.5 for key in whole]), np.array([dialogues[key] for key in whole])
