"""How fast scoring is, start-up apart: against vLLM's own loop, the original system's way, itself with two engines, and
itself with the turns shuffled; and whether the driver's memory grows with the rows.

Each arm is `python -m ecr_ray.benchmarks.score ARM TURNS`.
"""

import json
import os
import random
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecr_ray import benchmarks, storage
from ecr_ray.config import ScoreConfig, load_judges
from ecr_ray.data.prepare import TURNS_PER_FILE, write_tables
from ecr_ray.models import tiny
from ecr_ray.records import TURN
from ecr_ray.scoring import engines
from ecr_ray.scoring.requests import Asker

MODULE = "ecr_ray.benchmarks.score"
JUDGE, RUBRIC = "tiny-a", "ecr-ma"
# The original asks for at most this many tokens of JSON a row ("ultra fast"), one row at a time.
ORIGINAL_TOKENS, ORIGINAL_ROWS = 64, 48
# The tiny model's cache holds the whole work, whatever its order. A 7B judge's on a 40 GB GPU holds about as much
# as this: 1,024 blocks of 32 tokens.
SMALL_CACHE = {"num_gpu_blocks_override": 1024}
LARGER_SHAPE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 10,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}

# What the peer is told in any case: how much cache it may have, and to be quiet.
PEER_ENV = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS")


def run(rounds: int, rows: int, many_rows: int) -> list[dict[str, Any]]:
    """All rows of the record. With the real ReDial test split where it is, else with the embedded sample."""
    with tempfile.TemporaryDirectory() as folder:
        turns, work = _turns(f"{folder}/ordered", rows)
        shuffled = _shuffle(turns, f"{folder}/shuffled")
        many, many_work = _turns(f"{folder}/many", many_rows)
        arms = {
            name: lambda name=name, where=where: benchmarks.run_arm(MODULE, name, where, env=_env(name))
            for name, where in {
                "ours": turns, "vllm": turns, "vllm-tuned": turns, "original": turns, "two-engines": turns,
                "small-cache": turns, "small-cache-shuffled": shuffled,
            }.items()
        }  # fmt: skip
        found = benchmarks.in_turn(arms, rounds)
        memory = benchmarks.in_turn({"many": lambda: benchmarks.run_arm(MODULE, "ours", many)}, 1)["many"][0]
    return _rows(found, memory, work, many_work)


def _rows(
    found: dict[str, list[dict[str, Any]]], memory: dict[str, Any], work: str, many_work: str
) -> list[dict[str, Any]]:
    def each(arm: str, key: str = "rows_per_s") -> list[float]:
        return [result[key] for result in found[arm]]

    ours = found["ours"][0]
    few_work, work = work, f"{work}, 4 aspects, {JUDGE}"
    small = f"{work}, a cache of 32,768 tokens"
    more = {"tokens_per_row": ours["tokens_per_row"]}
    return [
        benchmarks.row(
            "vLLM `LLM.generate`, same requests, as it starts by itself", "rows/s",
            each("ours"), each("vllm"), work, **more,
        ),
        benchmarks.row(
            "vLLM `LLM.generate`, same requests, with our CPU settings and no process but its own", "rows/s",
            each("ours"), each("vllm-tuned"), work, **more,
        ),
        benchmarks.row(
            "transformers `generate`, one row at a time, JSON answer", "rows/s", each("ours"), each("original"),
            f"{work}; theirs on {ORIGINAL_ROWS} of them",
        ),
        benchmarks.row("two engines (ours) against one", "rows/s", each("two-engines"), each("ours"), work),
        benchmarks.row(
            "turns in order (ours) against shuffled", "rows/s", each("small-cache"), each("small-cache-shuffled"),
            small,
        ),
        benchmarks.row(
            "turns in order (ours) against shuffled", "prefix-cache hit rate", each("small-cache", "hit_rate"),
            each("small-cache-shuffled", "hit_rate"), small,
        ),
        benchmarks.row(
            "one token an aspect + 2", "decoded tokens a row", each("ours", "tokens_per_row"),
            [6.0] * len(found["ours"]), work,
        ),
        benchmarks.row(
            few_work, "driver's peak memory, MiB", [memory["driver_mib"]], [each("ours", "driver_mib")[0]],
            f"{many_work} (ours) against {few_work}",
        ),
    ]  # fmt: skip


def run_larger(rounds: int, rows: int) -> list[dict[str, Any]]:
    """The comparison with vLLM's own loop again, with a model that is still far below a real judge's size.

    What the pipeline costs beside the engine is the same for every model; this shows what remains of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        turns, work = _turns(f"{folder}/ordered", rows)
        _larger_model()
        arms = {
            name: lambda name=name: benchmarks.run_arm(MODULE, name, turns, env=_env(name))
            for name in ("ours-larger", "vllm-tuned-larger")
        }
        found = benchmarks.in_turn(arms, rounds)
    ours, theirs = ([result["rows_per_s"] for result in found[name]] for name in arms)
    against = "vLLM `LLM.generate`, same requests, with our CPU settings and no process but its own"
    work = f"{work}, 4 aspects, an untrained Llama of 69 million parameters"
    return [benchmarks.row(against, "rows/s", ours, theirs, work)]


def _larger_model() -> str:
    """The directory of a Llama of 69 million parameters with the tiny model's tokenizer."""
    target = tiny.cache_dir() / "models" / f"benchmark-v{tiny.RECIPE_VERSION}-69m"
    if not target.is_dir():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny.resolve_model("tiny:0"))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as staging:
            tokenizer.save_pretrained(f"{staging}/model")
            tiny.build_model(0, tokenizer, **LARGER_SHAPE).save_pretrained(f"{staging}/model")
            Path(staging, "model").rename(target)
    return str(target)


def _env(arm: str) -> dict[str, str]:
    """The tuned peer gets the whole environment of our engines; the other finds threads and processes by itself."""
    env = engines.engine_env(load_judges("tiny", None)[JUDGE])
    if arm.startswith("vllm-tuned"):
        return env
    return {name: env[name] for name in PEER_ENV} if arm == "vllm" else {}


def _turns(folder: str, rows: int) -> tuple[str, str]:
    """Prepared turns, repeated under other ids where there are too few; the directory, and what it holds in words."""
    real = (Path(os.environ.get("ECR_DATA_DIR", "/nonexistent")) / "redial" / "test_data.jsonl").is_file()
    write_tables(
        "redial:test" if real else "sample",
        f"{folder}/once",
        limit=rows,
        max_message_chars=20_000,
        number_rows=False,
    )
    files = storage.list_files(f"{folder}/once/turns", (".parquet",))
    once = pa.concat_tables([storage.read_parquet(f) for f in files])
    tables, have = [], 0
    while have < rows:
        # A copy's texts differ in their first message, or the prefix cache would pay for it only once.
        copy = [_renamed(row, len(tables)) for row in once.slice(0, rows - have).to_pylist()]
        tables.append(pa.Table.from_pylist(copy, schema=TURN))
        have += len(copy)
    return _write(pa.concat_tables(tables), f"{folder}/turns"), f"{rows:,} {'ReDial' if real else 'sample'} turns"


def _renamed(row: dict[str, Any], copy: int) -> dict[str, Any]:
    if not copy:
        return row
    row = {
        **row,
        "turn_id": f"copy{copy}-{row['turn_id']}",
        "dialogue_id": f"copy{copy}-{row['dialogue_id']}",
    }
    hello = {"role": "seeker", "text": f"(copy {copy})", "movie_ids": [], "emotions": []}
    return {**row, "context": [hello, *row["context"]]}


def _shuffle(turns: str, folder: str) -> str:
    table = pa.concat_tables([storage.read_parquet(f) for f in storage.list_files(turns, (".parquet",))])
    order = list(range(table.num_rows))
    random.Random(0).shuffle(order)
    return _write(table.take(order), folder)


def _write(table: pa.Table, folder: str) -> str:
    for n, start in enumerate(range(0, table.num_rows, TURNS_PER_FILE)):
        storage.write_parquet(f"{folder}/part-{n:05d}.parquet", table.slice(start, TURNS_PER_FILE))
    return folder


def _asker(**changes: Any) -> Asker:
    return Asker(replace(load_judges("tiny", None)[JUDGE], **changes), RUBRIC)


def _ours(turns: str, **changes: Any) -> dict[str, Any]:
    """The pipeline as jobs/score.py runs it, from the engines' first step to the last part on disk."""
    import ray

    from ecr_ray.cluster import connect
    from ecr_ray.scoring import parts
    from ecr_ray.scoring.engine_stats_actor import EngineStats

    connect.connect()
    stats = ray.remote(EngineStats).options(name="stats", num_cpus=0).remote()
    defaults = ScoreConfig()
    rows = tokens = 0
    with tempfile.TemporaryDirectory() as folder:
        work = engines.Work(turns, folder, defaults.batch_size, defaults.concurrent_batches, "stats")
        for counts in engines.run_pass(_asker(**changes), work):
            rows, tokens = rows + counts[parts.OK], tokens + counts["answer_tokens"]
            last = time.time()
            queries, hits, first_step = ray.get(stats.totals.remote())
    return {
        "rows_per_s": rows / (last - first_step),
        "hit_rate": hits / queries,
        "tokens_per_row": tokens / rows,
        "driver_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": rows,
    }


def _requests(asker: Asker, turns: str) -> list[list[int]]:
    files = storage.list_files(turns, (".parquet",))
    return [asker.tokens(t["context"], t["response"])[0] for f in files for t in storage.read_parquet(f).to_pylist()]


def _vllm(turns: str, tuned: bool, **changes: Any) -> dict[str, Any]:
    """vLLM's offline loop on the same token ids, with the same engine arguments and sampling parameters.

    Not tuned, it chooses its executor itself (a worker process, and a core kept for its scheduler).
    """
    from vllm import LLM, SamplingParams

    asker = _asker(**changes)
    requests = [{"prompt_token_ids": ids} for ids in _requests(asker, turns)]
    kwargs = engines.engine_kwargs(asker.judge, asker.seed)
    if not tuned:
        del kwargs["distributed_executor_backend"]
    llm = LLM(tiny.resolve_model(asker.judge.model), **kwargs)
    params = SamplingParams(**asker.sampling_params())
    # The first request that asks for log-probabilities pays for what is set up once.
    llm.generate([{"prompt_token_ids": [1, 2, 3]}], params, use_tqdm=False)
    started = time.perf_counter()
    answers = llm.generate(requests, params, use_tqdm=False)
    return {"rows_per_s": len(answers) / (time.perf_counter() - started), "rows": len(answers)}


def _original(turns: str) -> dict[str, Any]:
    """The original system's way with the same weights: one row, `generate`, a JSON answer of up to 64 tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from ecr_ray import prompts

    asker = _asker()
    model = AutoModelForCausalLM.from_pretrained(tiny.resolve_model(asker.judge.model))
    rubric = prompts.RUBRICS[RUBRIC]
    table = storage.read_parquet(storage.list_files(turns, (".parquet",))[0]).slice(0, ORIGINAL_ROWS + 2)
    started = 0.0
    for n, turn in enumerate(table.to_pylist()):
        if n == 2:
            started = time.perf_counter()
        question = prompts.judge_question(turn["context"], turn["response"])
        messages = prompts.judge_messages(rubric, question, answer="json")
        text = asker.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([asker.tokenizer(text, add_special_tokens=False)["input_ids"]])
        # An untrained model would stop anywhere: it is held to the length of a JSON answer.
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.1, top_p=0.9,
            repetition_penalty=1.1,
            min_new_tokens=ORIGINAL_TOKENS, max_new_tokens=ORIGINAL_TOKENS, pad_token_id=asker.tokenizer.pad_token_id,
        )  # fmt: skip
    return {"rows_per_s": ORIGINAL_ROWS / (time.perf_counter() - started), "rows": ORIGINAL_ROWS}


ARMS = {
    "ours": _ours,
    "two-engines": lambda turns: _ours(turns, engines=2),
    "small-cache": lambda turns: _ours(turns, engine=SMALL_CACHE),
    "small-cache-shuffled": lambda turns: _ours(turns, engine=SMALL_CACHE),
    "vllm": lambda turns: _vllm(turns, tuned=False),
    "vllm-tuned": lambda turns: _vllm(turns, tuned=True),
    "original": _original,
    "ours-larger": lambda turns: _ours(turns, model=_larger_model()),
    "vllm-tuned-larger": lambda turns: _vllm(turns, tuned=True, model=_larger_model()),
}

if __name__ == "__main__":
    print("\n" + json.dumps(ARMS[sys.argv[1]](sys.argv[2])))
