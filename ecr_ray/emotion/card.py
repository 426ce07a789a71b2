"""What the classifier's card, and the README, say of its figures."""

from collections.abc import Mapping
from typing import Any

from ecr_ray.emotion import evaluate, measures
from ecr_ray.emotion.goemotions import MAPPING, UNMAPPED
from ecr_ray.emotion.train import tabulate

DATA = """\
GoEmotions (Demszky, Movshovitz-Attias, Ko, Cowen, Nemade, Ravi, "GoEmotions: A Dataset of Fine-Grained Emotions", ACL
2020; its repository is Apache-2.0): Reddit comments, labelled by three people or more; its split `train`, `dev` to
choose weights and thresholds. Sentences about the past, with nostalgia and without it, were written for this project
(`ecr_ray/emotion/*.txt`). Weights and code: Apache-2.0."""
CANNOT = """\
It learnt from Reddit, not from conversations about films, and reads a message by itself: what it answers, and irony,
it does not see. What people there call neutral, curious or approving is often another thing here; the second table,
of messages that were written for this project with a feeling in mind, says how often. Nostalgia nobody labelled; what
it knows of it are a few dozen sentences. English only."""


def sections(run: Mapping[str, Any]) -> list[str]:
    """Markdown: figures by what they are measured on, and where the labels come from."""
    parts = []
    for title, rows in run["measures"].items():
        parts += [f"## Measured on {title}", each(rows), _said(rows, run)]
    return [*parts, "## How GoEmotions' labels count", mapping(run["thresholds"])]


def each(rows: list[dict[str, Any]]) -> str:
    """A table with a line a measure and emotion, and a column a model."""
    found = tabulate(rows)
    models = list(found[0]["cells"])
    lines = ["| | messages with it | " + " | ".join(models) + " |", "|---" * (len(models) + 2) + "|"]
    for line in found:
        if line["emotion"] is None or line["measure"] != measures.CALIBRATION:
            cells = " | ".join(_cell(line["cells"][model]) for model in models)
            name = f"{line['measure']}, {line['emotion'] or 'all emotions'}"
            lines.append(f"| {name} | {line['positive'] if line['emotion'] else ''} | {cells} |")
    return "\n".join(lines)


def summary(run: Mapping[str, Any]) -> str:
    """The README's table: all emotions together, on both."""
    lines = [
        f"| | {evaluate.CLASSIFIER} | {evaluate.WORDS} | {evaluate.MAJORITY} | n |",
        "|---|---|---|---|---|",
    ]
    for title, rows in run["measures"].items():
        for line in tabulate(rows):
            if line["emotion"] is None or (line["emotion"] == "nostalgia" and line["measure"] != measures.CALIBRATION):
                name = f"{title}: {_named(line)}"
                cells = line["cells"]
                models = (evaluate.CLASSIFIER, evaluate.WORDS, evaluate.MAJORITY)
                shown = " | ".join(_cell(cells[model]) for model in models)
                lines.append(f"| {name} | {shown} | {cells[evaluate.CLASSIFIER]['n']:,} |")
    return "\n".join(lines)


def _named(line: Mapping[str, Any]) -> str:
    if line["emotion"] is not None:
        return f"{line['measure']} of {line['emotion']}"
    return line["measure"] if line["measure"] == measures.RECALL else f"macro-{line['measure']}".replace("-cal", " cal")


def mapping(thresholds: Mapping[str, float]) -> str:
    """Which labels make an emotion, and from which probability on it counts as there in the figures."""
    lines = ["| emotion | GoEmotions' labels | counts as there from |", "|---|---|---|"]
    for emotion, labels in MAPPING.items():
        of = ", ".join(labels) or "none; sentences written for this project"
        lines.append(f"| {emotion} | {of} | {thresholds[emotion]:.2f} |")
    return "\n".join(lines) + f"\n\nLeft out: {', '.join(UNMAPPED)}."


def _said(rows: list[dict[str, Any]], run: Mapping[str, Any]) -> str:
    ahead = [
        f"{row['measure']} {row['ahead']['value']:+.3f} ({row['ahead']['low']:+.3f} to {row['ahead']['high']:+.3f})"
        for row in rows
        if row["emotion"] is None and row["model"] == evaluate.WORDS
    ]
    return (
        f"{rows[0]['n']:,} messages; in brackets 95 % intervals, resampling messages {run['config']['bootstrap']:,} "
        f"times, seed {run['seed']}. Ahead of the bag of words: {'; '.join(ahead)}. The job measures by itself; all "
        "figures are in `run.json`."
    )


def _cell(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    return f"{row['value']:.3f}" + (f" ({row['low']:.3f}–{row['high']:.3f})" if row["low"] is not None else "")
