"""What a simulated user is after: a film whose title it never says, and a taste that leads there."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecr_ray.data.knowledge import normal
from ecr_ray.errors import UserError
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.recommender import examples
from ecr_ray.recommender.catalogue import DECADE, Catalogue, Item
from ecr_ray.records import EMOTIONS

# What people know of a film that they look for, in the order in which it comes to their minds; of each so many.
TOLD, OF_EACH = ("genre", "star", "director", DECADE), 3
# Films that a user says it likes.
LIKED = 2


class SimulationError(UserError):
    """A simulation that cannot be run."""


@dataclass(frozen=True)
class Task:
    """One user's wish."""

    task_id: str
    target: str
    """Id of the film."""
    likes: tuple[str, ...]
    """Titles of other films."""
    facts: tuple[tuple[str, str], ...]
    """(relation, name) of the film; none gives its title away."""
    feeling: str
    """One of the nine emotions; it colours the wording."""


def draw_tasks(
    catalogue: Catalogue, count: int, seed: int, dialogues: Iterable[Mapping[str, Any]] | None = None
) -> list[Task]:
    """Up to so many tasks, the same for the same seed.

    Args:
        dialogues: real ones. The target is the last film that the recommender suggested and the seeker liked, the
            taste what the seeker named before. Without them targets are drawn among the films that have facts, and
            the taste is what shares the most facts with them.

    Raises:
        SimulationError: not one can be made.
    """
    found = _of_catalogue(catalogue, seed) if dialogues is None else _of_dialogues(catalogue, dialogues, seed)
    # Not those that come first in a file: these may be one worker's.
    order = [found[n] for n in np.random.default_rng(seed).permutation(len(found))] if dialogues is not None else found
    tasks = order[:count]
    if not tasks:
        raise SimulationError(
            f"no talk can be simulated: not one of the catalogue's {len(catalogue)} films has facts and a like"
            if dialogues is None
            else "no talk can be simulated: no dialogue has a suggested film of the catalogue that the seeker liked, "
            "after one that the seeker named"
        )
    return tasks


def random_of(seed: int, *names: object) -> np.random.Generator:
    """A generator for one purpose: the same names give the same numbers, whoever else draws."""
    return np.random.default_rng([seed, zlib.crc32("\n".join(map(str, names)).encode())])


# --- from a catalogue -------------------------------------------------------------------------------------


def _of_catalogue(catalogue: Catalogue, seed: int) -> list[Task]:
    """A task for every film that has facts and at least one film like it, in a drawn order."""
    watch = Watch(catalogue)
    shared = [{(fact.relation, normal(fact.name)) for fact in item.facts} for item in catalogue.items]
    having: dict[tuple[str, str], list[int]] = {}
    for number, facts in enumerate(shared):
        for fact in facts:
            having.setdefault(fact, []).append(number)
    found = []
    for number in np.random.default_rng(seed).permutation(len(catalogue)):
        item = catalogue.items[number]
        rng = random_of(seed, item.item_id)
        near = Counter(other for fact in shared[number] for other in having[fact] if other != number)
        likes = _likes(_closest(near, rng.permutation(len(catalogue))), item, catalogue, watch)
        facts = _facts(item, watch)
        if likes and facts:
            found.append(Task(f"film-{item.item_id}", item.item_id, likes, facts, str(rng.choice(EMOTIONS))))
    return found


def _closest(shared: Mapping[int, int], ties: np.ndarray) -> list[int]:
    """Films by how many facts they share, of equal ones in a drawn order."""
    return sorted(shared, key=lambda number: (-shared[number], ties[number]))


def _likes(numbers: Iterable[int], target: Item, catalogue: Catalogue, watch: Watch) -> tuple[str, ...]:
    """The first titles that do not hold the target's."""
    titles = (catalogue.items[number].title for number in numbers)
    kept = []
    for title in titles:
        if len(kept) == LIKED:
            break
        if title not in kept and not watch.leaks(title, target.item_id):
            kept.append(title)
    return tuple(kept)


def _facts(item: Item, watch: Watch) -> tuple[tuple[str, str], ...]:
    """What may be told of a film; nothing where its year is all that is known."""
    facts = [(fact.relation, fact.name) for fact in item.facts]
    if item.year:
        facts.append((DECADE, f"{item.year // 10}0s"))
    kept = []
    for relation in TOLD:
        names = dict.fromkeys(name for found, name in facts if found == relation)
        kept += [(relation, name) for name in names if not watch.leaks(name, item.item_id)][:OF_EACH]
    return tuple(kept) if any(relation != DECADE for relation, _ in kept) else ()


# --- from dialogues ---------------------------------------------------------------------------------------


def _of_dialogues(catalogue: Catalogue, dialogues: Iterable[Mapping[str, Any]], seed: int) -> list[Task]:
    watch, resolve = Watch(catalogue), examples.resolver(catalogue)
    return [task for dialogue in dialogues for task in _of_dialogue(dialogue, catalogue, watch, resolve, seed)]


def _of_dialogue(
    dialogue: Mapping[str, Any], catalogue: Catalogue, watch: Watch, resolve: examples.Resolve, seed: int
) -> Iterator[Task]:
    """One task, or none."""
    mentions = {mention["movie_id"]: mention for mention in dialogue["mentions"]}

    def item_of(movie_id: str) -> int | None:
        return resolve(movie_id, mentions[movie_id]["title"] if movie_id in mentions else None)

    wanted = {movie_id for movie_id, m in mentions.items() if m["suggested"] == 1 and m["liked"] == 1}
    unliked = {movie_id for movie_id, m in mentions.items() if m["liked"] == 0}
    named: list[int] = []
    said: list[Mapping[str, Any]] = []
    target, before, heard = None, 0, 0
    for message in dialogue["messages"]:
        films = [(movie_id, item_of(movie_id)) for movie_id in message["movie_ids"] or ()]
        if message["role"] == "seeker":
            named += [n for movie_id, n in films if n is not None and movie_id not in unliked]
            said.append(message)
            continue
        for movie_id, number in films:
            # Whoever named it first knew it already.
            if number is not None and movie_id in wanted and number not in named:
                target, before, heard = number, len(named), len(said)
    if target is None:
        return
    item = catalogue.items[target]
    likes, facts = _likes(named[:before], item, catalogue, watch), _facts(item, watch)
    if likes and facts:
        feeling = _felt(said[:heard]) or str(random_of(seed, dialogue["dialogue_id"]).choice(EMOTIONS))
        yield Task(dialogue["dialogue_id"], item.item_id, likes, facts, feeling)


def _felt(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The likeliest feeling in somebody's messages, where feelings were read."""
    found = [(emotion["prob"], emotion["label"]) for message in messages for emotion in message["emotions"] or ()]
    feelings = [(prob, label) for prob, label in found if label != "neutral"] or found
    return max(feelings)[1] if feelings else None
