"""Which stages run: pure decisions from what lies in their directories and what is asked.

A result is up to date when its settings are the same, when the results it was made from are still those that lie
there, byte for byte, and when nothing of it has changed since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ecr_ray.config import ConfigError
from ecr_ray.errors import UserError

State = Literal["nothing", "foreign", "unfinished", "damaged", "complete"]
Action = Literal["skip", "go on", "run", "refuse", "leave"]
SHOWN: Mapping[Action, str] = {
    "skip": "up to date",
    "go on": "unfinished: goes on",
    "run": "will run",
    "refuse": "cannot run",
    "leave": "not asked for",
}


class PlanError(UserError):
    """The stages cannot run as asked; nothing was started."""


@dataclass(frozen=True)
class Needs:
    """A stage, as far as a plan is concerned with it."""

    name: str
    reads: tuple[str, ...] = ()
    resumes: bool = True


@dataclass(frozen=True)
class Found:
    """What lies in a stage's directory."""

    state: State = "nothing"
    why: str = ""
    """Of `damaged` and `foreign`: what is the matter."""
    record: str = ""
    """Digest of its run.json, where it is complete."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """Stage → digest of the run.json of the result that it was begun with."""
    closed: bool = True
    """Whether the pipeline has seen its end."""
    other: str = ""
    """Of `complete`: that its settings or its input are others now. Of `unfinished`: its settings, perhaps only such as
    do not matter."""


@dataclass(frozen=True)
class Step:
    """What becomes of a stage, and why."""

    stage: str
    action: Action
    why: str = ""


def select(
    order: Sequence[str], first: str | None, last: str | None, only: Sequence[str], force: Sequence[str]
) -> tuple[str, ...]:
    """The stages that are asked for, in their order.

    Raises:
        ConfigError: there is none among them, or one that is forced is not.
    """
    begin = order.index(first) if first else 0
    end = order.index(last) if last else len(order) - 1
    chosen = tuple(name for name in order[begin : end + 1] if not only or name in only)
    if not chosen:
        raise ConfigError("--from, --until and --only leave no stage: name a first one that is not after the last")
    for name in force:
        if name not in chosen:
            raise ConfigError(f"--force {name}, but --from, --until or --only leave it out")
    return chosen


def decide(
    stages: Sequence[Needs],
    found: Mapping[str, Found],
    chosen: Sequence[str],
    force: Sequence[str] = (),
    *,
    overwrite: bool = False,
) -> list[Step]:
    """What becomes of every stage.

    Args:
        stages: in an order in which each stands after those it reads.
        found: by stage.
        chosen: the stages that are asked for.
        force: those that run even if they are up to date.
        overwrite: replace results of other settings.
    """
    steps: dict[str, Step] = {}
    for stage in stages:
        if stage.name not in chosen:
            steps[stage.name] = Step(stage.name, "leave")
            continue
        problem = _missing(stage, found, steps) or _foreign(found[stage.name])
        if problem:
            steps[stage.name] = Step(stage.name, "refuse", problem)
            continue
        steps[stage.name] = Step(stage.name, *_action(stage, found, steps, force, overwrite))
    return list(steps.values())


def _missing(stage: Needs, found: Mapping[str, Found], steps: Mapping[str, Step]) -> str:
    """What it reads that is not there and will not be."""
    for name in stage.reads:
        if steps[name].action == "leave" and found[name].state != "complete":
            return f"it reads {name}, which has no result and is not asked for"
        if steps[name].action == "refuse":
            return f"it reads {name}, which cannot run"
    return ""


def _foreign(own: Found) -> str:
    return f"{own.why}; choose another --output" if own.state == "foreign" else ""


def _action(
    stage: Needs, found: Mapping[str, Found], steps: Mapping[str, Step], force: Sequence[str], overwrite: bool
) -> tuple[Action, str]:
    own = found[stage.name]
    again = [name for name in stage.reads if steps[name].action in ("run", "go on")]
    changed = [name for name in stage.reads if own.reads.get(name) != found[name].record]
    if own.state == "nothing":
        return "run", ""
    if stage.name in force:
        return "run", "forced"
    if again:
        return "run", f"{' and '.join(again)} will have another result"
    if own.state == "damaged":
        return "run", own.why
    if changed:
        return "run", f"{' and '.join(changed)} has another result since"
    if own.state == "unfinished" or not own.closed:
        again_from_the_start = not stage.resumes or (overwrite and own.other)
        return ("run", own.other or "unfinished") if again_from_the_start else ("go on", own.other)
    if own.other:
        return ("run", own.other) if overwrite else ("refuse", f"{own.other}; --overwrite replaces it")
    return "skip", ""


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length, the first of them names, as columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
