"""What a recommender's run shows: its curve, the measures beside the baselines, and what it recommends."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ecr_ray import pages
from ecr_ray.encoders.learning import number
from ecr_ray.recommender.examples import Turn
from ecr_ray.recommender.predict import Recommender
from ecr_ray.records import ROLES

CURVE = pa.schema(
    [
        ("network", pa.string()),
        ("step", pa.int32()),
        ("loss", pa.float64()),
        ("valid_loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
SHOWN, FILMS = 12, 3


def curve(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> pa.Table:
    """All networks' curves as a table; of a step that was done again after a crash, the last time counts."""
    rows = []
    for network, entries in curves.items():
        found = {entry["step"]: {"network": network, **entry} for entry in entries}
        rows += [{name: found[step].get(name) for name in CURVE.names} for step in sorted(found)]
    return pa.Table.from_pylist(rows, schema=CURVE)


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The losses as SVG; of all networks but the first what was held out only."""
    figure, axis = pages.figure(figsize=(7, 3))
    rows = curve(curves).to_pylist()
    for place, network in enumerate(curves):
        for name, label in (("loss", "training"), ("valid_loss", "held out, every film counting once")):
            points = [(r["step"], r[name]) for r in rows if r["network"] == network and r[name] is not None]
            if points and (name == "valid_loss" or not place):
                axis.plot(*zip(*points, strict=True), label=f"{network}: {label}", linewidth=1.2)
    axis.set_xlabel("step")
    axis.set_ylabel("cross-entropy, nats a film")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return pages.svg(figure)


def shown(recommender: Recommender, asked: Sequence[Turn]) -> list[dict[str, Any]]:
    """What is recommended at the last turn that names a film of some dialogues, with reasons."""
    last = {turn.dialogue_id: turn for turn in asked}
    found = []
    for turn in list(last.values())[:SHOWN]:
        dialogue = [{"role": ROLES[who], "text": text} for who, text in zip(turn.roles, turn.texts, strict=True)]
        titles = [recommender.catalogue.items[item].title for item in turn.targets]
        answer = recommender.recommend(dialogue, FILMS)
        found.append({"dialogue": dialogue[-3:], "answer": answer, "said": titles})
    return found


def page(
    run: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, Any]]], examples: list[dict[str, Any]]
) -> str:
    """The HTML page."""
    return pages.render(
        "ecr_ray.recommender",
        "report.html",
        number,
        run=run,
        tables={split: tabulate(rows) for split, rows in run["measures"].items()},
        learning=draw(curves),
        shown=examples,
    )


def tabulate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of measures as one line a measure, with a cell a model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        lines.setdefault((row["protocol"], row["measure"]), {})[row["model"]] = row
    return {"models": models, "lines": lines}
