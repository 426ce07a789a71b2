"""What a search shows: a table while it runs; best.toml, curves, importances and a page when it is done."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ray.tune import Callback

from ecr_ray import pages
from ecr_ray.config import CriticConfig
from ecr_ray.encoders import learning, worker

METRIC = "best_error"
SHOW_EVERY_S = 20.0
CURVES = pa.schema(
    [("trial", pa.string()), ("step", pa.int32()), ("valid_error", pa.float64()), ("valid_spearman", pa.float64())]
)


class Table(Callback):
    """Prints the trials as they go: what was drawn, how far each is, its best look at the held-out rows."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._shown = list(names), 0.0

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if time.monotonic() - self._shown >= SHOW_EVERY_S:
            self._show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._show(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._show(trials)

    def _show(self, trials: list[Any]) -> None:
        self._shown = time.monotonic()
        print(progress([_state(trial) for trial in trials], self._names), flush=True)


def _state(trial: Any) -> dict[str, Any]:
    result = trial.last_result or {}
    return {
        "trial": trial.trial_id,
        "status": trial.status.lower(),
        "step": result.get("step"),
        METRIC: result.get(METRIC),
        "seconds": result.get("time_total_s"),
        "chosen": trial.config,
    }


def progress(trials: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The trials as lines of text, the best one first.

    Args:
        trials: `trial`, `status`, `step`, METRIC, `seconds`, `chosen`.
        names: the settings that are searched.
    """
    heads = ["trial", "status", "step", "unexplained", "s", *names]
    ordered = sorted(trials, key=lambda t: (t[METRIC] is None, t[METRIC] or 0.0))
    lines = [
        [
            t["trial"],
            t["status"],
            *(_short(t[key]) for key in ("step", METRIC, "seconds")),
            *(_short(t["chosen"].get(name)) for name in names),
        ]
        for t in ordered
    ]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)) for line in [heads, *lines]
    )


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def best_toml(base: CriticConfig, best: Mapping[str, Any]) -> str:
    """A --config file for jobs/train_critic.py: the best trial's settings over what all trials shared.

    Every setting stands in it, so that it means the same under any profile.
    """
    from ecr_ray.critic.tune import chosen_settings

    found = asdict(chosen_settings(base, best["chosen"]))
    lines = [
        f"# The best of a search: {METRIC} {best[METRIC]:.4f} after {best['step']} steps (trial {best['trial']}).",
        "[critic]",
    ]
    for name, value in found.items():
        # TOML has no null, and where one is meant it is the default.
        if name not in ("profile", "config", "output", "overwrite") and value is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def curves(directory: Path, trials: Sequence[str]) -> pa.Table:
    """The held-out figures of every trial by step."""
    rows = []
    for trial in trials:
        path = directory / trial / worker.CURVE
        if path.exists():
            for row in learning.read_curve(path).to_pylist():
                if row["valid_error"] is not None:
                    rows.append({"trial": trial, **{name: row[name] for name in CURVES.names[1:]}})
    return pa.Table.from_pylist(rows, schema=CURVES)


def table(trials: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The trials as a table; what was drawn as JSON."""
    return pa.Table.from_pylist([{**trial, "chosen": json.dumps(trial["chosen"])} for trial in trials])


def importance(trials: Sequence[Mapping[str, Any]], space: Mapping[str, Any], seed: int) -> dict[str, float]:
    """How much of the differences between trials each setting explains (fANOVA); empty with fewer than four trials."""
    import optuna

    done = [trial for trial in trials if trial[METRIC] is not None]
    if len(done) < 4 or len({trial[METRIC] for trial in done}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(wanted) for name, wanted in space.items()}
    study = optuna.create_study(direction="minimize")
    study.add_trials(
        [
            optuna.trial.create_trial(params=trial["chosen"], distributions=distributions, value=trial[METRIC])
            for trial in done
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: round(float(value), 4) for name, value in found.items()}


def _distribution(wanted: Any) -> Any:
    import optuna

    if isinstance(wanted, list):
        return optuna.distributions.CategoricalDistribution(wanted)
    return optuna.distributions.FloatDistribution(wanted["low"], wanted["high"], log=bool(wanted.get("log")))


def page(run: Mapping[str, Any], found: pa.Table) -> str:
    """One self-contained HTML page about the search."""
    return pages.render(
        "ecr_ray.critic",
        "tune.html",
        lambda value: _short(value).replace("-", "–") if value is None else _short(value),
        run=run,
        names=list(run["space"]),
        trials=sorted(run["trials"], key=lambda t: (t[METRIC] is None, t[METRIC] or 0.0)),
        metric=METRIC,
        coordinates=_coordinates(run),
        learning=_learning(run, found),
        importances=_importances(run["importance"]),
    )


def _coordinates(run: Mapping[str, Any]) -> str:
    """Parallel coordinates: a line a trial over all settings and the result, the best darkest, as inline SVG."""
    space, trials = run["space"], [t for t in run["trials"] if t[METRIC] is not None]
    names = [*space, METRIC]
    columns = {name: _positions(space[name], [t["chosen"][name] for t in trials]) for name in space}
    results = np.array([t[METRIC] for t in trials])
    span = np.ptp(results) or 1.0
    columns[METRIC] = (results - results.min()) / span
    figure, axis = pages.figure(figsize=(11, 4))
    from matplotlib import colormaps

    for n in np.argsort(-results):
        color = colormaps["viridis"](float(columns[METRIC][n]) * 0.9)
        axis.plot(range(len(names)), [columns[name][n] for name in names], color=color, linewidth=1.6, alpha=0.8)
    for x, name in enumerate(names):
        axis.axvline(x, color="0.7", linewidth=0.8)
        for y, label in _ticks(space.get(name), results):
            axis.annotate(label, (x, y), textcoords="offset points", xytext=(3, 2), fontsize=7, color="0.25")
    axis.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
    axis.set_yticks([])
    axis.set_xlim(-0.2, len(names) - 0.4)
    return pages.svg(figure)


def _positions(wanted: Any, values: list[Any]) -> np.ndarray:
    """Where values stand between 0 and 1 on their axis."""
    if isinstance(wanted, list):
        return np.array([wanted.index(value) / max(1, len(wanted) - 1) for value in values])
    low, high = wanted["low"], wanted["high"]
    if wanted.get("log"):
        return (np.log(values) - np.log(low)) / (np.log(high) - np.log(low))
    return (np.array(values) - low) / (high - low)


def _ticks(wanted: Any, results: np.ndarray) -> list[tuple[float, str]]:
    if wanted is None:
        return [(0.0, _short(float(results.min()))), (1.0, _short(float(results.max())))]
    if isinstance(wanted, list):
        return [(n / max(1, len(wanted) - 1), str(value)) for n, value in enumerate(wanted)]
    return [(0.0, _short(float(wanted["low"]))), (1.0, _short(float(wanted["high"])))]


def _learning(run: Mapping[str, Any], found: pa.Table) -> str:
    figure, axis = pages.figure(figsize=(8, 3.4))
    rows = found.to_pylist()
    best = run["best"]["trial"]
    for trial in dict.fromkeys(row["trial"] for row in rows):
        points = [(row["step"], row["valid_error"]) for row in rows if row["trial"] == trial]
        style = {"color": "C3", "linewidth": 2, "zorder": 3} if trial == best else {"color": "0.6", "linewidth": 0.9}
        axis.plot(*zip(*points, strict=True), label="the best" if trial == best else None, **style)
    axis.axhline(1.0, color="0.5", linestyle=":", label="predict the mean")
    axis.set(xlabel="step", ylabel="held out: variance not explained")
    axis.grid(alpha=0.3)
    axis.legend()
    return pages.svg(figure)


def _importances(found: Mapping[str, float]) -> str:
    if not found:
        return ""
    figure, axis = pages.figure(figsize=(7, 0.5 + 0.3 * len(found)))
    names = list(found)[::-1]
    axis.barh([name.replace("_", " ") for name in names], [found[name] for name in names])
    axis.set_xlabel("share of the differences between trials")
    return pages.svg(figure)
