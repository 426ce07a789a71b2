"""One self-contained HTML page about a scoring run: histograms, agreement, failures, settings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import pages


def page(run: dict[str, Any], tables: dict[str, pa.Table], aspects: Sequence[str]) -> str:
    """The page as HTML text.

    Args:
        run: the run record.
        tables: score tables by judge.
        aspects: the rubric's aspects.
    """
    return pages.render(
        "ecr_ray.scoring",
        "summary.html",
        lambda v: "–" if v is None else f"{v:.3f}",
        run=run,
        judges=list(tables),
        aspects=[*aspects, "overall"],
        means={name: _means(table, aspects) for name, table in tables.items()},
        histograms=_histograms(tables, aspects),
    )


def _means(table: pa.Table, aspects: Sequence[str]) -> dict[str, dict[str, float | None]]:
    means = {}
    for column in [*aspects, "overall", "confidence", "digit_mass"]:
        values = table[column].drop_null().to_numpy()
        means[column] = {
            "mean": float(values.mean()) if len(values) else None,
            "sd": float(values.std()) if len(values) else None,
        }
    return means


def _histograms(tables: dict[str, pa.Table], aspects: Sequence[str]) -> str:
    """One small histogram an aspect, judges overlaid, as inline SVG."""
    columns = [*aspects, "overall"]
    figure, axes = pages.figure(1, len(columns), figsize=(2.4 * len(columns), 2.2), sharey=True, squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for name, table in tables.items():
            values = table[column].drop_null().to_numpy()
            axis.hist(values, bins=np.linspace(0, 1, 19), histtype="stepfilled", alpha=0.5, label=name)
        axis.set_title(column.replace("_", " "), fontsize=9)
        axis.set_xlim(0, 1)
        axis.tick_params(labelsize=7)
    axes[0][0].set_ylabel("turns", fontsize=8)
    axes[0][-1].legend(fontsize=7)
    return pages.svg(figure)
