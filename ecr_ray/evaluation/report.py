"""One report of an evaluation, as HTML that needs nothing else and as Markdown: figures, warnings, replies, lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import pages, prompts, storage
from ecr_ray.evaluation import plots
from ecr_ray.evaluation.asking import Prompts
from ecr_ray.evaluation.measures import CHOOSING, Values, equal_length_of, judged_measure
from ecr_ray.evaluation.statistics import Comparison, Figure
from ecr_ray.evaluation.talks import Talked
from ecr_ray.evaluation.warnings import Warning

SHOWN, LAST_MESSAGES = 3, 3
# Fewer prompts of a kind say nothing of it.
LEAST_OF_KIND = 5


@dataclass(frozen=True)
class Found:
    """All that an evaluation has found."""

    values: Values
    figures: list[Figure]
    comparisons: list[Comparison]
    strengths: list[Figure]
    biases: list[Figure]
    warnings: list[Warning]
    teachers: set[str]
    judgments: pa.Table
    pairs: pa.Table
    scoring: dict[str, Any]
    talks: Talked
    kinds: Mapping[str, list[str]] = field(default_factory=dict)
    """`feeling` and `genre` of every prompt; empty where nobody knows."""
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    """System → (KL, critic's opinion) at every look of its PPO run."""

    def as_json(self) -> dict[str, Any]:
        """For the run record."""
        rows = {name: [row.as_json() for row in getattr(self, name)] for name in ("figures", "comparisons")}
        rows |= {name: [row.as_json() for row in getattr(self, name)] for name in ("strengths", "biases")}
        return rows | {
            "warnings": [asdict(warning) for warning in self.warnings],
            "teachers": sorted(self.teachers),
            "judges": self.scoring["judges"],
            "agreement": self.scoring["agreement"],
            "talks": self.talks.as_json(),
        }


def write(
    output: Path, run: Mapping[str, Any], found: Found, asked: Prompts, rows: Sequence[Mapping[str, Any]]
) -> None:
    """`report.html` and `report.md` below the output."""
    content = {
        "headline": headline(run, found),
        "systems": _systems(run),
        "groups": grouped(found.figures),
        "comparisons": found.comparisons,
        "strengths": found.strengths,
        "biases": found.biases,
        "warnings": found.warnings,
        "agreement": found.scoring["agreement"],
        "judges": found.scoring["judges"],
        "teachers": found.teachers,
        "kinds": {name: by_kind(kinds, found, _main(run, found)) for name, kinds in found.kinds.items()},
        "main": _main(run, found),
        "examples": examples(run, found, asked, rows),
        "talks": found.talks,
        "recommendation": run["recommendation"],
        "lineage": run["lineage"],
    }
    drawn = plots.draw(run, found, _systems(run), _main(run, found))
    html = pages.render("ecr_ray.evaluation", "report.html", number, run=run, plots=drawn, chance=chance, **content)
    storage.write_bytes(output / "report.html", html.encode())
    storage.write_bytes(output / "report.md", markdown(run, content).encode())


def markdown(run: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """The report's twin in Markdown."""
    import jinja2

    text = (resources.files("ecr_ray.evaluation") / "report.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"num": number, "p": chance}
    environment.filters["cell"] = lambda value: " ".join(str(value).replace("|", "\\|").split())
    return environment.from_string(text).render(run=run, **content)


def number(value: Any) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return f"{value:,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def chance(p: float | None) -> str:
    """A p-value as people read it."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _systems(run: Mapping[str, Any]) -> list[str]:
    return [word.partition("=")[0] for word in run["config"]["systems"]]


def _main(run: Mapping[str, Any], found: Found) -> str:
    """The measure that breakdowns and examples go by: an independent judge's, else a judge's, else the critic's."""
    names = [judge["name"] for judge in found.scoring["judges"]]
    ordered = sorted(names, key=lambda name: name in found.teachers)
    known = [judged_measure(name) for name in ordered if judged_measure(name) in found.values]
    return known[0] if known else "critic" if "critic" in found.values else "words"


def headline_measures(judges: Sequence[str], strengths: Sequence[Mapping[str, Any]], baseline: str) -> list[str]:
    """The few measures that a reader looks for first, in order.

    Args:
        judges: their names.
        strengths: figures of pairwise comparisons, as JSON.
    """
    return [
        *[judged_measure(judge) for judge in judges],
        *[equal_length_of(judge, baseline) for judge in judges],
        *dict.fromkeys(figure["measure"] for figure in strengths),
        "critic",
        f"KL from {baseline}, nats an answer",
        CHOOSING,
        "ROUGE-L, per reply",
        "distinct-2, per reply",
        "repetition, share of three-word sequences",
        "ends by itself, share",
        "names a film that does not exist, share",
        "names a film that people recommended there, share",
        "emotion alignment, cosine over chance",
        "perplexity",
        "words",
    ]


def headline(run: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """The measures that matter most, and {measure: {system: figure}}."""
    judges = [judge["name"] for judge in found.scoring["judges"]]
    strengths = [figure.as_json() for figure in found.strengths]
    cells = grouped([*found.figures, *found.strengths])
    wanted = headline_measures(judges, strengths, run["config"]["baseline"])
    return {"measures": [name for name in wanted if name in cells], "cells": cells}


def grouped(figures: Sequence[Figure]) -> dict[str, dict[str, Figure]]:
    """All figures: measure → system → figure."""
    found: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        found.setdefault(figure.measure, {})[figure.system] = figure
    return found


def by_kind(kinds: Sequence[str], found: Found, measure: str) -> list[dict[str, Any]]:
    """The mean of a measure for every system, kind of prompt by kind of prompt, the most frequent first."""
    names = [kind for kind in dict.fromkeys(kinds) if kind]
    rows = []
    for kind in sorted(names, key=lambda name: -kinds.count(name)):
        picked = np.array([k == kind for k in kinds])
        if picked.sum() >= LEAST_OF_KIND:
            means = {
                system: float(np.nanmean(values_N[picked])) if (~np.isnan(values_N[picked])).any() else None
                for system, values_N in found.values[measure].items()
            }
            rows.append({"kind": kind, "n": int(picked.sum()), "means": means})
    return rows


def examples(
    run: Mapping[str, Any], found: Found, asked: Prompts, rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Prompts on which the last system is furthest ahead of the baseline, furthest behind, and judged most unlike."""
    measure, baseline, last = _main(run, found), run["config"]["baseline"], _systems(run)[-1]
    by_system = found.values[measure]
    if last not in by_system or baseline not in by_system:
        return {}
    ahead = by_system[last] - by_system[baseline]
    order = [int(n) for n in np.argsort(ahead) if not np.isnan(ahead[n])]
    chosen = {
        f"{last} furthest ahead of {baseline}": order[::-1][:SHOWN],
        f"{last} furthest behind {baseline}": order[:SHOWN],
    }
    apart = disagreement(run, found, last)
    if apart is not None:
        chosen["Judged most unlike"] = [int(n) for n in np.argsort(-apart) if not np.isnan(apart[n])][:SHOWN]
    texts = {(row["system"], row["turn_id"]): row for row in rows}
    return {
        title: [_example(n, asked, texts, by_system, _systems(run)) for n in picked] for title, picked in chosen.items()
    }


def disagreement(run: Mapping[str, Any], found: Found, system: str) -> np.ndarray | None:
    """How far the ranks that judges and critic give a system's replies are apart, (N,); None for one opinion."""
    from scipy.stats import rankdata

    names = [judged_measure(judge["name"]) for judge in found.scoring["judges"]] + ["critic"]
    known = [found.values[name][system] for name in names if name in found.values and system in found.values[name]]
    if len(known) < 2:
        return None
    ranks = np.stack([rankdata(values_N, nan_policy="omit") / len(values_N) for values_N in known])
    return ranks.max(0) - ranks.min(0)


def _example(
    n: int,
    asked: Prompts,
    texts: Mapping[tuple[str, str], Mapping[str, Any]],
    by_system: Mapping[str, np.ndarray],
    systems: Sequence[str],
) -> dict[str, Any]:
    prompt = asked.rows[n]
    replies = []
    for system in systems:
        row = texts[system, prompt["turn_id"]]
        value = float(by_system[system][n]) if system in by_system and not np.isnan(by_system[system][n]) else None
        replies.append({"system": system, "text": row["text"] or f"({row['status']})", "value": value})
    context = [
        {"speaker": prompts.SPEAKERS[message["role"]], "text": message["text"]}
        for message in prompt["context"][-LAST_MESSAGES:]
    ]
    return {"turn_id": prompt["turn_id"], "context": context, "replies": replies}
