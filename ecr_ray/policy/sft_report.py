"""What fine-tuning shows: a progress bar while it runs, the loss curve and a page when it is done."""

import json
import math
import sys
import threading
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
        ("tokens", pa.int64()),
        ("seconds", pa.float64()),
    ]
)
LOOK_S = 0.5


def total_steps(settings: SftConfig, rows: int) -> int:
    """Optimizer steps of a whole run over so many packed rows."""
    steps = math.ceil(settings.epochs * math.ceil(rows / settings.batch))
    return steps if settings.max_steps is None else settings.max_steps


class Progress:
    """A bar on the driver that follows the curve which the first worker writes."""

    def __init__(self, curve: Path, steps: int, done: int) -> None:
        from tqdm import tqdm

        # What is there already is of an earlier start.
        self._curve, self._read = curve, curve.stat().st_size if curve.exists() else 0
        self._shown: dict[str, str] = {}
        self._stop = threading.Event()
        slow = not sys.stderr.isatty()
        self._bar = tqdm(
            total=steps, initial=done, desc="sft", unit="step", mininterval=10 if slow else 0.5, dynamic_ncols=True
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._bar.close()

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        if not self._curve.exists():
            return
        with self._curve.open("rb") as file:
            file.seek(self._read)
            # A line without its end is still being written.
            lines = [line for line in file if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        for entry in map(json.loads, lines):
            self._shown |= {
                name: f"{entry[key]:.3f}" for name, key in (("loss", "loss"), ("valid", "eval_loss")) if key in entry
            }
            self._bar.n = entry["step"]
        if lines:
            self._bar.set_postfix(self._shown)


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
    settings = json.dumps(run["config"], indent=2)
    return pages.render("ecr_ray.policy", "sft_report.html", _number, run=run, plot=_plot(curve), settings=settings)


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
