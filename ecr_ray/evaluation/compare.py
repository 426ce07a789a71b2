"""Two finished evaluations side by side: `jobs/evaluate.py --compare A B`.

What has the same name in both (a measure of a system) is compared; where both asked the same prompts, prompt by prompt,
which sees much smaller differences than two intervals side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import pages, storage
from ecr_ray.config import ConfigError
from ecr_ray.evaluation import statistics
from ecr_ray.evaluation.report import chance, number
from ecr_ray.evaluation.statistics import Comparison
from ecr_ray.records import read_run


@dataclass(frozen=True)
class Side:
    """One run."""

    name: str
    run: dict[str, Any]
    values: pa.Table


def write(directories: Sequence[str], output: str, resamples: int, seed: int) -> Path:
    """`compare.html` and `compare.md` below the output; the page's path.

    Raises:
        ConfigError: these are not two finished evaluations.
    """
    if len(directories) != 2:
        raise ConfigError(f"--compare takes two directories, here are {len(directories)}")
    first, second = (_read(directory) for directory in directories)
    rows = compare(first, second, resamples=resamples, seed=seed)
    target = Path(output)
    shown = {"first": first, "second": second, "rows": rows, "differ": settings_that_differ(first.run, second.run)}
    html = pages.render("ecr_ray.evaluation", "compare.html", number, run=second.run, chance=chance, **shown)
    storage.write_bytes(target / "compare.html", html.encode())
    storage.write_bytes(target / "compare.md", markdown(first, second, rows).encode())
    return target / "compare.html"


def _read(directory: str) -> Side:
    run = read_run(directory) if storage.exists(directory) else None
    if run is None or run["stage"] != "evaluate":
        raise ConfigError(f"--compare {directory}: it holds no finished run of jobs/evaluate.py")
    return Side(directory, run, storage.read_parquet(Path(directory) / "values.parquet"))


def compare(first: Side, second: Side, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """A row a measure and system that both have: both figures, and the paired difference (second less first)."""
    figures = [{(f["measure"], f["system"]): f for f in side.run["figures"]} for side in (first, second)]
    common = [key for key in figures[0] if key in figures[1]]
    differences = {(c.measure, c.system): c for c in _paired(first, second, resamples=resamples, seed=seed)}
    return [
        {
            "measure": measure,
            "system": system,
            "first": figures[0][measure, system],
            "second": figures[1][measure, system],
            "difference": differences.get((measure, system)),
        }
        for measure, system in common
    ]


def _paired(first: Side, second: Side, *, resamples: int, seed: int) -> list[Comparison]:
    sides = [_by_key(side.values) for side in (first, second)]
    found = []
    for key in sides[0]:
        if key not in sides[1]:
            continue
        turns = [turn for turn in sides[0][key] if turn in sides[1][key]]
        if not turns:
            continue
        ours, theirs = (np.array([side[key][turn][1] for turn in turns], dtype=float) for side in (sides[1], sides[0]))
        groups = np.array([sides[0][key][turn][0] for turn in turns])
        found.append(
            statistics.compare(key[0], key[1], ours, first.name, theirs, groups, seed=seed, resamples=resamples)
        )
    return statistics.adjusted(found)


def _by_key(values: pa.Table) -> dict[tuple[str, str], dict[str, tuple[str, float]]]:
    """(measure, system) → turn → (dialogue, value)."""
    found: dict[tuple[str, str], dict[str, tuple[str, float]]] = {}
    for row in values.to_pylist():
        value = np.nan if row["value"] is None else row["value"]
        found.setdefault((row["measure"], row["system"]), {})[row["turn_id"]] = (row["dialogue_id"], value)
    return found


def settings_that_differ(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """Settings and code that are not the same in both runs."""
    names = sorted(set(first["config"]) | set(second["config"]))
    rows = [{"name": name, "first": first["config"].get(name), "second": second["config"].get(name)} for name in names]
    rows.append({"name": "code", "first": first["code"]["commit"], "second": second["code"]["commit"]})
    return [row for row in rows if row["first"] != row["second"] and row["name"] != "output"]


def markdown(first: Side, second: Side, rows: Sequence[dict[str, Any]]) -> str:
    """The page's twin."""
    lines = [
        f"# {second.name} against {first.name}",
        "",
        f"| measure | system | {first.name} | {second.name} | difference, same prompts (95 %) | adjusted p |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        c = row["difference"]
        told = "– | –" if c is None or c.withheld else _told(c)
        both = " | ".join(number(row[side]["value"]) for side in ("first", "second"))
        lines.append(f"| {row['measure']} | {row['system']} | {both} | {told} |")
    return "\n".join(lines) + "\n"


def _told(c: Comparison) -> str:
    return f"{number(c.difference)} ({number(c.low)} to {number(c.high)}) | {chance(c.p_adjusted)}"
