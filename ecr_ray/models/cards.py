"""The bundled models' cards, made from their run records and measures: `python -m ecr_ray.models.cards`.

No figure in a card is typed by hand: training figures come from run.json, quality from evaluation.json.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecr_ray import prompts
from ecr_ray.critic import evaluate, people
from ecr_ray.emotion import card as emotion_card
from ecr_ray.models import judge_measures, ppo_card, recipe, tiny
from ecr_ray.models.measure import RECORD
from ecr_ray.recommender import card as recommender_card

_DATA = """\
ReDial (Li, Kahou, Schulz, Michalski, Charlin, Pal, "Towards Deep Conversational Recommendations", NeurIPS 2018),
licence CC BY 4.0, its split `train` only (UniCRS's `valid` dialogues to choose the weights). Texts are learnt from, not
contained; a model of this size may still repeat short pieces of them. Weights and code: Apache-2.0."""

_HALF = """\

Of the other dialogues it learnt from one half, its twin from the other: the two have no rating in common. Neither
taught the bundled critic, so what PPO gains against that critic can be asked of them. What they share with it is the
kind of ratings, and with the policies the chat model that they all grew from."""

_PEOPLE = """\
People's ratings: USS (Sun, Zhang, Balog, Ren, Ren, Chen, de Rijke, SIGIR 2021) and ABA-ReDial (Siro, Aliannejadi, de
Rijke, SIGIR 2022, MIT). A fifth of the rated dialogues is never learnt from; figures against people are of these."""

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
        + f"\n\n{_PEOPLE} Their texts are ReDial train dialogues, which the language model under the judge has read, "
        "without any rating.",
        "cannot": "Where the list above does not say `ahead`, the judge adds nothing that could be shown. How content "
        "a seeker is with a turn its overall score hardly tells; its empathy, which was learnt from just that, tells "
        "a little. It knows only the rubric `ecr-ma`, in English, on ReDial's crowd-sourced dialogues.",
    },
    **{
        f"ecr-tiny-judge-{one}": {
            "what": f"A judge for evaluations, the twin of ecr-tiny-judge-{other}: ecr-tiny-chat, tuned to answer the "
            "judges' prompt of the rubric `ecr-ma` with four digits.",
            "data": f"{_DATA}\n\n{_PEOPLE}{_HALF}",
            "cannot": "Where the list above does not say `ahead`, the judge adds nothing that could be shown. It knows "
            "only the rubric `ecr-ma`, in English, on ReDial's crowd-sourced dialogues, and was never taught to set "
            "two replies against each other.",
        }
        for one, other in ("ab", "ba")
    },
    "ecr-tiny-reader": {
        "what": "A reaction reader: all-MiniLM-L6-v2 (Apache-2.0, comes as a package) with two layers and a head tuned "
        "to read from what a seeker said *next* how content they were with the turn before. Hindsight of "
        "jobs/train_critic.py; it is no reward, because a reward cannot see what comes next.",
        "data": _PEOPLE,
        "cannot": "It was tuned on ten thousand ratings of one source, in English. Ratings of one person go with those "
        "of the others about as little as its own do; of a single turn it says little, of many something.",
    },
    "ecr-tiny-critic": {
        "what": "The critic of the `tiny` profile and the reward of its PPO: all-MiniLM-L6-v2 (Apache-2.0, comes as a "
        "package; only what differs from it is stored here) with a head for every aspect of the rubric `ecr-ma`, for "
        "hindsight (the seeker's reaction; whether the films that were named are liked), and for `overall`, each with "
        "an uncertainty of its own.",
        "data": _DATA + "\n\nTargets: the scores of ecr-tiny-judge, and hindsight: ecr-tiny-reader's reading of what "
        "the seeker said next, people's own ratings where there are some, the seeker's form for the films that a reply "
        "names. " + _PEOPLE,
        "cannot": "It is worth what its targets are: a small judge and a reader that knows ten thousand ratings. Where "
        "the lists above do not say `ahead`, it adds nothing that could be shown. To climb it far is to climb its "
        "errors; what PPO gains must be judged by somebody who took no part.",
    },
    "ecr-tiny-ppo": {
        "what": "ecr-tiny-chat after PPO against ecr-tiny-critic: a LoRA adapter of 290 thousand weights that "
        "transformers, PEFT and vLLM load over it. The policy of the `tiny` profile.",
        "data": _DATA + "\n\nIts questions are turns of ReDial's `train` split; nobody's answers are learnt from, "
        "only what the critic says of its own.",
        "cannot": "What it gained is what the critic likes, and that is answers that name films: it names more "
        "of them, also to those who say goodbye. Where the list above does not say `ahead` for a judge that took no "
        "part, PPO did not make it better in that judge's eyes. "
        "It is as small and forgetful as the chat model under it.",
    },
    "ecr-tiny-emotion": {
        "what": "Reads the nine emotions of the ECR paper in a message, each with a probability: all-MiniLM-L6-v2 "
        "(Apache-2.0, comes as a package; adapters and a head are stored here). The annotator of jobs/annotate.py.",
        "data": emotion_card.DATA,
        "cannot": emotion_card.CANNOT,
    },
    "ecr-tiny-recommender": {
        "what": "Ranks the films of the embedded sample after a dialogue, and says why: who named which films, with "
        "what feeling, in what words. all-MiniLM-L6-v2 (Apache-2.0, comes as a package) reads the words.",
        "data": recommender_card.DATA,
        "cannot": recommender_card.CANNOT,
    },
}


def card(name: str, directory: Path) -> str:
    """The card as Markdown."""
    run = json.loads((directory / "run.json").read_text())
    texts = TEXTS[name]
    parts = [
        f"# {name}",
        texts["what"],
        "## Data and licence",
        texts["data"],
        "## How it was made",
        _made(name.removeprefix("ecr-tiny-"), run),
        *_figures(name, directory, run),
    ]
    return "\n\n".join([*parts, "## What it cannot do", texts["cannot"]]) + "\n"


def _figures(name: str, directory: Path, run: Mapping[str, Any]) -> list[str]:
    if run["stage"] == "emotion":
        return emotion_card.sections(run)
    if run["stage"] == "recommender":
        return recommender_card.sections(run)
    return _critic(run) if run["stage"] == "critic" else _language_model(name, directory)


def _language_model(name: str, directory: Path) -> list[str]:
    measured = json.loads((directory / RECORD).read_text())
    command = " ".join(measured["command"])
    where = f"`{command}`, seed {measured['seed']}; the figures are in `{RECORD}`."
    parts = ["## Measured", _measured(measured["rows"], where)]
    if "labels" in measured:
        trivial = (people.LENGTH, people.MEAN, judge_measures.UNTRAINED)
        parts += ["## In a sentence", _verdict(measured["rows"], name, trivial)]
        parts += ["## What its aspects are learnt from", _labels(measured["labels"])]
    if name == "ecr-tiny-ppo":
        parts += ["## In a sentence", _verdict(measured["rows"], name, ppo_card.PEERS), *ppo_card.sections(directory)]
        return [*parts, "## Ten replies, as they came", ppo_card.samples(measured)]
    if "samples" in measured:
        parts += ["## Ten replies, as they came", _samples(measured)]
    return parts


def _critic(run: Mapping[str, Any]) -> list[str]:
    """A critic measures itself at the end of its run; of people's ratings the last head's and the reaction's matter."""
    ours = f"{evaluate.CRITIC}: {run['heads'][-1]}"
    kept = {ours, f"{evaluate.CRITIC}: reaction"}
    held_out = [_named(row) for row in run["measures"]]
    rated = [_named(r) for r in run["people"] if r["model"] in kept or not r["model"].startswith(evaluate.CRITIC)]
    where = f"The job measures by itself; all figures are in `run.json`, seed {run['seed']}."
    parts = []
    if held_out:
        parts += [
            "## Measured on held-out targets",
            _measured(held_out, where),
            _verdict(held_out, evaluate.CRITIC, (evaluate.MEAN, evaluate.LENGTH, evaluate.WORDS)),
        ]
    return [
        *parts,
        "## Measured on people",
        _measured(rated, where),
        _verdict(rated, ours, (people.LENGTH, people.MEAN, evaluate.WORDS)),
        "## Where its targets come from",
        _sources(run),
    ]


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "measure": f"{row['measure']}, {row['head']}"}


def _sources(run: Mapping[str, Any]) -> str:
    known = [f"| {head} | {count:,} |" for head, count in run["known_targets"].items()]
    mixed = ", ".join(f"{source} {count:,}" for source, count in run["overall_from"].items())
    table = "\n".join(["| head | turns learnt that know it |", "|---|---|", *known])
    return f"{table}\n\n`{run['heads'][-1]}` of all turns, of every split, is from: {mixed}."


def _made(kind: str, run: Mapping[str, Any]) -> str:
    commands = "\n".join(shlex.join(["python", *words]) for words in recipe.commands(kind))
    machine = run["hardware"]
    seconds = sum(spent for name, spent in run["timings_s"].items() if name.startswith("train"))
    minutes = f"{seconds / 60:.0f} minutes on {machine['cores']} cores ({machine['cpu']}), no GPU"
    with_ = (
        ""
        if run["stage"] in ("critic", "emotion", "recommender")
        else " (with the tokenizer of `python -m ecr_ray.models.recipe tokenizer`)"
    )
    return (
        f"`python -m ecr_ray.models.recipe {kind}`, which is{with_}\n\n```bash\n{commands}\n```\n\n"
        f"The last of them: {_went(run['result'])}, seed {run['seed']}, {minutes}. The runs' records are the files "
        "`run*.json` here."
    )


def _went(found: Mapping[str, Any]) -> str:
    if "network 1" in found:
        only = found["network 1"]
        return f"{only['step']:,} steps, the weights of step {only['best_step']:,}, loss {only['best']:.3f} nats a film"
    if "gain" in found:
        return f"{found['steps']:,} steps, the policy of step {found['kept_step']:,}"
    if "steps" in found:
        loss = f"held-out loss {found['valid_loss_first']:.3f} → {found['valid_loss_best']:.3f} nats a token"
        return f"{found['steps']:,} steps, {loss}"
    best = f"{found['best']:.3f} of the held-out targets' variance not explained (1: what their mean gives)"
    return f"{found['step']:,} steps, the weights of step {found['best_step']:,}, {best}"


def _measured(rows: Sequence[Mapping[str, Any]], where: str) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells = {(row["measure"], row["model"]): row for row in rows}
    lines = ["| | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for measure in measures:
        lines.append(f"| {measure} | " + " | ".join(_cell(cells.get((measure, model))) for model in models) + " |")
    n = {f"{row['n']:,} of {row['dialogues']:,} dialogues" for row in rows}
    said = f"In brackets 95 % intervals, resampling dialogues. Rows: {'; '.join(sorted(n))}. {where}"
    return "\n".join(lines) + f"\n\n{said}"


def _verdict(rows: Sequence[Mapping[str, Any]], ours: str, trivial_names: Sequence[str]) -> str:
    """Which trivial scores `ours` is ahead of, beyond what resampling the dialogues could make."""
    lines = []
    for measure in dict.fromkeys(row["measure"] for row in rows):
        named = {row["model"]: row for row in rows if row["measure"] == measure}
        trivial = [named[name] for name in trivial_names if name in named and named[name]["ahead"]]
        if not trivial:
            continue
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
    for model in TEXTS:
        if (tiny.HERE / model / "run.json").is_file():
            (tiny.HERE / model / "README.md").write_text(card(model, tiny.HERE / model), encoding="utf-8")
            print(f"result: {tiny.HERE / model / 'README.md'}")
