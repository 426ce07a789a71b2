"""What the card of a policy after PPO says beside its measures: reward against KL for every weight of the KL."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecr_ray import pages
from ecr_ray.models import ppo_measures

PICTURE = "reward-kl.svg"
VERIFIABLE = "verifiable.json"
# Trivial: what needs no PPO.
PEERS = (ppo_measures.BEFORE, ppo_measures.BEST, ppo_measures.PEOPLE)


def runs(directory: Path) -> list[dict[str, Any]]:
    """The records of all runs of the recipe, by the weight of the KL."""
    found = [json.loads(path.read_text()) for path in sorted(directory.glob("run*.json"))]
    return sorted(found, key=lambda run: run["config"]["beta"])


def sections(directory: Path) -> list[str]:
    """Markdown: the sweep as table and picture."""
    draw(directory)
    said = (
        "On held-out questions of ReDial's `valid` split, by the critic that was climbed; the records are the files "
        f"`run*.json`.\n\n![Gain against KL for every weight of the KL]({PICTURE})"
    )
    return ["## More reward for more KL", table(directory), said]


def table(directory: Path) -> str:
    """The sweep as a Markdown table."""
    lines = [
        "| weight of the KL, β | critic before | critic after | gain (95 %) | KL, nats an answer (95 %) | questions |",
        "|---|---|---|---|---|---|",
        *(_line(run) for run in runs(directory)),
    ]
    return "\n".join(lines)


def _line(run: Mapping[str, Any]) -> str:
    found = run["result"]
    gain, kl = found["gain"]["opinion"], found["kl"]
    before, after = found["held_out_before"]["opinion"], found["held_out_kept"]["opinion"]
    return (
        f"| {run['config']['beta']:g} | {before:.3f} | {after:.3f} "
        f"| {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) "
        f"| {kl['value']:.2f} ({kl['low']:.2f}–{kl['high']:.2f}) | {gain['n']} of {gain['dialogues']} dialogues |"
    )


def verifiable(directory: Path) -> str:
    """What anybody can check: a run for answers that end with a question mark, as a Markdown table."""
    run = json.loads((directory / VERIFIABLE).read_text())
    found = run["result"]
    before, after = (found[key]["opinion"] for key in ("held_out_before", "held_out_kept"))
    gain, kl = found["gain"]["opinion"], found["kl"]
    minutes = run["timings_s"]["train"] / 60
    return "\n".join(
        [
            "| answers that end with a question mark | before | after | gain (95 %) | KL, nats an answer "
            "| steps | minutes |",
            "|---|---|---|---|---|---|---|",
            f"| held-out questions: {gain['n']} of {gain['dialogues']} dialogues | {before:.3f} | {after:.3f} "
            f"| {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) "
            f"| {kl['value']:.2f} ({kl['low']:.2f}–{kl['high']:.2f}) | {found['steps']} | {minutes:.1f} |",
            "",
            f"`python {' '.join(run['command'])}`, seed {run['seed']}, {run['hardware']['cores']} cores.",
        ]
    )


def draw(directory: Path) -> None:
    """The picture."""
    figure, axis = pages.figure(figsize=(5, 3.2))
    for run in runs(directory):
        gain, kl = run["result"]["gain"]["opinion"], run["result"]["kl"]
        spread = [[gain["value"] - gain["low"]], [gain["high"] - gain["value"]]]
        across = [[kl["value"] - kl["low"]], [kl["high"] - kl["value"]]]
        axis.errorbar([kl["value"]], [gain["value"]], yerr=spread, xerr=across, fmt="o", capsize=2, color="#0072b2")
        axis.annotate(f" β = {run['config']['beta']:g}", (kl["value"], gain["value"]), va="top")
    axis.plot([0], [0], "s", color="#666666")
    axis.annotate(" before PPO", (0, 0), va="bottom")
    axis.set_xlabel("KL from the policy before PPO, nats an answer")
    axis.set_ylabel("gain in the critic's eyes")
    axis.grid(alpha=0.3)
    (directory / PICTURE).write_text(pages.svg(figure), encoding="utf-8")


def samples(record: Mapping[str, Any]) -> str:
    """Answers before and after, side by side."""
    lines = ["| seeker | before PPO | after |", "|---|---|---|"]
    for sample in record["samples"]:
        cells = (" ".join(sample[key].split()).replace("|", "\\|") for key in ("seeker", "before", "reply"))
        lines.append(f"| {' | '.join(cells)} |")
    how = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in record["decoding"].items())
    return (
        "To turns of the embedded sample's test dialogues, drawn by seed, with the same random numbers; shown is the "
        f"seeker's last message only. {how}.\n\n" + "\n".join(lines)
    )
