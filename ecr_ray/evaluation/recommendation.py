"""The recommender's own figures, as its run measured them on its own test split: the report repeats them.

Nothing is measured anew: whether the *reply* names a good film is in the report's other figures, and whether somebody
finds a film in its talks.
"""

from collections.abc import Mapping
from typing import Any

from ecr_ray.evaluation import lineage
from ecr_ray.evaluation.lineage import Node
from ecr_ray.recommender import card, protocol

# (protocol, measure): the published protocol ranks films that were named before, `masked` leaves them out.
MEASURES = (
    *(("published", f"R@{k}") for k in (1, 10, 50)),
    *(("masked", name) for name in ("R@1", "R@10", "R@50", "MRR@10", "NDCG@10")),
    ("both", "AUC per dialogue"),
)
_SPLIT = "test"


def node(recommender: str) -> Node | None:
    """The run that trained a recommender; None where no record of it is there."""
    found = lineage.of(recommender) if recommender != "none" else None
    return found if found is not None and found.run.get("measures", {}).get(_SPLIT) else None


def figures(recommender: str) -> dict[str, Any]:
    """Its figures and its baselines'.

    Args:
        recommender: a bundled one's name or the directory of one.

    Returns:
        `about` in words, `models` in their order, and `rows`: a `measure` and its `cells`, model → value, low, high.
        Empty where no record is there.
    """
    found = node(recommender)
    if found is None:
        return {"about": "", "models": [], "rows": []}
    measured = found.run["measures"][_SPLIT]
    # One network with and without each part is an ablation, not a system.
    models, _ = card.networks(measured)
    by_model = {name: protocol.by_name([row for row in measured if row["model"] == name]) for name in models}
    rows = []
    for key in MEASURES:
        cells = {name: _cell(cells[key]) for name, cells in by_model.items() if key in cells}
        if cells:
            rows.append({"measure": f"{key[1]}, {key[0]}" if "@" in key[1] else key[1], "cells": cells})
    return {"about": _about(recommender, found.run, measured), "models": models, "rows": rows}


def _about(recommender: str, run: Mapping[str, Any], measured: list[Mapping[str, Any]]) -> str:
    n = max(row["n"] for row in measured)
    return (
        f"{recommender} on the test split of its own training run ({run['finished'][:10]}, seed {run['seed']}): a film "
        f"that somebody recommended is to be ranked high among the whole catalogue; {n:,} such films, 95 % intervals "
        "over dialogues."
    )


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": row["value"], "low": row["low"], "high": row["high"], "withheld": ""}
