"""Which replies a rater sees, in what order, and under what number. Pure but for the chance that blinds.

A rater sees one dialogue after the other, in an order drawn for that rater, and under each the reply of every system.
The systems' order is a row of a balanced Latin square (Williams 1949): over the dialogues of one rater every system
stands in every place equally often, to within one, and one rater's row for a dialogue is not the next rater's. Some
replies come a second time, later, alone: how consistent a rater is.

The seed chooses the turns. Numbers and orders are drawn from the machine's own chance: from a seed they could be found
out.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ecr_ray import prompts

LOWEST, HIGHEST = 0, 9
# The five measures of the ECR paper, as the judges are told them, and the one that it asked of people alone.
MEASURES = {
    **prompts.RUBRICS["ecr"].aspects,
    "satisfaction": "how satisfied you would be with it, all in all, in the seeker's place",
}


@dataclass(frozen=True)
class Item:
    """A reply as one rater meets it. `item` is all that the sheet says of where it is from."""

    item: str
    system: str
    turn_id: str
    dialogue_id: str
    again: bool
    """Whether the rater has had it before."""


def squares(count: int) -> list[np.ndarray]:
    """Latin squares of so many systems, (count, count) each: one if count is even, two if it is odd.

    In each every system stands once in every row and every place; over all of them every system follows every other
    equally often.
    """
    zigzag = [(n + 1) // 2 if n % 2 else -n // 2 for n in range(count)]
    first = (np.array(zigzag)[None] + np.arange(count)[:, None]) % count
    return [first] if count % 2 == 0 else [first, first[:, ::-1]]


def lay_out(turns: Sequence[tuple[str, str]], systems: Sequence[str], raters: int, repeat: float) -> list[list[Item]]:
    """Every rater's items in the order in which they are met.

    Args:
        turns: (turn, dialogue) of every turn; all raters rate all of them.
        systems: names.
        raters: how many.
        repeat: the share of a rater's replies that come twice; at least one, unless it is 0.
    """
    rng = np.random.default_rng(secrets.randbits(128))
    numbers = _numbers()
    # Which letter of the square is which system, and which row is whose turn's, is chance, too.
    names = [systems[n] for n in rng.permutation(len(systems))]
    place = rng.permutation(len(turns))
    return [_of_rater(rater, turns, names, place, repeat, rng, numbers) for rater in range(raters)]


def _of_rater(
    rater: int,
    turns: Sequence[tuple[str, str]],
    names: Sequence[str],
    place: np.ndarray,
    repeat: float,
    rng: np.random.Generator,
    numbers: Iterator[str],
) -> list[Item]:
    drawn = squares(len(names))
    order = rng.permutation(len(turns))
    blocks = []
    for n in order:
        square, row = divmod(int(place[n]), len(names))
        systems = drawn[square % len(drawn)][(row + rater) % len(names)]
        blocks.append([Item(next(numbers), names[s], *turns[n], again=False) for s in systems])
    return _with_repeats(blocks, repeat, rng, numbers)


def _with_repeats(
    blocks: Sequence[Sequence[Item]], repeat: float, rng: np.random.Generator, numbers: Iterator[str]
) -> list[Item]:
    """The same items in a row, and some of the first half's again between the dialogues of the second half."""
    half = (len(blocks) + 1) // 2
    early = [item for block in blocks[:half] for item in block]
    wanted = max(1, round(repeat * sum(map(len, blocks)))) if repeat else 0
    later: dict[int, list[Item]] = {}
    for n in rng.permutation(len(early))[:wanted]:
        item = early[n]
        after = int(rng.integers(min(half + 1, len(blocks)), len(blocks) + 1))
        later.setdefault(after, []).append(Item(next(numbers), item.system, item.turn_id, item.dialogue_id, again=True))
    found: list[Item] = []
    for n in range(len(blocks) + 1):
        found += later.get(n, [])
        found += blocks[n] if n < len(blocks) else []
    return found


def _numbers() -> Iterator[str]:
    """Numbers without a meaning, none twice; of seven digits, which no spreadsheet rewrites."""
    used: set[int] = set()
    while True:
        number = 1_000_000 + secrets.randbelow(9_000_000)
        if number not in used:
            used.add(number)
            yield str(number)
