"""The bundled models' cards, made from their run records and measures: `python -m ecr_ray.models.cards`.

No figure in a card is typed by hand: training figures come from run.json, quality from evaluation.json.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecr_ray import prompts
from ecr_ray.critic import people
from ecr_ray.models import judge_measures, recipe, tiny
from ecr_ray.models.measure import RECORD

_DATA = """\
ReDial (Li, Kahou, Schulz, Michalski, Charlin, Pal, "Towards Deep Conversational Recommendations", NeurIPS 2018),
licence CC BY 4.0, its split `train` only (UniCRS's `valid` dialogues to choose the weights). Texts are learnt from, not
contained; a model of this size may still repeat short pieces of them. Weights and code: Apache-2.0."""

TEXTS: dict[str, dict[str, str]] = {
    "ecr-tiny-chat": {
        "what": "A Llama of 4.9 million parameters that holds a short conversation about films: it greets, asks what "
        "the seeker likes, names films and says goodbye. The policy of the `tiny` profile, and what PPO starts from.",
        "data": _DATA,
        "cannot": "It knows no more of the world than its training dialogues say. It names films that do not exist, "
        "recommends the same popular ones over and over, forgets what was said a few turns ago, takes any topic for "
        "films, and follows no instructions. It is for trying the pipeline out and for tests, not to be relied on.",
    },
    "ecr-tiny-judge": {
        "what": "The same Llama, tuned to answer the judges' prompt of the rubric `ecr-ma` with four digits.",
        "data": _DATA
        + "\n\nPeople's ratings: USS (Sun, Zhang, Balog, Ren, Ren, Chen, de Rijke, SIGIR 2021) and ABA-ReDial "
        "(Siro, Aliannejadi, de Rijke, SIGIR 2022, MIT). A fifth of the rated dialogues is never learnt from; what "
        "follows was measured on it. Their texts are ReDial train dialogues, which the language model under the judge "
        "has read, without any rating.",
        "cannot": "Where the list above does not say `ahead`, the judge adds nothing that could be shown. How content "
        "a seeker is with a turn its overall score hardly tells; its empathy, which was learnt from just that, tells "
        "a little. It knows only the rubric `ecr-ma`, in English, on ReDial's crowd-sourced dialogues.",
    },
}


def card(name: str, directory: Path) -> str:
    """The card as Markdown."""
    run = json.loads((directory / "run.json").read_text())
    measured = json.loads((directory / RECORD).read_text())
    texts = TEXTS[name]
    kind = name.rpartition("-")[2]
    parts = [
        f"# {name}",
        texts["what"],
        "## Data and licence",
        texts["data"],
        "## How it was made",
        _made(kind, run),
        "## Measured",
        _measured(measured),
    ]
    if "labels" in measured:
        parts += ["## In a sentence", _verdict(measured["rows"], name)]
        parts += ["## What its aspects are learnt from", _labels(measured["labels"])]
    if "samples" in measured:
        parts += ["## Ten replies, as they came", _samples(measured)]
    return "\n\n".join([*parts, "## What it cannot do", texts["cannot"]]) + "\n"


def _made(kind: str, run: Mapping[str, Any]) -> str:
    commands = "\n".join(shlex.join(["python", *words]) for words in recipe.commands(kind))
    found, machine = run["result"], run["hardware"]
    loss = f"held-out loss {found['valid_loss_first']:.3f} → {found['valid_loss_best']:.3f} nats a token"
    minutes = f"{run['timings_s']['train'] / 60:.0f} minutes on {machine['cores']} cores ({machine['cpu']}), no GPU"
    return (
        f"`python -m ecr_ray.models.recipe {kind}`, which is (with the tokenizer of `python -m ecr_ray.models.recipe "
        f"tokenizer`)\n\n```bash\n{commands}\n```\n\nThe last of them: {found['steps']:,} steps, {loss}, seed "
        f"{run['seed']}, {minutes}. The records of the runs are the files `run*.json` here."
    )


def _measured(record: Mapping[str, Any]) -> str:
    models = list(dict.fromkeys(row["model"] for row in record["rows"]))
    measures = list(dict.fromkeys(row["measure"] for row in record["rows"]))
    cells = {(row["measure"], row["model"]): row for row in record["rows"]}
    lines = ["| | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for measure in measures:
        lines.append(f"| {measure} | " + " | ".join(_cell(cells.get((measure, model))) for model in models) + " |")
    n = {f"{row['n']:,} of {row['dialogues']:,} dialogues" for row in record["rows"]}
    command = " ".join(record["command"])
    return (
        "\n".join(lines)
        + f"\n\nIn brackets 95 % intervals, resampling dialogues. Rows: {'; '.join(sorted(n))}. `{command}`, seed "
        + f"{record['seed']}; the figures are in `{RECORD}`."
    )


def _verdict(rows: Sequence[Mapping[str, Any]], ours: str) -> str:
    """Which trivial scores the judge is ahead of, beyond what resampling the dialogues could make."""
    lines = []
    for measure in dict.fromkeys(row["measure"] for row in rows):
        named = {row["model"]: row for row in rows if row["measure"] == measure}
        trivial = [named[name] for name in (people.LENGTH, people.MEAN, judge_measures.UNTRAINED) if name in named]
        ahead = [row["model"] for row in trivial if row["ahead"]["low"] is not None and row["ahead"]["low"] > 0]
        behind = [row["model"] for row in trivial if row["ahead"]["high"] is not None and row["ahead"]["high"] < 0]
        level = [row["model"] for row in trivial if row["model"] not in ahead + behind]
        places = (("ahead of", ahead), ("not to be told from", level), ("behind", behind))
        said = [f"{place} {', '.join(names)}" for place, names in places if names]
        lines.append(f"- {measure}: {ours} is {'; '.join(said)}.")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    if row["low"] is None:
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} ({row['low']:.3g}–{row['high']:.3g})"


def _labels(labels: Mapping[str, Sequence[Any]]) -> str:
    lines = ["| aspect | learnt from | a proxy |", "|---|---|---|"]
    lines += [f"| {aspect} | {text} | {'yes' if proxy else 'no'} |" for aspect, (text, proxy) in labels.items()]
    return "\n".join(lines)


def _samples(record: Mapping[str, Any]) -> str:
    said = [
        f"> **seeker** {_one_line(sample['seeker'])}\n> **reply** {_one_line(sample['reply'])}"
        for sample in record["samples"]
    ]
    how = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in record["decoding"].items())
    return (
        "To turns of the embedded sample's test dialogues, drawn by seed; shown is the seeker's last message only. "
        f"{how}.\n\n" + "\n\n".join(text.replace("\n>", "  \n>") for text in said)
    )


def _one_line(text: str) -> str:
    return "(the recommender speaks first)" if text == prompts.SEEKER_JOINS else " ".join(text.split())


if __name__ == "__main__":
    for model in tiny.BUNDLED:
        if (tiny.HERE / model / RECORD).is_file():
            (tiny.HERE / model / "README.md").write_text(card(model, tiny.HERE / model), encoding="utf-8")
            print(f"result: {tiny.HERE / model / 'README.md'}")
