"""What a critic's run shows: its learning curve, plots as PNG files, and one page about all of it."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import pages, storage
from ecr_ray.critic import evaluate, measures
from ecr_ray.encoders import learning
from ecr_ray.scoring.agreement import spearman

WORST = 20
_POINTS = 4000


def write(output: Path, run: Mapping[str, Any], curve: pa.Table, found: evaluate.Found) -> None:
    """`plots/*.png` and `summary.html` below the output."""
    plots = {"learning": ("Learning curve", _png(learning.draw_curve(curve)))}
    shown = [row["head"] for row in found.doubt]
    if shown:
        plots |= {
            "predicted": ("Predicted against judged", _scatter(found, shown)),
            "residuals": ("Residuals: judged minus predicted", _residuals(found, shown)),
            "calibration": ("Calibration: groups of like predictions against what came", _calibration(found, shown)),
            "correlation": (
                "Spearman of what is predicted (rows) and what is so (columns)",
                _correlation(found, shown),
            ),
        }
    for name, (_, png) in plots.items():
        storage.write_bytes(output / "plots" / f"{name}.png", png)
    page = pages.render(
        "ecr_ray.critic",
        "report.html",
        learning.number,
        run=run,
        plots={title: base64.b64encode(png).decode() for title, png in plots.values()},
        tables={
            f"On the split {found.split}, against what judges and hindsight say": _tables(found.rows),
            "Against people's ratings of dialogues that nothing learnt from": _tables(found.people),
        },
        worst=_worst(found) if shown else [],
    )
    storage.write_bytes(output / "summary.html", page.encode())


def _tables(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{head: {measures, models, cells}} of the measures' rows."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        table = found.setdefault(row["head"], {"measures": [], "models": [], "cells": {}, "n": row["n"]})
        for key, value in (("measures", row["measure"]), ("models", row["model"])):
            if value not in table[key]:
                table[key].append(value)
        table["cells"][row["model"], row["measure"]] = row
    return found


def _worst(found: evaluate.Found) -> list[dict[str, Any]]:
    """The rows whose last known head is missed most."""
    head = found.doubt[-1]["head"]
    rows = [row for row in found.predictions.to_pylist() if row[head] is not None]
    rows.sort(key=lambda row: -abs(row[head] - row[f"{head}_predicted"]))
    return [
        {**{k: row[k] for k in ("turn_id", "last", "text")}, "so": row[head], "predicted": row[f"{head}_predicted"]}
        for row in rows[:WORST]
    ]


# --- plots ------------------------------------------------------------------------------------------------


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot as plt

    figure.tight_layout()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
    return stream.getvalue()


def _panels(count: int) -> tuple[Any, list[Any]]:
    columns = min(count, 4)
    rows = -(-count // columns)
    figure, axes = pages.figure(rows, columns, figsize=(2.9 * columns, 2.8 * rows), squeeze=False)
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def _known(found: evaluate.Found, head: str) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, target) of the rows that have a target."""
    target = found.predictions[head].to_numpy(zero_copy_only=False)
    known = ~np.isnan(target)
    return found.predictions[f"{head}_predicted"].to_numpy()[known], target[known]


def _scatter(found: evaluate.Found, heads: list[str]) -> bytes:
    figure, axes = _panels(len(heads))
    for axis, head in zip(axes, heads, strict=True):
        predicted, target = _known(found, head)
        axis.scatter(predicted[:_POINTS], target[:_POINTS], s=4, alpha=0.25, linewidths=0)
        axis.plot([0, 1], [0, 1], color="0.5", linestyle=":")
        axis.set(title=head.replace("_", " "), xlabel="predicted", ylabel="so", xlim=(0, 1), ylim=(0, 1))
    return _png(figure)


def _residuals(found: evaluate.Found, heads: list[str]) -> bytes:
    figure, axes = _panels(len(heads))
    for axis, head in zip(axes, heads, strict=True):
        predicted, target = _known(found, head)
        axis.hist(target - predicted, bins=41, range=(-1, 1))
        axis.set(title=head.replace("_", " "), xlabel="so minus predicted")
    return _png(figure)


def _calibration(found: evaluate.Found, heads: list[str]) -> bytes:
    figure, axes = _panels(len(heads))
    for axis, head in zip(axes, heads, strict=True):
        points = measures.calibration_curve(*_known(found, head), bins=10)
        axis.plot([p for p, _, _ in points], [t for _, t, _ in points], "o-", markersize=4)
        axis.plot([0, 1], [0, 1], color="0.5", linestyle=":")
        axis.set(title=head.replace("_", " "), xlabel="mean predicted", ylabel="mean of what is so")
    return _png(figure)


def _correlation(found: evaluate.Found, heads: list[str]) -> bytes:
    grid = np.full((len(heads), len(heads)), np.nan)
    for i, ours in enumerate(heads):
        predicted = found.predictions[f"{ours}_predicted"].to_numpy()
        for j, theirs in enumerate(heads):
            target = found.predictions[theirs].to_numpy(zero_copy_only=False)
            known = ~np.isnan(target)
            grid[i, j] = spearman(np.column_stack([predicted[known], target[known]]))
    figure, axis = pages.figure(figsize=(1.6 + 0.9 * len(heads), 1.2 + 0.7 * len(heads)))
    image = axis.imshow(grid, vmin=-1, vmax=1, cmap="PuOr_r")
    names = [head.replace("_", " ") for head in heads]
    axis.set_xticks(range(len(heads)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(heads)), names)
    for (i, j), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, shrink=0.8)
    return _png(figure)
