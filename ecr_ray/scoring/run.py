"""The scoring stage: plan, prepare, judge, merge, compare, report; and pick up again after anything.

Below the output directory `.work/` holds what a run has so far. It carries a fingerprint of everything that
decides a score, so that a resumed run and an undisturbed one end with the same table, or it is refused.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from ecr_ray import prompts, storage
from ecr_ray.cluster import inventory, metrics
from ecr_ray.config import ConfigError, JudgeConfig, ScoreConfig, load_judges, nearest
from ecr_ray.data.prepare import Prepared, write_tables
from ecr_ray.data.reading import InputError, find
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.records import RunRecord, read_run
from ecr_ray.scoring import agreement, engines, merge, passes, planner, summary
from ecr_ray.scoring.passes import Outcome
from ecr_ray.scoring.requests import Asker

WORK = ".work"


@dataclass
class Result:
    """Where the artifact is and what the job prints about it."""

    output: str
    run: Mapping[str, Any]
    lines: list[str] = field(default_factory=list)


def chosen_judges(config: ScoreConfig) -> list[JudgeConfig]:
    """The judges named in the config, with its overrides applied.

    Raises:
        ConfigError: an unknown or repeated name, or a critic of another rubric.
    """
    known = load_judges(config.profile, config.config)
    judges = []
    for name in config.judges:
        if name not in known:
            raise ConfigError(f"there is no judge {name!r}{nearest(name, list(known))}")
        overrides = {
            key: getattr(config, key)
            for key in ("engines", "tensor_parallel_size", "max_model_len", "quantization")
            if getattr(config, key) is not None
        }
        judges.append(replace(known[name], **overrides))
        if known[name].backend == "critic":
            # A critic learns from scores and is a later stage; only who names one as a judge needs it here.
            from ecr_ray.critic import judge as critic_judge

            critic_judge.check(judges[-1], config.rubric)
    if len(set(config.judges)) < len(judges) or not judges:
        raise ConfigError("--judges must name at least one judge, and none of them twice")
    return judges


def plan(judges: list[JudgeConfig]) -> bool:
    """Print what the judges need against what the connected cluster has; whether all fit at once.

    Raises:
        DoesNotFit: a judge does not fit even alone.
        UserError: a model's size cannot be found out.
    """
    nodes = inventory.nodes()
    shapes = {judge.name: _shape(judge) for judge in judges if judge.backend == "vllm"}
    print(planner.table(judges, shapes, nodes), flush=True)
    for judge in judges:
        if judge.backend == "vllm":
            planner.check(judge, shapes[judge.name], nodes)
    return planner.fit_together(judges, shapes, nodes)


def score(config: ScoreConfig, judges: list[JudgeConfig], *, side_by_side: bool) -> Result:
    """Run the stage on the connected cluster and write its artifact.

    Raises:
        InputError, ConfigError: the input or the settings cannot be used; nothing was started.
        TooManyFailures: what there is is written, but not completed: the same command goes on with the failed rows.
    """
    started = time.perf_counter()
    prepared = _prepare(config, judges)
    turns = _turn_ids(config.output)
    askers = [Asker(judge, config.rubric, config.seed) for judge in judges]
    if side_by_side and len(askers) > 1:
        pool = ThreadPoolExecutor(len(askers))
        try:
            outcomes = list(pool.map(lambda n: _judge(config, askers[n], turns["turn_id"], n), range(len(askers))))
        finally:
            # Whoever interrupts one judge does not want to wait for the others.
            pool.shutdown(wait=False, cancel_futures=True)
    else:
        outcomes = [_judge(config, asker, turns["turn_id"], 0) for asker in askers]
    problem = passes.too_many_failures(outcomes, config.max_failure_rate, "judgments", config.output)
    timings = {"judging": time.perf_counter() - started}
    result = _finish(config, prepared, turns, outcomes, timings, started, complete=problem is None)
    if problem:
        raise problem
    return result


def finished(config: ScoreConfig, judges: list[JudgeConfig]) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    run = read_run(config.output) if storage.exists(config.output) else None
    if config.overwrite:
        if run is not None and run["stage"] == "score":
            storage.remove(config.output)
        return None
    if run is None:
        return None
    if run["stage"] != "score" or run["fingerprint"] != _fingerprint(config, judges):
        raise InputError(
            f"{config.output} holds a finished run of {run['stage']} with other settings or another input: "
            "choose another --output, or replace it with --overwrite"
        )
    return Result(config.output, run, _lines(run))


def _shape(judge: JudgeConfig) -> planner.Shape:
    if judge.model in planner.KNOWN:
        return planner.KNOWN[judge.model]
    from transformers import AutoConfig

    try:
        return planner.shape_of(AutoConfig.from_pretrained(tiny.resolve_model(judge.model)).to_dict())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"judge {judge.name}: cannot read the configuration of model {judge.model!r}: {error}"
        ) from error


def _fingerprint(config: ScoreConfig, judges: list[JudgeConfig]) -> dict[str, Any]:
    """Everything that decides a score. How fast it comes (engines, batches) does not."""
    source = find(config.input)
    speed = {
        "engines",
        "tensor_parallel_size",
        "cpus_per_engine",
        "gpu_memory_utilization",
        "cpu_kv_cache_gib",
    }
    speed |= {"max_num_seqs", "max_requests", "timeout_s", "api_key_env"}
    value = {
        "inputs": [storage.digest(file)["sha256"] for file in source.files],
        "keep": source.keep,
        "rubric": f"{config.rubric}/{prompts.PROMPT_VERSION}",
        "judges": [{k: v for k, v in asdict(judge).items() if k not in speed} for judge in judges],
        **{name: getattr(config, name) for name in ("limit", "seed", "max_message_chars", "number_rows")},
    }
    # Through JSON, because it is compared with what JSON gave back.
    return json.loads(json.dumps(value, default=dict))


def _prepare(config: ScoreConfig, judges: list[JudgeConfig]) -> Prepared:
    """Turns on disk and the work directory, new or as an earlier run left them."""
    work = storage.join(config.output, WORK)
    fingerprint = _fingerprint(config, judges)
    state_file = storage.join(work, "state.json")
    if storage.exists(state_file):
        state = storage.read_json(state_file)
        if state["fingerprint"] == fingerprint:
            print(f"going on with the unfinished run in {config.output}", flush=True)
            return Prepared(**state["prepared"])
        if not config.overwrite:
            raise InputError(
                f"{config.output} holds an unfinished run with other settings or another input: "
                "repeat its command, choose another --output, or start over with --overwrite"
            )
    elif storage.exists(config.output) and storage.list_files(config.output) and not storage.exists(work):
        raise InputError(f"{config.output} exists and is not an artifact of this stage: choose another --output")
    storage.remove(config.output)
    storage.write_bytes(storage.join(work, "started"), b"")
    prepared = write_tables(
        config.input,
        config.output,
        limit=config.limit,
        max_message_chars=config.max_message_chars,
        number_rows=config.number_rows,
    )
    if not prepared.turns:
        raise InputError(f"there is not one turn to score in {config.input} ({prepared.summary()})")
    storage.write_json(state_file, {"fingerprint": fingerprint, "prepared": asdict(prepared)})
    rows = metrics.instrument("ecr_prepare_rows")
    for kind in ("dialogues", "turns", "quarantined"):
        if getattr(prepared, kind):
            rows.inc(getattr(prepared, kind), {"kind": kind})
    return prepared


def _turn_ids(output: str) -> pa.Table:
    files = storage.list_files(storage.join(output, "turns"), (".parquet",))
    return pa.concat_tables([storage.read_parquet(f, ["turn_id", "dialogue_id", "index"]) for f in files])


def _judge(config: ScoreConfig, asker: Asker, turn_ids: pa.ChunkedArray, position: int) -> Outcome:
    output = storage.absolute(config.output)
    directory = storage.join(output, WORK, asker.judge.name)
    work = engines.Work(storage.join(output, "turns"), directory, config.batch_size, config.concurrent_batches)
    return passes.judge(asker, work, turn_ids, retries=config.retries, position=position)


def _finish(
    config: ScoreConfig,
    prepared: Prepared,
    turns: pa.Table,
    outcomes: list[Outcome],
    timings: dict[str, float],
    started: float,
    *,
    complete: bool,
) -> Result:
    """Write scores, failures, targets, agreement, page and, last, the run record.

    An incomplete run leaves `run.failed.json` in place of `run.json`, and its work directory for the next try.
    """
    judges = [outcome.judge for outcome in outcomes]
    aspects = tuple(prompts.RUBRICS[config.rubric].aspects)
    tables = {outcome.judge.name: outcome.scores for outcome in outcomes}
    output = config.output
    storage.write_parquet(storage.join(output, "scores.parquet"), pa.concat_tables(tables.values()))
    failures = pa.concat_tables([outcome.failures for outcome in outcomes])
    storage.write_parquet(storage.join(output, "failures.parquet"), failures)
    targets = merge.merge(list(tables.values()), turns, aspects)
    storage.write_parquet(storage.join(output, "targets.parquet"), targets)
    compared: list[dict[str, Any]] = []
    if len(tables) > 1:
        before = time.perf_counter()
        compared = agreement.agreement(tables, aspects, resamples=config.bootstrap, seed=config.seed)
        timings["agreement"] = time.perf_counter() - before
        storage.write_json(storage.join(output, "agreement.json"), compared)
    reasons = Counter(f"{row['judge']}: {row['status']}" for row in failures.select(["judge", "status"]).to_pylist())
    record = RunRecord(
        stage="score",
        config=asdict(config),
        seed=config.seed,
        inputs=prepared.inputs,
        rows={
            "dialogues": prepared.dialogues,
            "turns": len(turns),
            "scores": sum(t.num_rows for t in tables.values()),
            "failed": failures.num_rows,
            "quarantined": prepared.quarantined,
        },
        failures={**{f"input: {k}": v for k, v in prepared.reasons.items()}, **reasons},
        timings={**timings, "total": time.perf_counter() - started},
        details={
            "judges": [outcome.record(config.rubric) for outcome in outcomes],
            "agreement": compared,
            "fingerprint": _fingerprint(config, judges),
        },
    )
    html = summary.page(record.as_dict(), tables, aspects)
    storage.write_bytes(storage.join(output, "summary.html"), html.encode())
    run = record.write(output, "run.json" if complete else "run.failed.json")
    if complete:
        storage.remove(storage.join(output, "run.failed.json"))
        storage.remove(storage.join(output, WORK))
    return Result(output, run, _lines(run))


def _lines(run: Mapping[str, Any]) -> list[str]:
    """What a run prints at its end."""
    lines = []
    for judge in run["judges"]:
        rate = f", {judge['rows_per_s']:.1f} rows/s" if judge["rows_per_s"] else ""
        cached = judge["prefix_cache_hit_rate"]
        hits = f", prefix cache {cached:.0%}" if cached is not None else ""
        noise = "  [untrained: these scores are noise]" if judge["untrained"] else ""
        lines.append(f"{judge['name']}: {judge['ok']:,} scored, {judge['failed']:,} failed{rate}{hits}{noise}")
        lines += [f"  {aspect} <- {text}" for aspect, text in (judge["learnt_from"] or {}).items()]
    lines += [f"  {reason}: {count}" for reason, count in run["failures"].items()]
    return lines
