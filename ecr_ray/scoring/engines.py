"""One judge over many turns: Ray Data in front, vLLM engines (or an HTTP endpoint) behind, parts at the end.

Turns are read in the order of their dialogues and travel in blocks of neighbouring turns, so an engine meets a
dialogue's turns one after the other and its prefix cache pays for the dialogue once.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecr_ray.cluster import connect
from ecr_ray.config import JudgeConfig
from ecr_ray.models import tiny
from ecr_ray.records import score_schema
from ecr_ray.scoring import digits, engine_stats_actor, http_judge, orphans, parts
from ecr_ray.scoring.requests import Asker

# Tasks that only move rows: a small share of a CPU, so that a two-core machine runs them beside an engine.
LIGHT_CPUS = 0.25
# Loading a large model over a shared file system takes its time; an engine that is not there by then is an error.
ENGINE_START_S = 1800
TURN_COLUMNS = ["turn_id", "dialogue_id", "index", "context", "response"]


# (Ray dataset of turns, asker, work) → Ray dataset of score rows of those that have none yet.
Over = Callable[[Any, Asker, "Work"], Any]


@dataclass(frozen=True)
class Work:
    """What one judge has to do in one pass."""

    turns: str
    """Directory of Parquet files with turns."""
    directory: str
    """Where this judge's parts go."""
    batch_size: int
    concurrent_batches: int
    stats_actor: str | None = None


def run_pass(asker: Asker, work: Work, over: Over | None = None) -> Iterator[dict[str, int]]:
    """Score every turn that has no score yet; yields counts as parts are written.

    Args:
        over: turns → score rows, in place of what the judge's backend does.

    Yields:
        {ok, failed, prompt_tokens, answer_tokens} of one part.
    """
    import ray
    from ray.data import DataContext

    _quiet()
    context = DataContext.get_current()
    # Ray Data's own bars would fight with the job's. Polling the memory of a process that maps a whole model
    # every second costs an engine on the same cores a tenth of its speed.
    context.enable_progress_bars = False
    context.memory_usage_poll_interval_s = None
    # Without this the first engine that is ready takes every batch there is, and the others find none.
    context.wait_for_min_actors_s = ENGINE_START_S
    # Blocks are cut before anything else, so that what follows up to the engine is one task a block.
    turns = ray.data.read_parquet(work.turns, columns=TURN_COLUMNS).repartition(
        target_num_rows_per_block=work.batch_size
    )
    judged = over or {"http": _over_http, "critic": _over_critic, "vllm": _over_vllm}[asker.judge.backend]
    counted = judged(turns, asker, work).map_batches(
        _Write(work.directory, score_schema(asker.aspects)),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=LIGHT_CPUS,
    )
    for batch in counted.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _quiet() -> None:
    """Keep Ray Data's and vLLM's chatter out of the job's output; it still goes to their log files."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
    for name, level in {
        "ray.data._internal.progress": logging.ERROR,
        "ray._private.worker": logging.WARNING,
        "ray.llm": logging.WARNING,
    }.items():
        logging.getLogger(name).setLevel(level)
    # With a handler here, its modules bring none of their own, and follow this level.
    llm = logging.getLogger("ray.llm")
    if not llm.handlers:
        llm.addHandler(logging.NullHandler())


def engine_kwargs(judge: JudgeConfig, seed: int) -> dict[str, Any]:
    """The vLLM engine arguments of a judge."""
    kwargs: dict[str, Any] = {
        "dtype": judge.dtype,
        "max_model_len": judge.max_model_len,
        "max_num_seqs": judge.max_num_seqs,
        "tensor_parallel_size": judge.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "seed": seed,
    }
    if judge.quantization:
        kwargs["quantization"] = judge.quantization
    if judge.device == "cpu":
        # The worker lives in its engine's process ("uni"; see engine_env), in eager mode for a tiny model. It
        # caches prefixes by blocks: 32 tokens instead of 128 finds a third more to share in dialogues.
        kwargs |= {"distributed_executor_backend": "uni", "enforce_eager": True, "block_size": 32}
    else:
        kwargs["gpu_memory_utilization"] = judge.gpu_memory_utilization
    return kwargs | dict(judge.engine)


def engine_env(judge: JudgeConfig, stats_actor: str | None = None) -> dict[str, str]:
    """Environment variables of a judge's engines."""
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", orphans.VARIABLE: "1"}
    if stats_actor:
        env[engine_stats_actor.VARIABLE] = stats_actor
    if judge.device == "cpu":
        env["VLLM_CPU_KVCACHE_SPACE"] = str(judge.cpu_kv_cache_gib)
        # On a CPU vLLM insists on a worker process beside the engine's, and the two spin while they wait for each
        # other (a third of the machine on two cores), unless this says that there are to be no further processes.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # Left to itself vLLM keeps one core for its scheduler; on two cores that halves the model's speed.
        # With several engines, let the kernel share the cores out.
        cores = sorted(os.sched_getaffinity(0))
        env["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores)) if judge.engines == 1 else "nobind"
        env["OMP_NUM_THREADS"] = str(max(1, len(cores) // judge.engines))
        # What reads and writes the rows around an engine takes a core from it now and then.
        env |= connect.waiting(os.environ, spins=3000)
    return env


def _over_vllm(turns: Any, asker: Asker, work: Work) -> Any:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    judge = asker.judge
    gpus = {"GPU": 1} if judge.device == "gpu" else {}
    config = vLLMEngineProcessorConfig(
        model_source=tiny.resolve_model(judge.model),
        engine_kwargs=engine_kwargs(judge, asker.seed),
        batch_size=work.batch_size,
        concurrency=(judge.engines, judge.engines),
        max_concurrent_batches=work.concurrent_batches,
        # Requests wait in the engine, not in front of it: it must never run a step with an empty seat.
        max_pending_requests=2 * work.batch_size * work.concurrent_batches,
        should_continue_on_error=True,
        log_engine_metrics=False,
        placement_group_config={"bundle_per_worker": {"CPU": judge.cpus_per_engine, **gpus}},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        runtime_env={"env_vars": engine_env(judge, work.stats_actor)},
    )
    params = asker.sampling_params()
    processor = build_processor(
        config,
        preprocess=lambda row: {"sampling_params": dict(params)},
        postprocess=lambda row: _score(asker, row),
        preprocess_map_kwargs={"num_cpus": LIGHT_CPUS},
        postprocess_map_kwargs={"num_cpus": LIGHT_CPUS},
    )
    # An actor and not tasks: a tokenizer costs seconds to load, and tasks would load it in every process they meet.
    asked = turns.map_batches(
        _Ask,
        fn_constructor_args=(asker, work.directory),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=judge.engines),
        num_cpus=LIGHT_CPUS,
    )
    answered = processor(asked)
    # A row on which the engine failed comes through with the processor's own columns.
    return answered.map_batches(_Failed(asker), batch_size=None, batch_format="pyarrow", num_cpus=LIGHT_CPUS)


def _over_critic(turns: Any, asker: Asker, work: Work) -> Any:
    # A critic learns from scores and is a later stage; only who names one as a judge needs it here.
    from ecr_ray.critic import judge

    return judge.over(without_done(turns, work), asker, work.batch_size)


def _over_http(turns: Any, asker: Asker, work: Work) -> Any:
    import ray

    return without_done(turns, work).map_batches(
        http_judge.HttpJudge,
        fn_constructor_args=(asker,),
        batch_size=work.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=asker.judge.engines),
        num_cpus=LIGHT_CPUS,
        max_concurrency=work.concurrent_batches,
    )


def _score(asker: Asker, row: Mapping[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": row["num_input_tokens"], "answer_tokens": row["num_generated_tokens"]}
    try:
        return asker.score_row(row, asker.judgment(row["logprobs"]), **usage)
    except digits.AnswerError as error:
        return asker.score_row(row, None, status=error.status, reason=str(error), **usage)


def without_done(turns: Any, work: Work) -> Any:
    import ray

    done = ray.put(parts.done_ids(work.directory))
    return turns.map_batches(
        lambda batch: _undone(batch, ray.get(done)), batch_size=None, batch_format="pyarrow", num_cpus=LIGHT_CPUS
    )


def _undone(batch: pa.Table, done: pa.Array) -> pa.Table:
    """The turns that have no score yet."""
    return batch.filter(pc.invert(pc.is_in(batch["turn_id"], done)))


class _Ask:
    """Turns → tokenized requests. A turn that cannot be asked is written as failed and goes no further."""

    def __init__(self, asker: Asker, directory: str) -> None:
        self._asker, self._done, self._directory = asker, parts.done_ids(directory), directory

    def __call__(self, batch: pa.Table) -> pa.Table:
        asked, refused = [], []
        for turn in _undone(batch, self._done).to_pylist():
            row = {name: turn[name] for name in ("turn_id", "dialogue_id", "index")}
            try:
                ids, dropped = self._asker.tokens(turn["context"], turn["response"])
                asked.append({**row, "tokenized_prompt": ids, "context_dropped": dropped})
            except digits.AnswerError as error:
                refused.append(self._asker.score_row(row, None, status=error.status, reason=str(error)))
        if refused:
            parts.write(self._directory, pa.Table.from_pylist(refused, schema=score_schema(self._asker.aspects)))
        return pa.Table.from_pylist(asked, schema=_REQUEST)


class _Failed:
    """Gives rows on which the engine failed the form of a score row without scores."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def __call__(self, batch: pa.Table) -> pa.Table:
        if batch.num_rows == 0:
            return score_schema(self._asker.aspects).empty_table()
        rows = []
        for row in batch.to_pylist():
            error = row.pop("__inference_error__", "")
            rows.append(self._asker.score_row(row, None, status="engine_error", reason=error) if error else row)
        return pa.Table.from_pylist(rows, schema=score_schema(self._asker.aspects))


class _Write:
    """Writes score rows as a part and passes on only counts."""

    def __init__(self, directory: str, schema: pa.Schema) -> None:
        self._directory, self._schema = directory, schema

    def __call__(self, batch: pa.Table) -> pa.Table:
        if batch.num_rows == 0:
            return pa.table({name: pa.array([], pa.int64()) for name in _COUNTS})
        rows = batch.select(self._schema.names).cast(self._schema)
        counts = parts.write(self._directory, rows)
        tokens = {name: pc.sum(rows[name]).as_py() or 0 for name in ("prompt_tokens", "answer_tokens")}
        return pa.table({name: [value] for name, value in {**counts, **tokens}.items()})


_COUNTS = (parts.OK, parts.FAILED, "prompt_tokens", "answer_tokens")
_REQUEST = pa.schema(
    [
        ("turn_id", pa.string()),
        ("dialogue_id", pa.string()),
        ("index", pa.int32()),
        ("tokenized_prompt", pa.list_(pa.int32())),
        ("context_dropped", pa.int32()),
    ]
)
