"""Dialogues → what a recommender is asked: at every turn of the recommender, who said what and which films were named.

As in the published protocol, films are counted once a message, a turn is all consecutive messages of one speaker, and
every film that the recommender's turn names is one example.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecr_ray.data.knowledge import normal
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.protocol import Examples
from ecr_ray.records import EMOTIONS, ROLES

# How much an example counts in training, by what the seeker said of the film: 0 dislikes it, 1 likes it, 2 did not
# say (ECR, RecSys 2024); where nobody filled the form in, it is not known, and counts as in a loss without weights.
FEEDBACK_WEIGHTS = {1: 2.0, 0: 1.0, 2: 0.5, None: 1.0}


@dataclass(frozen=True)
class Mention:
    """An item that somebody named before the turn."""

    item: int
    role: int
    """Place in ROLES: 0 the seeker, 1 the recommender."""
    index: int
    """Of the turn in which it was named."""
    emotions: tuple[float, ...] = ()
    """Of the seeker's turn that names it, or that answers the recommender who did, as in ECR; empty where there is
    none (yet)."""


@dataclass(frozen=True)
class Turn:
    """One turn of the recommender, and everything before it."""

    dialogue_id: str
    index: int
    texts: tuple[str, ...]
    roles: tuple[int, ...]
    mentions: tuple[Mention, ...]
    targets: tuple[int, ...] = ()
    """Items that the turn names, in order."""
    liked: tuple[int | None, ...] = ()
    """Of each of them: 1 liked, 0 not, 2 did not say, None not asked."""
    unknown: tuple[str, ...] = field(default=())
    """Ids of films that the turn names and the catalogue does not have."""

    @property
    def mentioned(self) -> list[int]:
        """The items named before, each once, the newest first."""
        return list(dict.fromkeys(mention.item for mention in reversed(self.mentions)))


Resolve = Callable[[str, str | None], int | None]


def resolver(catalogue: Catalogue) -> Resolve:
    """(movie id, title) → item, or None. An id that the catalogue does not have is looked for by its title; with a
    year it is the film of that year or none, and of several films of a name none is taken."""
    numbers, names = catalogue.numbers(), catalogue.by_name()

    def resolve(movie_id: str, title: str | None) -> int | None:
        if movie_id in numbers:
            return numbers[movie_id]
        found = names.get(normal(title), []) if title else []
        return found[0] if len(found) == 1 else None

    return resolve


def has_ids(dialogue: Mapping[str, Any]) -> bool:
    """Whether anybody said by id which films its messages name."""
    return any(message["movie_ids"] for message in dialogue["messages"])


def of_dialogue(
    dialogue: Mapping[str, Any], resolve: Resolve, link: Callable[[str], list[int]] | None = None
) -> Iterator[Turn]:
    """Every turn of the recommender, also those that name no film.

    Args:
        resolve: finds a film by its id.
        link: finds films in a text, where messages have no ids.
    """
    titles = {mention["movie_id"]: mention["title"] for mention in dialogue["mentions"]}
    liked = {mention["movie_id"]: mention["liked"] for mention in dialogue["mentions"]}
    turns = _turns(dialogue["messages"])
    mentions: list[Mention] = []
    for index, (role, said, ids, _) in enumerate(turns):
        found: list[tuple[str, int | None]] = (
            [("", item) for item in dict.fromkeys(item for text in said for item in link(text))]
            if link
            else [(movie_id, resolve(movie_id, titles.get(movie_id))) for movie_id in ids]
        )
        known = [(movie_id, item) for movie_id, item in found if item is not None]
        if role == ROLES.index("recommender"):
            yield Turn(
                dialogue["dialogue_id"],
                index,
                tuple(" ".join(texts) for _, texts, _, _ in turns[:index]),
                tuple(who for who, *_ in turns[:index]),
                tuple(_with_emotions(mention, turns, index) for mention in mentions),
                tuple(item for _, item in known),
                tuple(liked.get(movie_id) for movie_id, _ in known),
                tuple(movie_id for movie_id, item in found if item is None),
            )
        mentions += [Mention(item, role, index) for _, item in known]


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[str], list[str], dict[str, float]]]:
    """(role, texts, movie ids, emotions) of every speaker's turn; ids once a message."""
    turns: list[tuple[int, list[str], list[str], dict[str, float]]] = []
    for message in messages:
        role = ROLES.index(message["role"])
        if not turns or turns[-1][0] != role:
            turns.append((role, [], [], {}))
        _, texts, ids, emotions = turns[-1]
        texts.append(message["text"])
        ids += dict.fromkeys(message["movie_ids"])
        for emotion in message["emotions"] or ():
            emotions[emotion["label"]] = max(emotion["prob"], emotions.get(emotion["label"], 0.0))
    return turns


def _with_emotions(mention: Mention, turns: Sequence[tuple[int, Any, Any, Mapping[str, float]]], now: int) -> Mention:
    """With the emotions of the seeker's turn that belongs to it, if that was before the turn `now`."""
    felt = mention.index if mention.role == ROLES.index("seeker") else mention.index + 1
    if felt >= now or not turns[felt][3]:
        return mention
    emotions = tuple(turns[felt][3].get(label, 0.0) for label in EMOTIONS)
    return Mention(mention.item, mention.role, mention.index, emotions)


def of_context(context: Sequence[Mapping[str, Any]], resolve: Resolve, link: Callable[[str], list[int]]) -> Turn:
    """What is asked after a dialogue (`role`, `text`, perhaps `movie_ids` and `emotions`): whoever has no ids links."""
    messages = [{"movie_ids": [], "emotions": [], **message} for message in context]
    turns = _turns(messages)
    mentions: list[Mention] = []
    for index, (role, texts, ids, _) in enumerate(turns):
        items = [item for movie_id in ids if (item := resolve(movie_id, None)) is not None]
        items = list(dict.fromkeys([*items, *(item for text in texts for item in link(text))]))
        mentions += [Mention(item, role, index) for item in items]
    return Turn(
        "",
        len(turns),
        tuple(" ".join(texts) for _, texts, _, _ in turns),
        tuple(role for role, *_ in turns),
        tuple(_with_emotions(mention, turns, len(turns)) for mention in mentions),
    )


def to_rank(turns: Iterable[Turn]) -> tuple[list[Turn], Examples, np.ndarray]:
    """The turns that name a film, their examples, and the turn (by place in that list) of every example."""
    asked = [turn for turn in turns if turn.targets]
    numbers: dict[str, int] = {}
    rows = [
        (item, -1 if liked not in (0, 1) else liked, numbers.setdefault(turn.dialogue_id, len(numbers)), place)
        for place, turn in enumerate(asked)
        for item, liked in zip(turn.targets, turn.liked, strict=True)
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return asked, Examples(*columns[:3]), columns[3]


def popularity(turns: Iterable[Turn], items: int) -> np.ndarray:
    """How many dialogues name each item, (I,)."""
    return mentions_matrix(turns, items)[0].sum(0)


def mentions_matrix(turns: Iterable[Turn], items: int) -> tuple[np.ndarray, list[str]]:
    """Which dialogue names which item at all, (D, I) of 0 and 1, and the dialogues' ids."""
    named: dict[str, set[int]] = {}
    for turn in turns:
        named.setdefault(turn.dialogue_id, set()).update(turn.mentioned, turn.targets)
    matrix = np.zeros((len(named), items), dtype=np.float32)
    for row, found in enumerate(named.values()):
        matrix[row, list(found)] = 1
    return matrix, list(named)
