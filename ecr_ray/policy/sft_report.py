"""What fine-tuning shows: a progress bar while it runs, the loss curve and a page when it is done."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecr_ray import pages
from ecr_ray.config import SftConfig
from ecr_ray.policy import sft_worker

CURVE = pa.schema(
    [
        ("step", pa.int32()),
        ("split", pa.string()),
        ("loss", pa.float64()),
        ("epoch", pa.float64()),
        ("learning_rate", pa.float64()),
        ("gradient_norm", pa.float64()),
        # Read so far, with what fills rows up.
        ("tokens", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def total_steps(settings: SftConfig, rows: int) -> int:
    """Optimizer steps of a whole run over so many packed rows."""
    steps = math.ceil(settings.epochs * math.ceil(rows / settings.batch))
    return steps if settings.max_steps is None else settings.max_steps


def read_curve(path: Path) -> pa.Table:
    """The curve as a table; of a step that was done again after a crash, the last time counts."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        split, key = ("train", "loss") if "loss" in entry else ("valid", "eval_loss")
        if key not in entry:
            continue
        found[split, entry["step"]] = {
            "step": entry["step"],
            "split": split,
            "loss": entry[key],
            "epoch": entry.get("epoch"),
            "learning_rate": entry.get("learning_rate"),
            "gradient_norm": entry.get("grad_norm"),
            "tokens": int(entry["num_tokens"]) if "num_tokens" in entry else None,
            "seconds": entry["seconds"],
        }
    rows = sorted(found.values(), key=lambda row: (row["step"], row["split"]))
    return pa.Table.from_pylist(rows, schema=CURVE)


def result(curve: pa.Table, done: dict[str, Any]) -> dict[str, Any]:
    """The run in a few figures. A loss is the mean negative log-likelihood of a learnt token, in nats."""
    rows = curve.to_pylist()
    train = [row["loss"] for row in rows if row["split"] == "train"]
    valid = [row["loss"] for row in rows if row["split"] == "valid"]
    best = min(valid) if valid else None
    return {
        "steps": done["steps"],
        "kept_step": sft_worker.step_of(done["checkpoint"]),
        "train_loss_first": train[0] if train else None,
        "train_loss_last": train[-1] if train else None,
        "valid_loss_first": valid[0] if valid else None,
        "valid_loss_best": best,
        "valid_perplexity_best": math.exp(best) if best is not None else None,
    }


def page(run: dict[str, Any], curve: pa.Table) -> str:
    """One self-contained HTML page about the run."""
    return pages.render("ecr_ray.policy", "sft_report.html", _number, run=run, plot=_plot(curve))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def _plot(curve: pa.Table) -> str:
    """Loss by step, training and held out, as inline SVG."""
    figure, axis = pages.figure(figsize=(8, 3.2))
    rows = curve.to_pylist()
    for split, style in (("train", "-"), ("valid", "o-")):
        points = [(row["step"], row["loss"]) for row in rows if row["split"] == split]
        if points:
            axis.plot(*zip(*points, strict=True), style, label=split, markersize=4, linewidth=1.2)
    axis.set_xlabel("step")
    axis.set_ylabel("loss, nats a token")
    axis.grid(alpha=0.3)
    axis.legend()
    return pages.svg(figure)
