"""What `jobs/benchmark.py` runs, and how a comparison is made: the same work, in turn, each arm a process of its own.

A benchmark record is `{benchmark, command, rows: [{against, measure, ours, theirs, ratio, low, high, n, work, hardware,
versions}]}`. `ratio` is the median of the ratios of the rounds, `low` and `high` the smallest and the largest of them.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecr_ray.records import hardware, package_versions


def in_turn(arms: Mapping[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run every arm once a round, A B C A B C ..., so that a machine whose speed drifts drifts for all."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for number in range(1, rounds + 1):
        for name, arm in arms.items():
            result = arm()
            found[name].append(result)
            print(f"  round {number}/{rounds}  {name}: {short(result)}", file=sys.stderr, flush=True)
    return found


def run_arm(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`python -m module arguments` in a fresh process; its last line of output is its result as JSON.

    Raises:
        RuntimeError: it failed; the message has the end of what it printed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | dict(env or {})
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def step_times(curve: Path) -> Any:
    """A callback of transformers' trainers that writes every log with its time, a JSON line each."""
    from transformers import TrainerCallback

    class Times(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            with curve.open("a") as file:
                file.write(json.dumps({"step": state.global_step, "at": time.time(), **logs}) + "\n")

    return Times()


def row(
    against: str, measure: str, ours: Sequence[float], theirs: Sequence[float], work: str, **more: Any
) -> dict[str, Any]:
    """One comparison, from the figures of the same rounds."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "against": against,
        "measure": measure,
        "ours": round(statistics.median(ours), 4),
        "theirs": round(statistics.median(theirs), 4),
        "ratio": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "n": len(ratios),
        "work": work,
        **more,
        "hardware": hardware(),
        "versions": package_versions(),
    }


def record(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A benchmark record."""
    return {"benchmark": name, "command": sys.argv, "rows": rows}


def table(content: Mapping[str, Any]) -> str:
    """A record as a Markdown table."""
    lines = [
        "| against | measure | ours | theirs | ratio (min–max) | n | work |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in content["rows"]:
        lines.append(
            f"| {r['against']} | {r['measure']} | {r['ours']:.4g} | {r['theirs']:.4g} | **{r['ratio']:.3g}** "
            f"({r['low']:.3g}–{r['high']:.3g}) | {r['n']} | {r['work']} |"
        )
    return "\n".join(lines)


def short(result: Mapping[str, Any]) -> str:
    """Of one run, for a line of progress."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
