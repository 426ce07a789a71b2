"""The learning curve of an encoder: as a table, and as a plot."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ecr_ray import pages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE = pa.schema(
    [
        ("step", pa.int32()),
        ("loss", pa.float64()),
        ("valid_error", pa.float64()),
        ("valid_spearman", pa.float64()),
        ("learning_rate", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("seconds", pa.float64()),
    ]
)


def read_curve(path: Path) -> pa.Table:
    """The curve as a table; of a step that was done again after a crash, the last time counts."""
    found = {entry["step"]: entry for entry in map(json.loads, path.read_text().splitlines())}
    return pa.Table.from_pylist(
        [{name: found[step].get(name) for name in CURVE.names} for step in sorted(found)], schema=CURVE
    )


def draw_curve(curve: pa.Table) -> "Figure":
    """The loss, and how far the held-out rows are missed."""
    figure, (left, right) = pages.figure(1, 2, figsize=(9, 3))
    for axis, name in ((left, "loss"), (right, "valid_error")):
        points = [(row["step"], row[name]) for row in curve.to_pylist() if row[name] is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker="." if len(points) < 80 else None, linewidth=1.2)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    left.set_ylabel("training loss")
    right.set_ylabel("held out: variance not explained")
    right.axhline(1.0, color="0.5", linestyle=":", label="predict the mean")
    right.legend()
    return figure


def number(value: float | None) -> str:
    """A figure as a page shows it."""
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
