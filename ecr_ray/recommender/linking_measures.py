"""How well titles are found in free text: `python -m ecr_ray.recommender.linking_measures` → a record.

ReDial's people picked films from a list, so that a message has their ids. The ids are taken away, the titles are
written as people write them, and the linker must find the films again; also in messages that name none.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import records, storage
from ecr_ray.data import reading
from ecr_ray.data.knowledge import split_year
from ecr_ray.recommender import catalogue, examples
from ecr_ray.recommender.linking import FUZZY_LETTERS, Linker
from ecr_ray.recommender.protocol import mean_interval

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "linking.json"
RESAMPLES = 1000


def without_year(title: str, chance: random.Random) -> str:
    """`Heat (1995)` → `Heat`."""
    return split_year(title)[0]


def lower(title: str, chance: random.Random) -> str:
    """`Heat (1995)` → `heat`."""
    return without_year(title, chance).lower()


def slip(title: str, chance: random.Random) -> str:
    """Without its year, in lower case, and with one letter left out where the title is long enough."""
    name = lower(title, chance)
    places = [n for n, c in enumerate(name) if c.isalpha() and n]
    if sum(c.isalnum() for c in name) <= FUZZY_LETTERS or not places:
        return name
    at = chance.choice(places)
    return name[:at] + name[at + 1 :]


Write = Callable[[str, random.Random], str]
WRITINGS: dict[str, Write] = {
    "as picked from the list, with the year": lambda title, chance: title,
    "without the year": without_year,
    "without the year, in lower case": lower,
    "the same, with a letter left out": slip,
}


@dataclass(frozen=True)
class Message:
    """A text and the items in it."""

    dialogue_id: str
    text: str
    items: frozenset[int]


def messages(rows: Iterable[Mapping[str, Any]], resolve: examples.Resolve, write: Write, seed: int) -> list[Message]:
    """Every message of dialogues, with titles written in some way.

    Args:
        rows: dialogue records.
        resolve: which item a film is; messages that name another film are left out, as nobody could find it.
    """
    found = []
    for dialogue in rows:
        titles = {m["movie_id"]: m["title"] for m in dialogue["mentions"]}
        for number, message in enumerate(dialogue["messages"]):
            items = {movie_id: resolve(movie_id, titles.get(movie_id)) for movie_id in message["movie_ids"]}
            if None in items.values() or any(titles.get(movie_id) is None for movie_id in items):
                continue
            chance = random.Random(f"{seed}|{dialogue['dialogue_id']}|{number}")
            text = message["text"]
            # The longest first: a title may stand in another.
            for movie_id in sorted(items, key=lambda m: -len(titles[m])):
                text = text.replace(titles[movie_id], write(titles[movie_id], chance))
            found.append(Message(dialogue["dialogue_id"], text, frozenset(items.values())))
    return found


def measure(linker: Linker, found: Sequence[Message], *, seed: int) -> dict[str, Any]:
    """Precision and recall of items, each with an interval over dialogues, and what was left open."""
    names = {name: n for n, name in enumerate(dict.fromkeys(m.dialogue_id for m in found))}
    right, said, extra = [], [], []
    for message in found:
        linked = set(linker.items(message.text))
        group = names[message.dialogue_id]
        right += [(item in linked, group) for item in message.items]
        said += [(item in message.items, group) for item in linked]
        extra += [link.node is None for link in linker.link(message.text)]
    figures = {}
    for name, rows in (("recall", right), ("precision", said)):
        values, groups = (np.array(column) for column in zip(*rows, strict=True))
        figures[name] = mean_interval(values.astype(float), groups, resamples=RESAMPLES, seed=seed)
    return figures | {"left_open": int(sum(extra)), "messages": len(found)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ecr_ray.recommender.linking_measures", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    what = catalogue.load("redial")
    linker, resolve = Linker(what), examples.resolver(what)
    source = reading.find("redial:test")
    rows = reading.read(source, max_message_chars=20_000, number_rows=False)
    dialogues = [row.value for row in rows if isinstance(row, reading.Row)]
    rows_of = []
    for name, write in WRITINGS.items():
        rows_of.append(
            {"written": name, **measure(linker, messages(dialogues, resolve, write, args.seed), seed=args.seed)}
        )
    record = {
        "evaluation": "linking",
        "command": ["python", "-m", "ecr_ray.recommender.linking_measures"],
        "seed": args.seed,
        "split": "redial:test",
        "inputs": [storage.digest(file)["sha256"] for file in source.files],
        "rows": rows_of,
        "code": records.code_version(),
        "hardware": records.hardware(),
        "packages": records.package_versions(),
    }
    storage.write_json(args.output, record)
    print(table(record))
    print(f"result: {args.output}")


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["| titles written | recall (95 %) | precision (95 %) | left open | messages |", "|---|---|---|---|---|"]
    for row in record["rows"]:
        cells = " | ".join(
            f"{f['value']:.3f} ({f['low']:.3f}–{f['high']:.3f})" for f in (row["recall"], row["precision"])
        )
        lines.append(f"| {row['written']} | {cells} | {row['left_open']:,} | {row['messages']:,} |")
    return "\n".join(lines) + f"\n\n`{' '.join(record['command'])}`, seed {record['seed']}, {record['split']}."


if __name__ == "__main__":
    main()
