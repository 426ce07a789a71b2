"""One judge through all its rows: passes until every row has a score or, tried again, a reason why not."""

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecr_ray.config import JudgeConfig
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.records import score_schema
from ecr_ray.scoring import engine_stats_actor, engines, parts
from ecr_ray.scoring.progress import Progress
from ecr_ray.scoring.requests import Asker

# A rate over less than this says more about buffering than about an engine.
MIN_TIMED_S = 5.0


class TooManyFailures(UserError):
    """More judgments failed than the user allows."""

    exit_code = 4


@dataclass
class Outcome:
    """What one judge did in this run; `seconds` from its engines' first step to its last part."""

    judge: JudgeConfig
    scores: pa.Table
    failures: pa.Table
    rows_now: int = 0
    startup_s: float = 0.0
    seconds: float = 0.0
    cache: tuple[int, int] = (0, 0)

    def record(self, rubric: str) -> dict[str, Any]:
        """The judge's entry in the run record."""
        model = tiny.resolve_model(self.judge.model)
        prompt_tokens = pc.sum(self.scores["prompt_tokens"]).as_py() or 0
        answer_tokens = pc.sum(self.scores["answer_tokens"]).as_py() or 0
        rows = self.scores.num_rows
        return {
            "name": self.judge.name,
            "definition": asdict(self.judge),
            "untrained": tiny.is_untrained(model),
            "learnt_from": tiny.judge_labels(model, rubric),
            "ok": rows,
            "failed": self.failures.num_rows,
            "startup_s": round(self.startup_s, 2),
            "rows_per_s": round(self.rows_now / self.seconds, 2) if self.seconds > MIN_TIMED_S else None,
            "prompt_tokens": prompt_tokens,
            "answer_tokens_per_row": answer_tokens / rows if rows else None,
            "prefix_cache_hit_rate": self.cache[1] / self.cache[0] if self.cache[0] else None,
        }


def judge(
    asker: Asker,
    work: engines.Work,
    turn_ids: pa.ChunkedArray,
    *,
    retries: int,
    position: int = 0,
    over: engines.Over | None = None,
) -> Outcome:
    """Let one judge score what it has not scored yet, with further passes over what failed.

    Args:
        work: `directory` holds what it has scored so far.
        turn_ids: all rows, in the order of the result.
        retries: passes after the first.
        position: of its progress bar.
        over: see engines.run_pass.
    """
    outcome = Outcome(asker.judge, pa.table({}), pa.table({}))
    for attempt in range(1 + retries):
        done = len(parts.done_ids(work.directory))
        # In a new run with other settings even these may fit.
        settled = done + (len(parts.hopeless_ids(work.directory)) if attempt else 0)
        if settled == len(turn_ids):
            break
        parts.forget_failures(work.directory)
        bar = Progress(asker.judge.name, len(turn_ids), done, position)
        _run_pass(asker, work, bar, outcome, over)
        bar.close()
    ids = turn_ids.combine_chunks()
    outcome.scores, outcome.failures = parts.join(work.directory, ids, score_schema(asker.aspects))
    return outcome


def _run_pass(asker: Asker, work: engines.Work, bar: Progress, outcome: Outcome, over: engines.Over | None) -> None:
    """One pass, with its counts and times added to the outcome.

    The clock of the rate starts at the engines' first step, so that it holds everything but their start-up.
    """
    import ray

    name = f"ecr-engine-stats-{uuid.uuid4().hex[:8]}"
    stats = ray.remote(engine_stats_actor.EngineStats).options(name=name, num_cpus=0).remote()
    started = last = time.time()
    queries = hits = 0
    first_step: float | None = None
    for counts in engines.run_pass(asker, replace(work, stats_actor=name), over):
        last = time.time()
        queries, hits, first_step = ray.get(stats.totals.remote())
        bar.add(counts, (queries, hits))
        outcome.rows_now += counts[parts.OK] + counts[parts.FAILED]
    ray.kill(stats)
    begun = first_step or started
    outcome.startup_s += begun - started
    outcome.seconds += max(last - begun, 0.0)
    outcome.cache = (outcome.cache[0] + queries, outcome.cache[1] + hits)


def too_many_failures(outcomes: Sequence[Outcome], allowed: float, what: str, output: str) -> TooManyFailures | None:
    """The error of a run in which more than the share `allowed` of some judge's rows failed; None else.

    Args:
        what: the rows, as the sentence calls them.
        output: where failures.parquet is.
    """
    worst = max(outcomes, key=lambda o: o.failures.num_rows)
    failed = worst.failures.num_rows
    total = failed + worst.scores.num_rows
    if failed / total <= allowed:
        return None
    status, _ = Counter(worst.failures["status"].to_pylist()).most_common(1)[0]
    return TooManyFailures(
        f"{failed} of {total} {what} of {worst.judge.name} failed ({failed / total:.1%}; allowed {allowed:.1%}), most "
        f"often {status}: see {output}/failures.parquet. The same command tries them again; --max-failure-rate "
        "accepts them"
    )
