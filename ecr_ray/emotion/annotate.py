"""The annotation's stage: whole dialogues in, the same dialogues with the emotions of every message out.

Below the output directory `.work/` holds what a run has so far (see runs.py): the dialogues, their messages, and
scored parts by message.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import prompts, runs, storage
from ecr_ray.config import AnnotateConfig
from ecr_ray.data import reading, redial
from ecr_ray.data.prepare import DIALOGUES_PER_FILE, TURNS_PER_FILE, PartWriter, Quarantine, reason_class
from ecr_ray.data.reading import InputError
from ecr_ray.emotion import annotators, measures
from ecr_ray.emotion.measures import Predicted
from ecr_ray.encoders import model
from ecr_ray.records import DIALOGUE, EMOTIONS, ROLES, TURN, RunRecord
from ecr_ray.scoring import engines, passes
from ecr_ray.scoring import run as scoring

# What decides how fast the emotions come, not which.
_SPEED = {"batch_size", "concurrent_batches", "engines", "retries", "max_failure_rate", "overwrite"}
_PLACE = {"profile", "config", "output"}
# Below the output: not `turns` or `dialogues`, which the next stage looks for.
MESSAGES = pa.schema([TURN.field(name) for name in engines.TURN_COLUMNS])
MESSAGES_PER_FILE = 2048
_RESAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """A finished run."""

    output: str
    run: dict[str, Any]


def check(settings: AnnotateConfig) -> reading.Source:
    """What will be read.

    Raises:
        UserError: it is not there, or a setting cannot be used.
    """
    annotators.choose(settings, 0)
    return reading.find(settings.input, "dialogues")


def finished(settings: AnnotateConfig, source: reading.Source) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = runs.finished(
        settings.output, "annotate", lambda: fingerprint(settings, source), overwrite=settings.overwrite
    )
    return Result(settings.output, run) if run is not None else None


def fingerprint(settings: AnnotateConfig, source: reading.Source) -> dict[str, Any]:
    """Everything that decides an emotion."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _SPEED | _PLACE}
    asker, over = annotators.choose(settings, 0)
    weights = storage.digest(str(Path(asker.judge.model) / model.WEIGHTS))["sha256"] if over else asdict(asker.judge)
    return json.loads(
        json.dumps(
            chosen
            | {
                "inputs": [storage.digest(file)["sha256"] for file in source.files],
                "annotator_is": weights,
                "prompt_version": prompts.PROMPT_VERSION,
            },
            default=dict,
        )
    )


def annotate(settings: AnnotateConfig, source: reading.Source) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: the input cannot be used.
        TooManyFailures: more messages failed than allowed; the same command tries them again.
    """
    import ray

    began = time.perf_counter()
    work = runs.claim(settings.output, fingerprint(settings, source), overwrite=settings.overwrite)
    prepared = work / "prepared.json"
    if not prepared.is_file():
        storage.write_json(prepared, _prepare(settings, source, work))
    asker, over = annotators.choose(settings, ray.cluster_resources().get("GPU", 0))
    if over is None:
        scoring.plan([asker.judge])
    found = passes.judge(
        asker,
        engines.Work(str(work / "messages"), str(work / "parts"), settings.batch_size, settings.concurrent_batches),
        _column(work / "messages", "turn_id"),
        retries=settings.retries,
        over=over,
    )
    timings = {"annotate": time.perf_counter() - began}
    problem = passes.too_many_failures([found], settings.max_failure_rate, "messages", settings.output)
    if problem:
        storage.write_parquet(Path(settings.output) / "failures.parquet", found.failures)
        raise problem
    return _finish(settings, source, work, found, timings)


def _column(directory: Path, name: str) -> pa.ChunkedArray:
    files = storage.list_files(str(directory), (".parquet",))
    return pa.concat_tables([storage.read_parquet(file, [name]) for file in files])[name]


def _prepare(settings: AnnotateConfig, source: reading.Source, work: Path) -> dict[str, Any]:
    """Write the dialogues and their messages into the work directory; how many, and why others are not there."""
    dialogues = PartWriter(str(work / "dialogues"), DIALOGUE, DIALOGUES_PER_FILE)
    messages = PartWriter(str(work / "messages"), MESSAGES, MESSAGES_PER_FILE)
    reasons: Counter[str] = Counter()
    rows = reading.read(source, max_message_chars=settings.max_message_chars, number_rows=False)
    with Quarantine(str(Path(settings.output) / "quarantine.jsonl")) as quarantine:
        for row in rows:
            if isinstance(row, reading.Rejected):
                quarantine.add(row)
                reasons[reason_class(row)] += 1
                continue
            if row.kind == "turn":
                raise InputError(f"--input {settings.input} holds turns; emotions are read in whole dialogues")
            if settings.limit is not None and dialogues.rows >= settings.limit:
                break
            dialogues.add(row.value)
            for message in _messages(row.value):
                messages.add(message)
    dialogues.close()
    messages.close()
    if not messages.rows:
        raise InputError(f"there is not one message to annotate in {settings.input}")
    return {
        "dialogues": dialogues.rows,
        "messages": messages.rows,
        "quarantined": quarantine.rows,
        "reasons": reasons,
    }


def _messages(dialogue: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row a message, as the scoring engine takes turns; the context ends with the message itself."""
    for index, message in enumerate(dialogue["messages"]):
        yield {
            "turn_id": f"{dialogue['dialogue_id']}:{index}",
            "dialogue_id": dialogue["dialogue_id"],
            "index": index,
            "context": dialogue["messages"][: index + 1],
            "response": message["text"],
        }


def _finish(
    settings: AnnotateConfig,
    source: reading.Source,
    work: Path,
    found: passes.Outcome,
    timings: dict[str, float],
) -> Result:
    """Dialogues and turns with emotions, the table of all probabilities, failures; the run record comes last."""
    output = Path(storage.absolute(settings.output))
    prepared = storage.read_json(str(work / "prepared.json"))
    columns = ["turn_id", "dialogue_id", "index", *EMOTIONS, "model"]
    storage.write_parquet(output / "emotions.parquet", found.scores.select(columns))
    storage.write_parquet(output / "failures.parquet", found.failures)
    probabilities = np.column_stack([found.scores[name].to_numpy() for name in EMOTIONS])
    by_id = dict(zip(found.scores["turn_id"].to_pylist(), probabilities, strict=True))
    counts, labelled = _write_dialogues(settings, work, output, by_id)
    record = RunRecord(
        stage="annotate",
        config=asdict(settings),
        seed=settings.seed,
        inputs=[storage.digest(file) for file in source.files],
        rows={name: prepared[name] for name in ("dialogues", "messages", "quarantined")}
        | {"failed": found.failures.num_rows},
        failures={f"input: {reason}": count for reason, count in prepared["reasons"].items()}
        | dict(Counter(found.failures["status"].to_pylist())),
        timings=timings,
        details={
            "fingerprint": fingerprint(settings, source),
            "messages_per_s": round(found.rows_now / found.seconds, 1) if found.seconds else None,
            "messages_with": counts,
            "against_labels": _against(labelled, settings.seed),
        },
    )
    run = record.write(output)
    storage.remove(str(work))
    return Result(settings.output, run)


def _write_dialogues(
    settings: AnnotateConfig, work: Path, output: Path, by_id: Mapping[str, np.ndarray]
) -> tuple[dict[str, dict[str, int]], list[tuple[np.ndarray, np.ndarray]]]:
    """Returns how many messages of each role have each emotion, and (probabilities, labels) of those that came with
    labels."""
    dialogues = PartWriter(str(output / "dialogues"), DIALOGUE, DIALOGUES_PER_FILE)
    turns = PartWriter(str(output / "turns"), TURN, TURNS_PER_FILE)
    counts = {role: dict.fromkeys(EMOTIONS, 0) for role in ROLES}
    labelled = []
    for file in storage.list_files(str(work / "dialogues"), (".parquet",)):
        for dialogue in storage.read_parquet(file).to_pylist():
            for index, message in enumerate(dialogue["messages"]):
                probability_K = by_id.get(f"{dialogue['dialogue_id']}:{index}")
                own = {emotion["label"] for emotion in message["emotions"] or ()}
                if own and probability_K is not None:
                    labelled.append((probability_K, np.array([e in own for e in EMOTIONS])))
                if not own or settings.labelled == "replace":
                    message["emotions"] = annotators.kept(probability_K, settings.keep_above)
                for emotion in message["emotions"] or ():
                    counts[message["role"]][emotion["label"]] += 1
            dialogues.add(dialogue)
            for turn in redial.to_turns(dialogue):
                turns.add(turn)
    dialogues.close()
    turns.close()
    return counts, labelled


def _against(labelled: list[tuple[np.ndarray, np.ndarray]], seed: int) -> list[dict[str, Any]]:
    """How far the annotator agrees with the labels that the input carried; an emotion counts from ½ on."""
    if not labelled:
        return []
    probability_NK, label_NK = map(np.array, zip(*labelled, strict=True))
    ours = Predicted(probability_NK, np.full(len(EMOTIONS), 0.5))
    return measures.table({"annotator": ours}, label_NK, EMOTIONS, resamples=_RESAMPLES, seed=seed)


def lines(run: dict[str, Any]) -> list[str]:
    """What a run prints at its end."""
    found = []
    for role, counts in run["messages_with"].items():
        said = ", ".join(f"{emotion} {count:,}" for emotion, count in sorted(counts.items(), key=lambda c: -c[1]))
        found.append(f"{role}: {said}")
    for row in run["against_labels"]:
        if row["emotion"] is None:
            found.append(
                f"against {row['n']:,} labels of the input, {row['measure']}: {row['value']:.3f} "
                f"({row['low']:.3f} to {row['high']:.3f})"
            )
    return [*found, *(f"  {reason}: {count}" for reason, count in run["failures"].items())]
