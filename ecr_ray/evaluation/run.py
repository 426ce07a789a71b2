"""The evaluation stage: prompts, replies, judgments, talks, figures, one report; and pick up again after anything.

Below the output directory `.work/` holds what a run has so far (see runs.py).
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import prompts, runs, storage, training
from ecr_ray.config import ConfigError, EvaluateConfig, JudgeConfig
from ecr_ray.data import reading, titles
from ecr_ray.encoders import model as encoder
from ecr_ray.encoders import predict
from ecr_ray.evaluation import (
    asking,
    judged,
    lineage,
    measures,
    recommendation,
    replies,
    report,
    statistics,
    systems,
    talks,
    warnings,
)
from ecr_ray.evaluation.asking import Prompts
from ecr_ray.evaluation.measures import Replies, Values, judged_measure
from ecr_ray.evaluation.report import Found
from ecr_ray.evaluation.systems import System
from ecr_ray.models import tiny
from ecr_ray.policy import weights
from ecr_ray.recommender import catalogue, place
from ecr_ray.recommender import predict as recommender
from ecr_ray.records import RunRecord
from ecr_ray.scoring import parts

# What decides how fast the figures come, not which.
_SPEED = {"engines", "cpus_per_engine", "device", "talks_at_once", "overwrite", "compare", "retry_failures"}
_PLACE = {"profile", "config", "output"}
NONE = "none"


@dataclass(frozen=True)
class Plan:
    """What is set side by side, and who judges."""

    systems: list[System]
    judges: list[JudgeConfig]

    @property
    def chosen(self) -> dict[str, int]:
        """Systems whose answers are the best of so many."""
        return {system.name: system.tries for system in self.systems if system.tries > 1}


@dataclass(frozen=True)
class Result:
    """A finished run."""

    output: str
    run: dict[str, Any]


def check(settings: EvaluateConfig) -> Plan:
    """Everything that can be known to be wrong before any actor starts.

    Raises:
        UserError: naming what is wrong and what to write instead.
    """
    found = systems.parse(settings.systems)
    if settings.baseline not in [system.name for system in found]:
        raise ConfigError(f"--baseline {settings.baseline} is none of --systems: {', '.join(s.name for s in found)}")
    baseline = next(system for system in found if system.name == settings.baseline)
    if baseline.kind == "policy" and baseline.tries > 1:
        raise ConfigError(f"--baseline {settings.baseline}: one whose answers nobody chooses")
    for system in found:
        if system.kind == "policy":
            weights.load_tokenizer(weights.base_of(system.where), settings.pad_token)
    if any(system.tries > 1 for system in found) and settings.critic == NONE:
        raise ConfigError("best-of-N needs a --critic that chooses")
    for option in ("critic", "emotions"):
        name = getattr(settings, option)
        if name != NONE:
            encoder.find(name, "classifier" if option == "emotions" else "critic")
    if settings.titles != NONE:
        titles.load(settings.titles)
    return Plan(found, judged.chosen(settings) if settings.judges else [])


def finished(settings: EvaluateConfig) -> Result | None:
    """The result that is already there, if it was made with the same settings and nothing of it is to be asked again.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = runs.finished(settings.output, "evaluate", lambda: fingerprint(settings), overwrite=settings.overwrite)
    if run is None or (settings.retry_failures and (Path(settings.output) / runs.WORK).is_dir()):
        return None
    return Result(settings.output, run)


def fingerprint(settings: EvaluateConfig) -> dict[str, Any]:
    """Everything that decides the figures."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _SPEED | _PLACE}
    return runs.as_json(chosen | {"files": inputs(settings)})


def inputs(settings: EvaluateConfig) -> list[dict[str, Any]]:
    """Digests of everything that is read: dialogues, models, files of replies."""
    files = list(reading.find(settings.input).files)
    for system in systems.parse(settings.systems):
        if system.kind == "file":
            files.append(system.where)
        if system.kind == "policy" and (directory := Path(tiny.resolve_model(system.where))).is_dir():
            files += storage.list_files(directory, (".safetensors",))
    for option, role in (("critic", "critic"), ("emotions", "classifier")):
        if getattr(settings, option) != NONE:
            files.append(str(encoder.find(getattr(settings, option), role) / encoder.WEIGHTS))
    return [storage.digest(file) for file in dict.fromkeys(files)]


def evaluate(settings: EvaluateConfig, plan: Plan) -> Result:
    """Run the stage, or go on with it, on the connected Ray cluster.

    Raises:
        UserError: there is nothing to ask, or a system cannot be asked at all.
    """
    work = runs.claim(settings.output, fingerprint(settings), overwrite=settings.overwrite)
    timings: dict[str, float] = {}
    asked = _prompts(settings, work)
    if settings.device == "gpu" or settings.device == "auto":
        import ray

        device = training.choose_device(settings.device, ray.cluster_resources().get("GPU", 0))
    else:
        device = "cpu"
    with _timed(timings, "replies"), closing(_Critic(settings, device)) as critic:
        with closing(replies.Writers(settings, device)) as writers:
            rows, nats = _replies(settings, plan, asked, work, writers, critic)
        said = Replies.of(asked, rows)
        values = _values(settings, plan, said, rows, nats, critic)
        aligned, feelings = _feelings(settings, said)
    with _timed(timings, "judging"):
        judgments, scoring = _judgments(settings, plan, asked, rows, work)
        pairs = judged.compared(settings, plan.judges, asked, rows, work)
    with _timed(timings, "talks"):
        talked = talks.hold(settings, work)
    with _timed(timings, "figures"):
        found = _figures(settings, plan, said, values | aligned, nats, judgments, pairs, scoring, talked)
        kinds = {"feeling": feelings, "genre": _genres(settings, asked)}
        found = replace(found, kinds={k: v for k, v in kinds.items() if v}, curves=_curves(plan))
    return _finish(settings, plan, asked, rows, found, work, timings)


class _timed:
    """Adds the seconds of a block to timings."""

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._timings[self._name] = time.perf_counter() - self._began


class _Critic:
    """The critic's actors, started when they are first asked."""

    def __init__(self, settings: EvaluateConfig, device: training.Device) -> None:
        self._settings, self._device = settings, device
        self._pool: predict.Pool | None = None

    @property
    def pool(self) -> predict.Pool | None:
        """The actors; None where there is no critic."""
        if self._pool is None and self._settings.critic != NONE:
            self._pool = predict.Pool(self._settings.critic, gpus=1.0 if self._device == "gpu" else 0.0)
        return self._pool

    def make_room(self) -> None:
        """End them where others wait for their GPU; they start again when they are asked."""
        if self._device == "gpu":
            self.close()

    def close(self) -> None:
        """End them."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _prompts(settings: EvaluateConfig, work: Path) -> Prompts:
    path = work / "prompts.parquet"
    if not path.with_suffix(".json").exists():
        asking.write(asking.choose(settings), path)
    return asking.read(path)


# --- replies ----------------------------------------------------------------------------------------------


def _replies(
    settings: EvaluateConfig, plan: Plan, asked: Prompts, work: Path, writers: replies.Writers, critic: _Critic
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[float, int] | None]]]:
    """All replies, and under the baseline's model their log-likelihood, by system along the prompts."""
    policies = [system for system in plan.systems if system.kind == "policy"]
    models = {where: replies.load_model(settings, where, asked, work) for where in {s.where for s in policies}}
    answers = {}
    for where, model in models.items():
        tries = max(system.tries for system in policies if system.where == where)
        answers[where] = replies.sample(settings, model, tries, asked, work, writers)
    writers.make_room()
    rows: list[dict[str, Any]] = []
    for system in plan.systems:
        if system.kind == "policy":
            rows += replies.of_policy(system, models[system.where], answers[system.where], asked, critic.pool)
        elif system.kind == "people":
            rows += replies.of_people(system, asked)
        elif system.kind == "file":
            rows += replies.of_file(system, asked)
        else:
            rows += replies.of_endpoint(system, settings, asked, work)
    baseline = next(system for system in plan.systems if system.name == settings.baseline)
    if baseline.kind != "policy":
        return rows, {}
    model = models[baseline.where]
    speaks = {s.name for s in policies if _same_words(models[s.where].tokenizer, model.tokenizer)}
    nats = _likelihood(settings, model, rows, speaks, asked, work, writers, critic)
    found: dict[str, list[tuple[float, int] | None]] = {}
    for row in rows:
        found.setdefault(row["system"], []).append(nats.get((row["system"], row["turn_id"])))
    return rows, found


def _likelihood(
    settings: EvaluateConfig,
    model: replies.Model,
    rows: Sequence[Mapping[str, Any]],
    speaks: set[str],
    asked: Prompts,
    work: Path,
    writers: replies.Writers,
    critic: _Critic,
) -> dict[tuple[str, str], tuple[float, int] | None]:
    """(nats, tokens) of replies under a model, by system and turn; only what is not known yet is computed.

    Args:
        speaks: systems whose tokens are the model's own.
    """
    path = work / "likelihoods.json"
    stored = storage.read_json(path) if path.exists() else []
    known = {(system, turn): tuple(value) if value else None for system, turn, value in stored}
    missing = [r for r in rows if r["status"] == replies.OK and (r["system"], r["turn_id"]) not in known]
    if missing:
        critic.make_room()
        own = [{**row, "own": row["tokens"] if row["system"] in speaks else None} for row in missing]
        values = replies.likelihood(settings, model, own, asked, writers)
        known |= {(r["system"], r["turn_id"]): value for r, value in zip(missing, values, strict=True)}
        storage.write_json(path, [[*key, value] for key, value in known.items()])
    return known


def _same_words(one: Any, other: Any) -> bool:
    return one.get_vocab() == other.get_vocab()


# --- values -----------------------------------------------------------------------------------------------


def _values(
    settings: EvaluateConfig,
    plan: Plan,
    said: Replies,
    rows: Sequence[Mapping[str, Any]],
    nats: Mapping[str, Sequence[tuple[float, int] | None]],
    critic: _Critic,
) -> Values:
    values = measures.of_texts(said, titles.load(settings.titles) if settings.titles != NONE else None)
    if settings.temperature == 1.0:
        values |= _divergence(settings, plan.chosen, rows, nats)
    if critic.pool is not None:
        values |= _climbed(said, critic.pool)
    return values


def _divergence(
    settings: EvaluateConfig,
    chosen: Mapping[str, int],
    rows: Sequence[Mapping[str, Any]],
    nats: Mapping[str, Sequence[tuple[float, int] | None]],
) -> Values:
    """Of every answer that a policy drew, log p(policy) − log p(baseline): its mean is the KL, in nats an answer."""
    own: dict[str, list[float]] = {}
    for row in rows:
        own.setdefault(row["system"], []).append(np.nan if row["log_prob"] is None else row["log_prob"])
    found = {}
    for system, logs in own.items():
        # Token by token the best of several answers is the policy's own: what choosing adds is not seen there.
        once = system not in chosen
        if once and system != settings.baseline and system in nats and not np.isnan(logs).all():
            theirs = [np.nan if value is None else value[0] for value in nats[system]]
            found[system] = np.array(logs) - np.array(theirs)
    return {f"KL from {settings.baseline}, nats an answer": found} if found else {}


def _feelings(settings: EvaluateConfig, said: Replies) -> tuple[Values, list[str]]:
    """How well replies answer feelings, and what the classifier reads in every seeker's last message."""
    if settings.emotions == NONE:
        return {}, []
    reader = predict.Local(settings.emotions)

    def read(texts: Sequence[str | None]) -> np.ndarray:
        known = [n for n, text in enumerate(texts) if text]
        found = np.full((len(texts), len(reader.shape.heads)), np.nan)
        found[known] = reader.predict_ids(reader.reader.encode_alone([texts[n] for n in known])).mean_NK
        return found

    seeker = read([_last_of_seeker(row["context"]) for row in said.asked.rows])
    aligned = {system: measures.alignment(seeker, read(texts)) for system, texts in said.texts.items()}
    return {"emotion alignment, cosine over chance": aligned}, [reader.shape.heads[k] for k in seeker.argmax(1)]


def _last_of_seeker(context: Sequence[Mapping[str, str]]) -> str:
    return next(message["text"] for message in reversed(context) if message["role"] == "seeker")


def _genres(settings: EvaluateConfig, asked: Prompts) -> list[str]:
    """The first genre of the film that people recommended there; empty where nobody knows."""
    if settings.recommender == NONE:
        return []
    what = catalogue.read(place.of(settings.recommender) / recommender.CATALOGUE)
    numbers = what.numbers()
    genres = {n: [fact.name for fact in item.facts if fact.relation == "genre"] for n, item in enumerate(what.items)}
    return [
        next((genres[numbers[film]][0] for film in row["target_movie_ids"] if genres.get(numbers.get(film, -1))), "")
        for row in asked.rows
    ]


def _curves(plan: Plan) -> dict[str, list[tuple[float, float]]]:
    """Of every system that PPO made here, (KL, critic's opinion) on its held-out prompts at every look."""
    found = {}
    for system in plan.systems:
        path = Path(system.where).parent / "samples.parquet"
        if system.kind != "policy" or system.tries > 1 or not path.is_file():
            continue
        table = storage.read_parquet(path)
        if {"step", "kl", "opinion"} <= set(table.column_names):
            looks = table.group_by("step").aggregate([("kl", "mean"), ("opinion", "mean")]).sort_by("step")
            found[system.name] = list(zip(looks["kl_mean"].to_pylist(), looks["opinion_mean"].to_pylist(), strict=True))
    return found


def _climbed(said: Replies, pool: predict.Pool) -> Values:
    found = {}
    for system in said.texts:
        at, texts = said.present(system)
        contexts = [said.asked.rows[n]["context"] for n in at]
        found[system] = said.along(system, pool.predict(contexts, texts).of("overall"))
    return {warnings.CLIMBED: found}


def _judgments(
    settings: EvaluateConfig, plan: Plan, asked: Prompts, rows: Sequence[Mapping[str, Any]], work: Path
) -> tuple[pa.Table, dict[str, Any]]:
    if not plan.judges:
        return judged.nobody(settings.rubric), {"judges": [], "agreement": []}
    return judged.alone(settings, plan.judges, asked, rows, work)


# --- figures ----------------------------------------------------------------------------------------------


def _figures(
    settings: EvaluateConfig,
    plan: Plan,
    said: Replies,
    values: Values,
    nats: Mapping[str, Sequence[tuple[float, int] | None]],
    judgments: pa.Table,
    pairs: pa.Table,
    scoring: Mapping[str, Any],
    talked: Any,
) -> Found:
    how = {"seed": settings.seed, "resamples": settings.bootstrap}
    aspects = tuple(prompts.RUBRICS[settings.rubric].aspects)
    rated = measures.of_judges(said, judgments.to_pylist(), aspects)
    known = titles.load(settings.titles) if settings.titles != NONE else None
    means = measures.figures(values, rated, said, how) + measures.over_corpus(said, known, nats, how)
    means += [measures.choosing(name, tries, said.asked.groups) for name, tries in plan.chosen.items()]
    differences = measures.differences(values, rated, settings.baseline, said.asked.groups, how)
    values = values | rated
    names = [judge.name for judge in plan.judges]
    means += measures.at_equal_length(names, values, settings.baseline, said, how)
    teachers = lineage.teachers(settings.critic) if settings.critic != NONE else set()
    length = {name: _length_bias(name, said, values, how) for name in names}
    position = {name: bias for name in names if (bias := _position_bias(name, pairs, how))}
    overlaps = {
        system.name: lineage.overlap(system.where, said.asked.groups.tolist())
        for system in plan.systems
        if system.kind == "policy"
    }
    independent = [name for name in names if name not in teachers]
    told = (
        warnings.of_training(overlaps)
        + warnings.of_texts(said)
        + warnings.of_judges(scoring["judges"], teachers, length, position)
        + warnings.of_length(means, differences, names)
        + warnings.of_gains(differences, independent)
        + warnings.of_users(talked.figures)
        + warnings.of_broken(talked.broken)
    )
    return Found(
        values=values,
        figures=means,
        comparisons=differences,
        strengths=[figure for name in names for figure in _strengths(name, plan, pairs, how)],
        biases=[figure for figure in (*length.values(), *position.values()) if figure],
        warnings=told,
        teachers=teachers,
        judgments=judgments,
        pairs=pairs,
        scoring=dict(scoring),
        talks=talked,
    )


def _length_bias(judge: str, said: Replies, values: Values, how: Mapping[str, Any]) -> statistics.Figure | None:
    measure = judged_measure(judge)
    if measure not in values or len(said.texts) < 2:
        return None
    ratings, words = (np.concatenate([values[name][s] for s in said.texts]) for name in (measure, "words"))
    numbers = np.tile(np.arange(len(said.asked.rows)), len(said.texts))
    groups = np.tile(said.asked.groups, len(said.texts))
    return statistics.length_bias(judge, ratings, words, numbers, groups, **how)


def _position_bias(judge: str, pairs: pa.Table, how: Mapping[str, Any]) -> statistics.Figure | None:
    lean_N, groups_N = judged.position_bias(pairs, judge, "overall")
    if not len(lean_N):
        return None
    return statistics.figure("lean to the second of two, both orders", judge, lean_N, groups_N, **how)


def _strengths(judge: str, plan: Plan, pairs: pa.Table, how: Mapping[str, Any]) -> list[statistics.Figure]:
    found = judged.shares(pairs, judge, "overall")
    if not found:
        return []
    return statistics.strengths(f"Elo by {judge}", found, [system.name for system in plan.systems], **how)


# --- the artifact -----------------------------------------------------------------------------------------


def _finish(
    settings: EvaluateConfig,
    plan: Plan,
    asked: Prompts,
    rows: Sequence[Mapping[str, Any]],
    found: Found,
    work: Path,
    timings: dict[str, float],
) -> Result:
    output = Path(storage.absolute(settings.output))
    # Where failures were asked again there is one already, of what is replaced now.
    storage.remove(output / "run.json")
    shutil.copy(work / "prompts.parquet", output / "prompts.parquet")
    storage.write_parquet(output / "replies.parquet", pa.Table.from_pylist(list(rows), schema=replies.REPLIES))
    storage.write_parquet(output / "values.parquet", pa.Table.from_pylist(measures.rows_of(found.values, asked)))
    storage.write_parquet(output / "judgments.parquet", found.judgments)
    storage.write_parquet(output / "pairs.parquet", found.pairs)
    if found.talks.table is not None:
        storage.write_parquet(output / "conversations.parquet", found.talks.table)
    nodes = [node for system in plan.systems if system.kind == "policy" and (node := lineage.of(system.where))]
    recommended = recommendation.figures(settings.recommender)
    nodes += [node] if (node := recommendation.node(settings.recommender)) else []
    unanswered = _unanswered(rows, found)
    record = RunRecord(
        stage="evaluate",
        config=asdict(settings),
        seed=settings.seed,
        inputs=inputs(settings),
        rows={
            "prompts": len(asked.rows),
            "dialogues": len(set(asked.groups.tolist())),
            "replies": sum(row["status"] == replies.OK for row in rows),
            "judgments": found.judgments.num_rows,
            "withheld": sum(bool(figure.withheld) for figure in found.figures if figure.withheld != measures.REFERENCE),
            "quarantined": asked.quarantined,
        },
        failures=asked.left_out | _failures(rows),
        timings=timings,
        details={
            "fingerprint": fingerprint(settings),
            **found.as_json(),
            "unanswered": unanswered,
            "recommendation": recommended,
            "lineage": lineage.table(nodes),
        },
    )
    report.write(output, record.as_dict(), found, asked, rows)
    run = record.write(output)
    # With what is known, so that only the rest is asked when it is asked again.
    if not unanswered:
        shutil.rmtree(work)
    return Result(settings.output, run)


def _unanswered(rows: Sequence[Mapping[str, Any]], found: Found) -> dict[str, int]:
    """How much got no answer that it may get if it is asked again."""
    talks = [] if found.talks.table is None else found.talks.table["status"].to_pylist()
    counts = {
        "replies": sum(row["status"] not in replies.SETTLED for row in rows),
        "judgments": sum(
            status not in (parts.OK, *parts.HOPELESS)
            for table in (found.judgments, found.pairs)
            for status in table["status"].to_pylist()
        ),
        "talks": sum(status != parts.OK for status in talks),
    }
    return {what: count for what, count in counts.items() if count}


def _failures(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if row["status"] != replies.OK:
            key = f"{row['system']}: {row['status']}"
            found[key] = found.get(key, 0) + 1
    return found
