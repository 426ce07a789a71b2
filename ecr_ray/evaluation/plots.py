"""The report's plots, in colours that everybody can tell apart (Okabe and Ito), each with what it shows in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ecr_ray import pages, prompts
from ecr_ray.evaluation.measures import CHOOSING, judged_measure

if TYPE_CHECKING:
    from ecr_ray.evaluation.report import Found

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Plot:
    """A drawing, its title, and for those who do not see it what it shows."""

    title: str
    svg: str
    alt: str


def draw(run: Mapping[str, Any], found: "Found", systems: Sequence[str], main: str) -> list[Plot]:
    """All plots for which there is something to draw."""
    drawn = [_distributions(found, systems, main)]
    for judge in found.scoring["judges"]:
        drawn.append(_radar(run, found, systems, judge["name"]))
    drawn.append(_reward_kl(run, found, systems))
    return [plot for plot in drawn if plot is not None]


def _style(systems: Sequence[str], system: str) -> dict[str, Any]:
    at = list(systems).index(system)
    return {"color": COLOURS[at % len(COLOURS)], "marker": MARKS[at % len(MARKS)]}


def _distributions(found: "Found", systems: Sequence[str], main: str) -> Plot | None:
    shown = [s for s in systems if s in found.values.get(main, {}) and not np.isnan(found.values[main][s]).all()]
    if not shown:
        return None
    figure, axis = pages.figure(figsize=(6.4, 0.7 + 0.55 * len(shown)))
    values = [found.values[main][system] for system in shown]
    values = [v[~np.isnan(v)] for v in values]
    parts = axis.violinplot(values, orientation="horizontal", showextrema=False, showmedians=True)
    for body, system in zip(parts["bodies"], shown, strict=True):
        body.set_facecolor(_style(systems, system)["color"])
        body.set_alpha(0.6)
    axis.set_yticks(range(1, len(shown) + 1), shown)
    axis.invert_yaxis()
    axis.set_xlabel(main)
    axis.grid(axis="x", alpha=0.3)
    medians = ", ".join(f"{s} {np.median(v):.2f}" for s, v in zip(shown, values, strict=True))
    return Plot("How the ratings are spread", pages.svg(figure), f"Spread of {main} by system; medians: {medians}.")


def _radar(run: Mapping[str, Any], found: "Found", systems: Sequence[str], judge: str) -> Plot | None:
    aspects = [aspect.replace("_", " ") for aspect in prompts.RUBRICS[run["config"]["rubric"]].aspects]
    cells = {(f.measure, f.system): f.value for f in found.figures}
    means = {s: [cells.get((judged_measure(judge, aspect), s)) for aspect in aspects] for s in systems}
    means = {system: row for system, row in means.items() if None not in row}
    if not means:
        return None
    angles = np.linspace(0, 2 * np.pi, len(aspects), endpoint=False)
    figure, axis = pages.figure(figsize=(5.4, 4.2), subplot_kw={"projection": "polar"})
    for system, row in means.items():
        closed = [*row, row[0]]
        axis.plot([*angles, angles[0]], closed, linewidth=1.4, markersize=4, label=system, **_style(systems, system))
    axis.set_xticks(angles, aspects)
    axis.set_ylim(0, 9)
    axis.set_rticks([3, 6, 9])
    axis.legend(loc="center left", bbox_to_anchor=(1.15, 0.5), fontsize=8)
    said = "; ".join(
        f"{s}: " + ", ".join(f"{a} {v:.2f}" for a, v in zip(aspects, row, strict=True)) for s, row in means.items()
    )
    return Plot(f"Aspects as {judge} rates them, 0 to 9", pages.svg(figure), f"Mean ratings by {judge}. {said}.")


def _reward_kl(run: Mapping[str, Any], found: "Found", systems: Sequence[str]) -> Plot | None:
    kl_name = f"KL from {run['config']['baseline']}, nats an answer"
    cells = {(f.measure, f.system): f for f in found.figures}
    points = {run["config"]["baseline"]: 0.0}
    # What choosing the best of several answers costs is bounded, not measured.
    for system in systems:
        kl = cells.get((kl_name, system)) or cells.get((CHOOSING, system))
        if kl and kl.value is not None:
            points[system] = kl.value
    points = {s: kl for s, kl in points.items() if (c := cells.get(("critic", s))) and c.value is not None}
    if len(points) < 2:
        return None
    figure, axis = pages.figure(figsize=(6.4, 3.2))
    for system, curve in found.curves.items():
        axis.plot(*zip(*curve, strict=True), "-", linewidth=1, alpha=0.7, color=_style(systems, system)["color"])
    for system, kl in points.items():
        reward = cells["critic", system]
        error = [[reward.value - reward.low], [reward.high - reward.value]] if reward.low is not None else None
        axis.errorbar(kl, reward.value, yerr=error, capsize=3, label=system, **_style(systems, system))
    axis.set_xlabel(kl_name)
    axis.set_ylabel("critic")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    said = "; ".join(f"{s} at KL {kl:.2f}: {cells['critic', s].value:.3f}" for s, kl in points.items())
    return Plot("What the critic gives for how much KL", pages.svg(figure), f"Critic's opinion against KL. {said}.")
