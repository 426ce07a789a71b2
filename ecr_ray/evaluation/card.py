"""A finished evaluation in the README: its headline table and what it warns of, from its run record.

`python -m ecr_ray.evaluation.card RUN [NAME]` puts a run's record where the README's table NAME is made from.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ecr_ray
from ecr_ray.critic import people
from ecr_ray.evaluation.measures import judged_measure
from ecr_ray.evaluation.report import headline_measures, number
from ecr_ray.models.judge_measures import UNTRAINED
from ecr_ray.prompts import RUBRICS


def summary(run: Mapping[str, Any]) -> str:
    """The headline table, warnings and talks, as Markdown."""
    wanted = headline_measures([j["name"] for j in run["judges"]], run["strengths"], run["config"]["baseline"])
    told = ["What the report says before its figures:", "", *_warned(run)]
    return "\n".join([*_table(run, wanted), "", _note(run), "", *told, *_talks(run)])


def aspects(run: Mapping[str, Any], people: Mapping[str, Any]) -> str:
    """What a judge says aspect by aspect, warnings, talks, and how far it goes with people at all; as Markdown.

    Args:
        people: a record of `python -m ecr_ray.models.measure judge --judge ...`.
    """
    (judge,) = [judge["name"] for judge in run["judges"]]
    wanted = [judged_measure(judge, aspect) for aspect in (*RUBRICS[run["config"]["rubric"]].aspects, "overall")]
    told = ["What the report says before its figures:", "", *_warned(run)]
    parts = [*_table(run, wanted), "", _note(run), "", *told, *_talks(run), "", *_with_people(judge, people)]
    return "\n".join(parts)


def _table(run: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    systems = [word.partition("=")[0] for word in run["config"]["systems"]]
    cells: dict[tuple[str, str], Mapping[str, Any]] = {
        (figure["measure"], figure["system"]): figure for figure in (*run["figures"], *run["strengths"])
    }
    lines = [f"| | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for measure in wanted:
        if any((measure, system) in cells for system in systems):
            lines.append(f"| {measure} | {' | '.join(_cell(cells.get((measure, s))) for s in systems)} |")
    return lines


def _warned(run: Mapping[str, Any]) -> list[str]:
    return [f"- **{warning['kind']}**: {warning['text']}" for warning in run["warnings"]]


def _talks(run: Mapping[str, Any]) -> list[str]:
    rows = [f"| {f['measure']} | {f['system']} | {_cell(f)} | {f['n']} |" for f in run["talks"]["figures"]]
    return ["", run["talks"]["about"], "", "| | | (95 %) | talks |", "|---|---|---|---|", *rows] if rows else []


def _note(run: Mapping[str, Any]) -> str:
    rows = run["rows"]
    return (
        f"{rows['prompts']} prompts of {rows['dialogues']} dialogues, {run['config']['input']}, split "
        f"{run['config']['split']}; 95 % intervals over dialogues, {run['config']['bootstrap']} resamples, seed "
        f"{run['seed']}; {sum(run['timings_s'].values()) / 60:.0f} minutes on {run['hardware']['cores']} cores. "
        f"`{shlex.join(['python', *run['command']])}`"
    )


def _with_people(judge: str, record: Mapping[str, Any]) -> list[str]:
    """Spearman of the judge's scores with what people said, beside what needs no judge."""
    cells = {(row["model"], row["head"]): row for row in record["rows"] if row["measure"].startswith("Spearman")}
    heads = list(dict.fromkeys(head for _, head in cells))
    turns = [f"people's {head} ({cells[judge, head]['n']:,} turns)" for head in heads]
    lines = [
        f"How far `{judge}` goes with people who rated replies in ReDial (Spearman, 95 % over dialogues, seed "
        f"{record['seed']}; `{shlex.join(record['command'])}`):",
        "",
        f"| | {' | '.join(turns)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for model in dict.fromkeys(model for model, _ in cells if model != people.MEAN):
        name = {judge: f"{judge}: overall", UNTRAINED: "a judge with random weights"}.get(
            model, model.replace("_", " ")
        )
        lines.append(f"| {name} | {' | '.join(_rho(cells[model, head]) for head in heads)} |")
    return lines


def _rho(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


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
    run, name = Path(sys.argv[1]), (*sys.argv[2:], "evaluation")[0]
    publish(run, Path(ecr_ray.__file__).parent / "benchmarks" / "results" / f"{name}.json")
