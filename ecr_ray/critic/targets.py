"""What a critic learns: the judges' merged scores, and hindsight, per turn and with where each came from.

Heads are the rubric's aspects, with hindsight `reaction` (how content the seeker was, as a reader of the next message
or people themselves said) and `liked` (of the films that the reply named, the share that the seeker's form says was
liked), and last `overall`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import prompts, storage
from ecr_ray.data import ratings, redial
from ecr_ray.data.ratings import Rated, scaled
from ecr_ray.data.reading import InputError
from ecr_ray.records import SPLITS, TURN, check_table, read_run, target_schema

HINDSIGHT = ("reaction", "liked")
OVERALL = "overall"
SATISFACTION = "satisfaction"


@dataclass
class Turn:
    """One turn with everything that is known of it; targets in 0–1, NaN where not known."""

    turn_id: str
    dialogue_id: str
    index: int
    split: str
    context: list[dict[str, str]]
    response: str
    scores: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Head → who said it: judges, reader, people, form, or several joined by +."""
    reaction_text: str = ""
    """What the seeker said next; the critic never sees it."""

    def put(self, head: str, value: float, weight: float, source: str) -> None:
        """Set one target."""
        self.scores[head], self.weights[head], self.sources[head] = value, weight, source


def read(artifacts: Sequence[str], judge_noise: float) -> tuple[str, list[Turn]]:
    """The rubric and the turns of one or more artifacts of jobs/score.py.

    Raises:
        InputError: naming file, row and field: no such artifact, several rubrics, an aspect missing, a score that is
            no number in 0–1, a turn twice or a dialogue in two splits.
    """
    rubric, turns = "", []
    first: dict[str, tuple[str, str]] = {}
    for artifact in artifacts:
        run = read_run(artifact)
        if run is None or run["stage"] != "score":
            raise InputError(f"{artifact} is not a finished artifact of jobs/score.py: score the turns first")
        if rubric and run["config"]["rubric"] != rubric:
            raise InputError(f"{artifact} is of the rubric {run['config']['rubric']}, the artifacts before of {rubric}")
        rubric = run["config"]["rubric"]
        for turn in _read_artifact(artifact, tuple(prompts.RUBRICS[rubric].aspects), judge_noise):
            seen = first.setdefault(turn.dialogue_id, (turn.split, artifact))
            if seen[0] != turn.split:
                raise InputError(
                    f"{artifact}, turn {turn.turn_id}, split: dialogue {turn.dialogue_id} is in {turn.split} here and "
                    f"in {seen[0]} in {seen[1]}: what is measured on would be learnt from"
                )
            turns.append(turn)
    _check_unique(turns)
    return rubric, turns


def _check_unique(turns: Sequence[Turn]) -> None:
    seen: set[str] = set()
    for turn in turns:
        if turn.turn_id in seen:
            raise InputError(f"turn {turn.turn_id} is in the targets twice: name every artifact once")
        seen.add(turn.turn_id)


def _read_artifact(artifact: str, aspects: tuple[str, ...], judge_noise: float) -> Iterator[Turn]:
    where = storage.join(artifact, "targets.parquet")
    table = storage.read_parquet(where)
    try:
        check_table(table, target_schema(aspects), where)
    except ValueError as error:
        raise InputError(str(error)) from error
    rows = {row["turn_id"]: (number, row) for number, row in enumerate(table.to_pylist(), start=1)}
    reactions = _reactions(artifact)
    for file in storage.list_files(storage.join(artifact, "turns"), (".parquet",)):
        for record in check_table(storage.read_parquet(file), TURN, file).to_pylist():
            if record["turn_id"] not in rows:
                raise InputError(f"{where}: turn {record['turn_id']} of {file} has no row")
            number, row = rows[record["turn_id"]]
            yield _turn(
                record, row, f"{where}, row {number} (turn {record['turn_id']})", aspects, judge_noise, reactions
            )


def _turn(
    record: Mapping[str, Any],
    row: Mapping[str, Any],
    where: str,
    aspects: tuple[str, ...],
    judge_noise: float,
    reactions: Mapping[tuple[str, int], str],
) -> Turn:
    if record["split"] not in SPLITS:
        raise InputError(f"{where}, split: {record['split']!r} is none of {', '.join(SPLITS)}")
    context = [{"role": m["role"], "text": m["text"]} for m in record["context"]]
    names = ("turn_id", "dialogue_id", "index", "split")
    turn = Turn(*(record[name] for name in names), context, record["response"])
    turn.reaction_text = reactions.get((turn.dialogue_id, turn.index), "")
    for head in (*aspects, OVERALL):
        value = row[head]
        if value is None:
            continue
        if not 0 <= value <= 1:
            raise InputError(f"{where}, {head}: {value} is not a score in 0-1")
        turn.put(head, value, judge_weight(row["judges"], row[f"{head}_spread"], judge_noise), "judges")
    liked = [value for value in record["target_liked"] if value in (0, 1)]
    if liked:
        turn.put("liked", sum(liked) / len(liked), 1.0, "form")
    return turn


def judge_weight(judges: int, spread: float | None, noise: float) -> float:
    """How much the mean of so many judges counts: in inverse proportion to its variance, (noise² + spread²) / judges.

    `noise` is the standard deviation that is assumed of one judge; it also stands in for the spread that a single
    judge does not show. Two judges who agree weigh 2, one alone ½.
    """
    seen = noise if spread is None or math.isnan(spread) else spread
    return judges * noise**2 / (noise**2 + seen**2)


def _reactions(artifact: str) -> dict[tuple[str, int], str]:
    """(dialogue, index of a turn) → the seeker's next message."""
    found = {}
    for file in storage.list_files(storage.join(artifact, "dialogues"), (".parquet",)):
        for dialogue in storage.read_parquet(file, ["dialogue_id", "messages"]).to_pylist():
            messages = redial.merge_speakers(dialogue["messages"])
            for index, message in enumerate(messages[1:]):
                if message["role"] == "seeker":
                    found[dialogue["dialogue_id"], index] = message["text"]
    return found


def reader_view(
    turns: Iterable[tuple[Sequence[dict[str, str]], str, str]],
) -> tuple[list[list[dict[str, str]]], list[str]]:
    """What a reaction reader reads, contexts and texts: the dialogue with the response, and what the seeker said next.

    Args:
        turns: (dialogue, response, the seeker's next message).
    """
    contexts, texts = [], []
    for context, response, reaction in turns:
        contexts.append([*context, {"role": "recommender", "text": response}])
        texts.append(reaction)
    return contexts, texts


def uses_people(asked: str) -> bool:
    """Whether people's ratings take part: `yes`, `no`, or `auto`, if they are there."""
    if asked != "auto":
        return asked == "yes"
    try:
        ratings.paths()
    except InputError:
        return False
    return True


def rated(turns: Sequence[Rated]) -> list[Turn]:
    """People's ratings as the targets of a reaction reader: the turn and what the seeker said next → satisfaction."""
    found = []
    for number, one in enumerate(turns):
        said = one.ratings.get("satisfaction") or one.ratings.get("overall")
        if not said or not one.reaction:
            continue
        turn = Turn(
            f"{one.dialogue_id}:{one.index}/{number}", one.dialogue_id, one.index, "train", one.context, one.response
        )
        turn.reaction_text = one.reaction
        turn.put(SATISFACTION, float(np.mean([scaled("satisfaction", value) for value in said])), len(said), "people")
        found.append(turn)
    return found


def add_people(turns: Sequence[Turn], people: Sequence[Rated]) -> int:
    """Set `reaction` to what people themselves said, where they did; how many turns that are."""
    said = {}
    for one in people:
        values = one.ratings.get("satisfaction") or one.ratings.get("overall")
        if values:
            said[_key(one.dialogue_id, one.response)] = float(np.mean([scaled("satisfaction", v) for v in values]))
    count = 0
    for turn in turns:
        value = said.get(_key(turn.dialogue_id, turn.response))
        if value is not None:
            turn.put("reaction", value, 1.0, "people")
            count += 1
    return count


def _key(dialogue_id: str, response: str) -> tuple[str, str]:
    # Both were made from the same dialogue, with their own ideas of white space.
    return dialogue_id, "".join(response.split()).lower()


def mix(turns: Sequence[Turn], hindsight_share: float) -> None:
    """Make `overall` of the judges' overall and the reaction: their weighted mean where both are known."""
    for turn in turns:
        if "reaction" not in turn.scores or not hindsight_share:
            continue
        parts = [(hindsight_share, "reaction")]
        if OVERALL in turn.scores and hindsight_share < 1:
            parts.append((1 - hindsight_share, OVERALL))
        total = sum(share for share, _ in parts)
        value, weight = (sum(share * of[head] for share, head in parts) / total for of in (turn.scores, turn.weights))
        turn.put(OVERALL, value, weight, "+".join(turn.sources[head] for _, head in reversed(parts)))


def heads(rubric: str, *, hindsight: bool) -> tuple[str, ...]:
    """The critic's heads in their order."""
    return (*prompts.RUBRICS[rubric].aspects, *(HINDSIGHT if hindsight else ()), OVERALL)


def arrays(turns: Sequence[Turn], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Targets and weights, (N, K) each; NaN and 0 where a target is not known."""
    values = np.array([[turn.scores.get(name, np.nan) for name in names] for turn in turns], dtype=np.float32)
    weights = np.array([[turn.weights.get(name, 0.0) for name in names] for turn in turns], dtype=np.float32)
    return values.reshape(-1, len(names)), weights.reshape(-1, len(names))


def table(turns: Sequence[Turn], names: Sequence[str]) -> pa.Table:
    """The targets with their weights and where they came from, as the artifact keeps them."""
    values, weights = arrays(turns, names)
    columns: dict[str, Any] = {
        name: [getattr(turn, name) for turn in turns] for name in ("turn_id", "dialogue_id", "index", "split")
    }
    for k, name in enumerate(names):
        columns[name] = pa.array(values[:, k], from_pandas=True)
        columns[f"{name}_weight"] = weights[:, k]
        columns[f"{name}_from"] = pa.array([turn.sources.get(name) for turn in turns], pa.string())
    return pa.table(columns)
