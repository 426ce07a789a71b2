"""Why a film is recommended, as a person reads it: which mention, which feeling, which shared director, star or genre.

A reason is read off the dialogue and the catalogue's facts. It says what connects the film with what was said, not
what a network computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ecr_ray.data.knowledge import Fact, normal
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.examples import Mention, Turn
from ecr_ray.records import EMOTIONS, ROLES

# How a mention is spoken of, by the feeling that goes with it. Of a bad one nothing: it would be no reason, and fear
# may be what somebody enjoyed.
FEELINGS = {
    "like": "which you like",
    "curious": "which you are curious about",
    "happy": "which makes you happy",
    "grateful": "which you were glad about",
    "nostalgia": "which you remember fondly",
    "surprise": "which surprised you",
}
# What connects two films, from the strongest on.
_STRENGTH = ("director", "writer", "star", "music composer", "production company", "genre")
_SAYS = {
    "director": "is by {name}, like {title}",
    "writer": "was written by {name}, like {title}",
    "star": "has {name} in it, like {title}",
    "music composer": "has music by {name}, like {title}",
    "production company": "was made by {name}, like {title}",
    "genre": "is {name}, like {title}",
}
# Less than this says nothing of how somebody feels.
_FELT = 0.3


@dataclass(frozen=True)
class Reason:
    """What connects an item with the dialogue; `text` is a sentence without its subject."""

    text: str
    mention: int | None = None
    """The item that was named."""
    emotion: str | None = None
    shared: tuple[tuple[str, str], ...] = ()
    """(relation, name) that both have."""


def reason(item: int, turn: Turn, catalogue: Catalogue, near: Mapping[int, float] | None = None) -> Reason:
    """Why this item, after this dialogue.

    Args:
        near: how close each mentioned item is in the eyes of whoever ranked; of equally connected mentions the
            closest is named.
    """
    if item in turn.mentioned:
        return Reason("was named before in this conversation", mention=item)
    mine = facts_of(catalogue, item)
    # Nobody wants a film because of one that they did not enjoy, if there is another.
    best, best_key = None, (False, 0.0, 0.0)
    for mention in turn.mentions:
        shared = _shared(mine, facts_of(catalogue, mention.item))
        key = (felt(mention) != "negative", _strength(shared), (near or {}).get(mention.item, 0.0))
        if best is None or key > best_key:
            best, best_key = (mention, shared), key
    if best is not None and (best[1] or best_key[2] > 0):
        return _of_mention(*best, catalogue)
    asked = asked_for(turn, mine)
    if asked:
        relation, name = asked[0]
        said = f"is {name}" if relation == "genre" else f"has to do with {name}"
        return Reason(f"{said}, which you asked about", shared=tuple(asked))
    if turn.mentions:
        return _of_mention(turn.mentions[-1], (), catalogue)
    return Reason("suits what you said, and is often recommended")


def _of_mention(mention: Mention, shared: Sequence[tuple[str, str]], catalogue: Catalogue) -> Reason:
    title = catalogue.items[mention.item].title
    feeling = felt(mention)
    theirs = f", {FEELINGS[feeling]}" if feeling in FEELINGS else ""
    if not shared:
        text = f"is often named beside {title}{theirs}"
    else:
        relation = min((relation for relation, _ in shared), key=_STRENGTH.index)
        names = [name for found, name in shared if found == relation]
        text = _SAYS[relation].format(name=" and ".join(names[:2]), title=title) + theirs
    return Reason(text, mention.item, feeling, tuple(shared))


def felt(mention: Mention) -> str | None:
    """The likeliest feeling that goes with a mention, where one was read that is worth a word."""
    if not mention.emotions:
        return None
    known = np.array(mention.emotions)
    known[EMOTIONS.index("neutral")] = 0
    return EMOTIONS[int(known.argmax())] if known.max() >= _FELT else None


def facts_of(catalogue: Catalogue, item: int) -> dict[tuple[str, str], str]:
    """(relation, normal name) → the name as written, of the relations that a reason may name."""
    facts: Sequence[Fact] = catalogue.items[item].facts
    return {(fact.relation, _key(fact.name)): fact.name for fact in facts if fact.relation in _STRENGTH}


# The same names come up after every dialogue.
_key = lru_cache(100_000)(normal)


def _shared(mine: Mapping[tuple[str, str], str], theirs: Mapping[tuple[str, str], str]) -> tuple[tuple[str, str], ...]:
    return tuple((relation, name) for (relation, key), name in mine.items() if (relation, key) in theirs)


def _strength(shared: Sequence[tuple[str, str]]) -> float:
    return sum(len(_STRENGTH) - _STRENGTH.index(relation) for relation, _ in shared)


def asked_for(turn: Turn, facts: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Facts whose names the seeker said."""
    role = ROLES.index("seeker")
    said = " ".join(normal(text) for text, who in zip(turn.texts, turn.roles, strict=True) if who == role)
    return [(relation, name) for (relation, key), name in facts.items() if key and f" {key} " in f" {said} "]
