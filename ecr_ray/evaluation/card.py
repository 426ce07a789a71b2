"""A finished evaluation in the README: its headline table and what it warns of, from its run record.

`python -m ecr_ray.evaluation.card RUN` puts a run's record where the README's table is made from.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ecr_ray
from ecr_ray.evaluation.report import headline_measures, number


def summary(run: Mapping[str, Any]) -> str:
    """As Markdown."""
    systems = [word.partition("=")[0] for word in run["config"]["systems"]]
    cells: dict[tuple[str, str], Mapping[str, Any]] = {
        (figure["measure"], figure["system"]): figure for figure in (*run["figures"], *run["strengths"])
    }
    wanted = headline_measures([j["name"] for j in run["judges"]], run["strengths"], run["config"]["baseline"])
    lines = [f"| | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for measure in wanted:
        if any((measure, system) in cells for system in systems):
            lines.append(f"| {measure} | {' | '.join(_cell(cells.get((measure, s))) for s in systems)} |")
    told = [f"- **{warning['kind']}**: {warning['text']}" for warning in run["warnings"]]
    talks = [f"| {f['measure']} | {f['system']} | {_cell(f)} | {f['n']} |" for f in run["talks"]["figures"]]
    if talks:
        talks = ["", run["talks"]["about"], "", "| | | (95 %) | talks |", "|---|---|---|---|", *talks]
    rows = run["rows"]
    note = (
        f"{rows['prompts']} prompts of {rows['dialogues']} dialogues, {run['config']['input']}, split "
        f"{run['config']['split']}; 95 % intervals over dialogues, {run['config']['bootstrap']} resamples, seed "
        f"{run['seed']}; {sum(run['timings_s'].values()) / 60:.0f} minutes on {run['hardware']['cores']} cores. "
        f"`{shlex.join(['python', *run['command']])}`"
    )
    return "\n".join([*lines, "", note, "", "What the report says before its figures:", "", *told, *talks])


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "–"
    if figure["withheld"]:
        return f"withheld: {figure['withheld']}"
    if figure["low"] is None:
        return number(figure["value"])
    return f"{number(figure['value'])} ({number(figure['low'])} to {number(figure['high'])})"


def publish(run: Path, target: Path) -> None:
    """Copy a run's record, without the places of the machine that it ran on."""
    text = (run / "run.json").read_text()
    for place, name in ((os.environ.get("ECR_DATA_DIR"), "$ECR_DATA_DIR"), (str(Path.cwd()), ".")):
        text = text.replace(place, name) if place else text
    target.write_text(text)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(ecr_ray.__file__).parent / "benchmarks" / "results" / "evaluation.json")
