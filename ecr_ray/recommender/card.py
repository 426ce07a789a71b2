"""What the README and the bundled recommender's card say of the figures: beside published ones, honestly, by part."""

from collections.abc import Mapping, Sequence
from typing import Any

from ecr_ray.recommender import protocol
from ecr_ray.recommender.evaluate import AGAIN, OURS

# ECR (RecSys 2024), its table of recommendation, ReDial's test split.
PUBLISHED = {
    "UniCRS, published": {"R@1": 0.047, "R@10": 0.212, "R@50": 0.414, "RT@1": 0.052, "RT@10": 0.229, "RT@50": 0.439,
        "AUC": 0.506},
    "ECR, published": {"R@1": 0.049, "R@10": 0.220, "R@50": 0.428, "RT@1": 0.055, "RT@10": 0.238, "RT@50": 0.452,
        "AUC": 0.541},
}  # fmt: skip
BEST = "ECR, published"
_AUC = f"AUC, batches of {protocol.PUBLISHED_BATCH}"
_RECALLS = ("R@1", "R@10", "R@50", "RT@1", "RT@10", "RT@50")
_HONEST = (
    ("masked", "R@1"),
    ("masked", "R@10"),
    ("masked", "R@50"),
    ("masked", "MRR@10"),
    ("masked", "NDCG@10"),
    ("both", "AUC per dialogue"),
    ("masked", "coverage: share of the catalogue in somebody's first ten"),
    ("masked", "popularity of the first ten"),
)
DATA = """\
ReDial (Li, Kahou, Schulz, Michalski, Charlin, Pal, "Towards Deep Conversational Recommendations", NeurIPS 2018),
licence CC BY 4.0: of its split `train` the turns that name one of the embedded films; `valid` to choose the weights.
The films' facts are the embedded sample's own. Weights and code: Apache-2.0."""
CANNOT = """\
It knows the 246 films of the embedded sample and no others, and English only. It ranks what people of ReDial's
dialogues would name next, which is mostly what is popular; a film that nobody named there is found by its facts alone.
What somebody feels moves its ranking by next to nothing: the ablation in the project's README says how much."""
Rows = Sequence[Mapping[str, Any]]


def networks(rows: Rows) -> tuple[list[str], list[str]]:
    """The models to compare; and one network, with and without each part, which is an ablation."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    parts = [name for name in names if name.startswith(("with ", "without "))]
    members = [name for name in names if name.startswith("network ")]
    return [name for name in names if name not in {*parts, *members}], [*members[:1], *parts]


def published(run: Mapping[str, Any], split: str = "test") -> str:
    """Markdown: the published protocol, beside the published figures, and how far from the best of them."""
    rows = run["measures"][split]
    cells, (models, _) = protocol.by_name, networks(rows)
    measures = (*_RECALLS, _AUC)
    lines = ["| | " + " | ".join((*_RECALLS, "AUC")) + " |", "|---" * (len(measures) + 1) + "|"]
    for model in models:
        found = cells([row for row in rows if row["model"] == model])
        shown = " | ".join(_cell(found["published", measure], bold=model.startswith(OURS)) for measure in measures)
        lines.append(f"| {model} | {shown} |")
    for name, known in PUBLISHED.items():
        lines.append(f"| {name} | " + " | ".join(f"{known[m]:.3f}" for m in (*_RECALLS, "AUC")) + " |")
    for name in models:
        if name.startswith(OURS):
            found = cells([row for row in rows if row["model"] == name])
            away = [found["published", m]["value"] - PUBLISHED[BEST][m.split(",")[0]] for m in measures]
            lines.append(f"| {name}: above {BEST} | " + " | ".join(f"{value:+.3f}" for value in away) + " |")
    return "\n".join(lines)


def honest(run: Mapping[str, Any], split: str = "test") -> str:
    """Markdown: with films that were named before masked, and what recall does not say."""
    rows = run["measures"][split]
    # Of films that are masked a bonus says nothing.
    models = [name for name in networks(rows)[0] if AGAIN not in name]
    lines = ["| | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    found = {model: protocol.by_name([row for row in rows if row["model"] == model]) for model in models}
    for key in _HONEST:
        name = f"{key[1]}, masked" if "@" in key[1] else key[1]
        lines.append(f"| {name} | " + " | ".join(_cell(found[model][key]) for model in models) + " |")
    asked = found[OURS]["masked", "R@10"]
    lines.append(
        f"\n{asked['n']:,} examples of {asked['dialogues']:,} dialogues ask for a film that was not named before."
    )
    return "\n".join(lines)


def ablation(run: Mapping[str, Any], split: str = "test") -> str:
    """Markdown: one network, and what it loses without each part."""
    rows = run["measures"][split]
    _, names = networks(rows)
    measures = (("published", "R@10"), ("published", "R@50"), ("masked", "R@10"), ("masked", "R@50"))
    lines = [
        "| one network | held-out loss | "
        + " | ".join(f"{m}{', masked' if p == 'masked' else ''}" for p, m in measures),
        "|---" * (len(measures) + 2) + "|",
    ]
    lines[0] += " |"
    for name in names:
        found = protocol.by_name([row for row in rows if row["model"] == name])
        shown = " | ".join(_lost(found[key], first=name == names[0]) for key in measures)
        said = "with all parts" + _but(run) if name == names[0] else name
        lines.append(f"| {said} | {run['result'][name]['best']:.3f} | {shown} |")
    return "\n".join(lines)


def _compared(run: Mapping[str, Any], split: str = "test") -> str:
    """Who the networks that lack a part are compared with."""
    first, *_ = (row["ahead"] for row in run["measures"][split] if row["model"].startswith("without ") and row["ahead"])
    return "the first line" if first.get("of", OURS) != OURS else f"{OURS} above"


def _but(run: Mapping[str, Any]) -> str:
    left_out = run["config"]["without"]
    return f" but {', '.join(left_out)}" if left_out else ""


def summary(run: Mapping[str, Any]) -> str:
    """The README's part: three tables with what they are measured on."""
    rows, machine = run["rows"], run["hardware"]
    minutes = sum(
        seconds for name, seconds in run["timings_s"].items() if name.startswith(("prepare", "train network"))
    )
    trained = (
        f"{rows['train_turns']:,} turns of the split train learnt, {run['config']['members']} networks ranking "
        f"together, {minutes / 60:.0f} minutes with the preparation on {machine['cores']} cores; weights, and "
        "everything else that was chosen, by the split valid."
    )
    said = (
        f"ReDial's test split, {rows['test_films']:,} examples over {rows['items']:,} films, as published: films named "
        "before are ranked, too. In brackets 95 % intervals over dialogues"
    )
    return "\n\n".join(
        [
            f"{said}; {trained}",
            published(run),
            "What that protocol hides: films named before masked, and other things worth knowing.",
            honest(run),
            f"What each part is worth: the same network trained without it, seed and all else alike; in brackets how "
            f"far {_compared(run)} is ahead.",
            ablation(run),
        ]
    )


def sections(run: Mapping[str, Any]) -> list[str]:
    """The bundled recommender's card: figures on ReDial's test dialogues, over the embedded films."""
    rows = run["rows"]
    said = (
        f"ReDial's test split, the {rows['test_films']:,} examples that ask for one of these {rows['items']:,} films, "
        f"seed {run['seed']}; in brackets 95 % intervals over dialogues. All figures are in `run.json`."
    )
    return ["## Measured", said, _measured(run), "## With films that were named before masked", honest(run)]


def _measured(run: Mapping[str, Any]) -> str:
    rows = run["measures"]["test"]
    lines = ["| | " + " | ".join(_RECALLS) + " |", "|---" * (len(_RECALLS) + 1) + "|"]
    for model in networks(rows)[0]:
        found = protocol.by_name([row for row in rows if row["model"] == model])
        lines.append(f"| {model} | " + " | ".join(_cell(found["published", m]) for m in _RECALLS) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], *, bold: bool = False) -> str:
    if row["value"] is None:
        return ""
    value = f"**{row['value']:.3f}**" if bold else f"{row['value']:.3f}"
    return value if row["low"] is None else f"{value} ({row['low']:.3f}–{row['high']:.3f})"


def _lost(row: Mapping[str, Any], *, first: bool) -> str:
    value, ahead = f"{row['value']:.3f}", row["ahead"]
    if first or not ahead:
        return value
    return f"{value} ({ahead['value']:+.3f}, {ahead['low']:+.3f} to {ahead['high']:+.3f})"
