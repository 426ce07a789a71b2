"""An evaluation's replies → a blinded sheet and page for every rater, and the key that stays behind.

    study/key.json            which item is which system's; readable by its owner only
    study/sheets/rater-1.csv  for a spreadsheet
    study/sheets/rater-1.html the same for a browser, without a network

Only sheets/ is for raters.
"""

import csv
import hashlib
import io
import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ecr_ray import prompts, storage
from ecr_ray.errors import UserError
from ecr_ray.evaluation import asking
from ecr_ray.evaluation.replies import OK
from ecr_ray.evaluation.study import cells, design
from ecr_ray.evaluation.study.design import MEASURES, Item
from ecr_ray.records import RunRecord, read_run

KEY, SHEETS = "key.json", "sheets"
COLUMNS = ("item", "dialogue", "reply", *MEASURES, "comment")
BOM = "\ufeff"
_REPLY_COLUMNS = ("system", "turn_id", "dialogue_id", "text", "status")


class StudyError(UserError):
    """A study that cannot be made or read."""


@dataclass(frozen=True)
class Material:
    """What can be rated: turns that every system has answered, spread over the dialogues."""

    systems: list[str]
    turns: list[dict[str, Any]]
    texts: dict[tuple[str, str], str]
    """(system, turn) → reply."""
    left_out: dict[str, int]
    """Why turns are not among them."""


def gather(run: Path, systems: Sequence[str], count: int, seed: int) -> Material:
    """Turns of a finished evaluation, and the replies to them.

    Args:
        run: the evaluation's directory.
        systems: names; all of the run's, if there is none.
        count: turns.
        seed: of which turns.

    Raises:
        StudyError: there is no such evaluation, system or turn.
    """
    if read_run(run) is None:
        raise StudyError(f"{run} is not the directory of a finished evaluation: it has no run.json")
    asked = _table(run / "prompts.parquet", ("turn_id", "dialogue_id", "context"))
    replies = _table(run / "replies.parquet", _REPLY_COLUMNS)
    there = list(dict.fromkeys(row["system"] for row in replies))
    unknown = [name for name in systems if name not in there]
    if unknown:
        raise StudyError(f"--systems {unknown[0]}: {run} has replies of {', '.join(there)}")
    names = list(dict.fromkeys(systems)) or there
    texts = _texts(replies)
    reasons = [_unfit(turn, names, texts) for turn in asked]
    fit = [turn for turn, reason in zip(asked, reasons, strict=True) if not reason]
    left_out = dict(Counter(reason for reason in reasons if reason))
    if not fit:
        raise StudyError(f"{run} has no turn to rate (left out: {told(left_out)})")
    picked = asking.spread([turn["dialogue_id"] for turn in fit], count, seed)
    return Material(names, [fit[n] for n in picked], texts, left_out)


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    if not storage.exists(path):
        raise StudyError(f"there is no {path}: --run is the directory of a finished evaluation")
    table = storage.read_parquet(path)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise StudyError(f"{path} has no column {missing[0]}")
    return table.select(list(columns)).to_pylist()


def _texts(replies: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    return {(r["system"], r["turn_id"]): r["text"].strip() for r in replies if r["status"] == OK and r["text"]}


def read_replies(run: Path) -> dict[tuple[str, str], str]:
    """(system, turn) → reply, of an evaluation.

    Raises:
        StudyError: it has none.
    """
    return _texts(_table(run / "replies.parquet", _REPLY_COLUMNS))


def _unfit(turn: Mapping[str, Any], systems: Sequence[str], texts: Mapping[tuple[str, str], str]) -> str:
    replies = [texts.get((name, turn["turn_id"])) for name in systems]
    if not all(replies):
        return "a system has no reply"
    if max(map(len, [*replies, prompts.dialogue_text(turn["context"])])) > cells.LONGEST:
        return f"a text of more than {cells.LONGEST:,} characters"
    return ""


def told(left_out: Mapping[str, int]) -> str:
    """The reasons in a line."""
    return ", ".join(f"{count} × {reason}" for reason, count in left_out.items()) or "none"


def replies_sha256(items: Sequence[Item], texts: Mapping[tuple[str, str], str]) -> str:
    """What replies a study is of."""
    keys = sorted({(item.system, item.turn_id) for item in items})
    return hashlib.sha256(json.dumps([[*key, texts.get(key)] for key in keys]).encode()).hexdigest()


def export(material: Material, output: Path, record: RunRecord, *, raters: int, repeat: float) -> list[list[Item]]:
    """Write the key, then every rater's sheet and page.

    Raises:
        StudyError: there is a study already, whose ratings a new key could not read.
    """
    if (output / KEY).exists():
        raise StudyError(f"{output} holds a study already, and its ratings need its {KEY}: choose another --output")
    turns = [(turn["turn_id"], turn["dialogue_id"]) for turn in material.turns]
    laid_out = design.lay_out(turns, material.systems, raters, repeat)
    everything = [item for items in laid_out for item in items]
    record.rows = {"turns": len(turns), "items": len(everything)}
    record.details = {
        "systems": material.systems,
        "left_out": material.left_out,
        "replies_sha256": replies_sha256(everything, material.texts),
        "raters": [[asdict(item) for item in items] for items in laid_out],
    }
    _write_private(output / KEY, record.as_dict())
    contexts = {turn["turn_id"]: turn["context"] for turn in material.turns}
    for number, items in enumerate(laid_out, 1):
        replies = [material.texts[item.system, item.turn_id] for item in items]
        shown = [contexts[item.turn_id] for item in items]
        numbers = [item.item for item in items]
        storage.write_bytes(output / SHEETS / f"rater-{number}.csv", sheet(numbers, shown, replies))
        storage.write_bytes(output / SHEETS / f"rater-{number}.html", page(number, numbers, shown, replies))
    return laid_out


def _write_private(path: Path, content: Any) -> None:
    """JSON that nobody else may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def read_key(study: Path) -> tuple[dict[str, Any], list[list[Item]]]:
    """The key of a study, and every rater's items.

    Raises:
        StudyError: it is not there, or damaged.
    """
    path = study / KEY
    if not path.exists():
        raise StudyError(f"there is no {path}: --study is the directory that `export` wrote")
    try:
        key = storage.read_json(path)
        return key, [[Item(**item) for item in items] for items in key["raters"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is not the key of a study ({error!r}): restore it") from error


def sheet(numbers: Sequence[str], contexts: Sequence[Sequence[Mapping[str, str]]], replies: Sequence[str]) -> bytes:
    """A rater's sheet as CSV, to be filled in; with a mark by which Excel knows UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for number, context, reply in zip(numbers, contexts, replies, strict=True):
        said = [cells.escaped(prompts.dialogue_text(context)), cells.escaped(reply)]
        writer.writerow([number, *said, *[""] * len(MEASURES), ""])
    return (BOM + text.getvalue()).encode()


def page(
    rater: int, numbers: Sequence[str], contexts: Sequence[Sequence[Mapping[str, str]]], replies: Sequence[str]
) -> bytes:
    """The same as a page that needs nothing but a browser."""
    import jinja2

    template = (resources.files("ecr_ray.evaluation") / "study.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    items = [
        {
            "item": number,
            "dialogue": [[prompts.SPEAKERS[m["role"]], " ".join(m["text"].split())] for m in context],
            "reply": reply,
        }
        for number, context, reply in zip(numbers, contexts, replies, strict=True)
    ]
    measures = {name: {"label": name.replace("_", " ").capitalize(), "meaning": MEASURES[name]} for name in MEASURES}
    # What a browser keeps is kept under this name, so that two studies on one machine do not mix.
    shown = {"study": secrets.token_hex(8), "rater": rater, "items": items, "columns": COLUMNS}
    return environment.from_string(template).render(shown=shown, measures=measures, rater=rater).encode()
