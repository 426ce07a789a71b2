"""Where a model comes from: the run records behind it, from the policy back to the dialogues.

So a report can say which judges taught the critic that a policy climbed, and whether a policy is asked what it has
learnt from.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecr_ray import storage
from ecr_ray.data import reading
from ecr_ray.data.reading import InputError
from ecr_ray.errors import UserError
from ecr_ray.models import tiny

# Stage → settings that name what it was made from.
_FROM = {
    "ppo": ("base", "critic"),
    "sft": ("base", "adapter"),
    "critic": ("targets", "reader"),
    "score": ("input",),
    "annotate": ("input", "annotator"),
    "recommender": ("input",),
}
LEARNT = ("sft", "ppo")


@dataclass(frozen=True)
class Node:
    """A run, and those that it was made from."""

    name: str
    stage: str
    run: Mapping[str, Any]
    parents: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        """This run and all before it, each once."""
        seen: set[str] = set()
        todo = [self]
        while todo:
            node = todo.pop(0)
            key = f"{node.stage} {node.name} {node.run.get('finished')}"
            if key not in seen:
                seen.add(key)
                yield node
                todo += node.parents


def of(name: str) -> Node | None:
    """The run that made a model or artifact, by its directory or a bundled model's name; None where none is known."""
    directory = Path(_directory(name))
    for place in (directory, directory.parent):
        if (place / "run.json").is_file():
            return _node(name, json.loads((place / "run.json").read_text()), place)
    return None


def _directory(name: str) -> str:
    bundled = tiny.HERE / name
    return str(bundled) if bundled.is_dir() else name


def _node(name: str, run: Mapping[str, Any], place: Path) -> Node:
    made_from = [of(parent) for parent in _made_from(run, bundled=place.is_relative_to(tiny.HERE))]
    parents = [node for node in made_from if node is not None]
    # A bundled critic brings the records of the scores that taught it, a bundled recommender those of its emotions.
    for path in sorted([*place.glob("run-scores-*.json"), *place.glob("run-emotions-*.json")]):
        before = json.loads(path.read_text())
        parents.append(Node(before["config"]["output"], before["stage"], before))
    return Node(name, run["stage"], run, tuple(parents))


def _made_from(run: Mapping[str, Any], bundled: bool) -> Iterator[str]:
    """Names in a run's settings of what it was made from.

    Args:
        bundled: the run was made elsewhere, with directories that are other people's here.
    """
    for key in _FROM.get(run["stage"], ()):
        # Reactions are read in the dialogues: the scores' place is a setting like any other, and nothing is read there.
        if key == "targets" and run["config"].get("learn") == "reactions":
            continue
        value = run["config"].get(key)
        for name in value if isinstance(value, list) else [value]:
            if name and name != "none" and not (bundled and not (tiny.HERE / name).is_dir()):
                yield name


def teachers(critic: str) -> set[str]:
    """Names of the judges whose scores a critic learnt from, and the critic's own."""
    node = of(critic)
    found = {critic}
    for before in node.walk() if node else ():
        if before.stage == "score":
            found |= set(before.run["config"]["judges"])
    return found


@dataclass(frozen=True)
class Overlap:
    """How many of the prompts are of dialogues that a policy has learnt from; `unknown` says why nobody can tell."""

    prompts: int
    of: int
    unknown: str = ""


def overlap(policy: str, dialogues: list[str]) -> Overlap:
    """Whether a policy is asked what it has learnt from.

    Args:
        policy: a directory or a bundled model's name.
        dialogues: the dialogue of every prompt.
    """
    node = of(policy)
    if node is None:
        return Overlap(0, len(dialogues), f"{policy} has no run record")
    learnt: set[str] = set()
    unknown = ""
    for run in (before.run for before in node.walk() if before.stage in LEARNT):
        try:
            learnt |= _dialogues(run)
        except UserError as error:
            unknown = f"what {run['stage']} learnt from cannot be read again: {error}"
    return Overlap(sum(dialogue in learnt for dialogue in dialogues), len(dialogues), unknown)


def _dialogues(run: Mapping[str, Any]) -> set[str]:
    """Ids of the dialogues that a training run has learnt from.

    Raises:
        InputError: its input is not there any more, or not what it was.
    """
    settings = run["config"]
    if "recipes" in settings and "dialogue" not in settings["recipes"]:
        return set()
    source = reading.find(settings["input"])
    known = {entry["sha256"] for entry in run["inputs"]}
    for file in source.files:
        if storage.digest(file)["sha256"] not in known:
            raise InputError(f"{file} is not what it was")
    rows = reading.read(source, max_message_chars=settings["max_message_chars"], number_rows=False)
    # No training stage learns from the split `test`.
    return {row.value["dialogue_id"] for row in rows if isinstance(row, reading.Row) and row.value["split"] != "test"}


def table(nodes: list[Node]) -> list[dict[str, Any]]:
    """All runs behind some artifacts, each once, in the order of their making."""
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        for run in node.walk():
            command = run.run.get("command") or []
            found.setdefault(
                f"{run.stage} {run.name}",
                {
                    "name": run.name,
                    "stage": run.stage,
                    "finished": run.run.get("finished", ""),
                    "command": " ".join(map(str, command)),
                    "seed": run.run.get("seed"),
                    "commit": (run.run.get("code") or {}).get("commit") or "",
                    "from": [parent.name for parent in run.parents],
                    "inputs": [
                        {"path": str(entry["path"]), "sha256": entry["sha256"][:12]}
                        for entry in run.run.get("inputs", [])
                    ],
                },
            )
    return sorted(found.values(), key=lambda entry: entry["finished"])
