"""What goes into an emotion-aligned prompt beside the film's name: facts of the graph and related names.

For training, a review's facts and names are those that its own text speaks of, so that the policy learns to use what
it is given; for inference they are drawn from the film's. Limits and filters are the ECR paper's (RecSys 2024,
section 4.3); every choice depends on the seed and on the film alone, so it is the same on every machine.
"""

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecr_ray.data.knowledge import Fact, Film, Knowledge
from ecr_ray.data.reviews import Review

_TOKEN = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Limits:
    """How much is retrieved, and which names count as related ones. The defaults are the paper's."""

    triples: int = 2
    entities: int = 4
    min_count: int = 20
    """How often a name must occur in all reviews together."""
    max_films: int = 1970
    """In the reviews of how many films it may occur: beyond, it says nothing about any."""
    min_letters: int = 6
    """Length of a name."""
    min_per_film: int = 2
    """How often it must occur in the reviews of one film; where none does, the most frequent one stands in."""


@dataclass(frozen=True)
class Retrieved:
    """What a prompt is given."""

    facts: tuple[Fact, ...]
    entities: tuple[str, ...]


class Linker:
    """Finds names in free text: whole words, whatever their case, the longest name first."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for name in sorted(set(names)):
            words = tuple(word.casefold() for word in _TOKEN.findall(name))
            if words:
                self._by_first[words[0]].append((words, name))
        for found in self._by_first.values():
            found.sort(key=lambda entry: -len(entry[0]))

    def find(self, text: str) -> list[str]:
        """The names in order of their occurrence, as often as they occur."""
        words = [word.casefold() for word in _TOKEN.findall(text)]
        found, at = [], 0
        while at < len(words):
            for name_words, name in self._by_first.get(words[at], ()):
                if tuple(words[at : at + len(name_words)]) == name_words:
                    found.append(name)
                    at += len(name_words)
                    break
            else:
                at += 1
        return found


class Retriever:
    """Facts and related names for films, learnt from reviews of them."""

    def __init__(self, knowledge: Knowledge, reviews: Sequence[Review], limits: Limits, seed: int) -> None:
        self.knowledge, self.limits, self.seed = knowledge, limits, seed
        # Genres are common words: found in a text they are no name.
        self._linker = Linker(knowledge.names())
        self._entities = self._related(reviews)

    def for_review(self, review: Review, film: Film) -> Retrieved:
        """What this review of the film speaks of, at most as much as the limits allow."""
        mentioned = list(dict.fromkeys(self._linker.find(review.content)))
        facts = [fact for fact in film.facts if fact.name in mentioned]
        known = {fact.name for fact in facts}
        related = self._entities.get(film.movie_id, ())
        entities = [name for name in mentioned if name in related and name not in known]
        return Retrieved(
            self._draw(facts, self.limits.triples, film, review.content),
            self._draw(entities, self.limits.entities, film, review.content),
        )

    def for_film(self, film: Film, key: str = "") -> Retrieved:
        """Some of what is known of the film; `key` tells several draws for one film apart."""
        known = {fact.name for fact in film.facts}
        related = [name for name in self._entities.get(film.movie_id, ()) if name not in known]
        return Retrieved(
            self._draw(film.facts, self.limits.triples, film, key),
            self._draw(related, self.limits.entities, film, key),
        )

    def _draw(self, pool: Sequence, count: int, film: Film, key: str) -> tuple:
        """`count` of the pool, in its order."""
        if len(pool) <= count:
            return tuple(pool)
        digest = hashlib.sha256(f"{self.seed}|{film.movie_id}|{key}".encode()).digest()
        chosen = random.Random(digest).sample(range(len(pool)), count)
        return tuple(pool[n] for n in sorted(chosen))

    def _related(self, reviews: Sequence[Review]) -> Mapping[str, tuple[str, ...]]:
        """Names by film that its reviews speak of often and that are not everywhere."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for review in reviews:
            film = self.knowledge.find(review.movie)
            if film is not None:
                counts[film.movie_id].update(self._linker.find(review.content))
        overall = sum(counts.values(), Counter())
        films = Counter(name for names in counts.values() for name in names)
        allowed = {
            name
            for name, count in overall.items()
            if count >= self.limits.min_count
            and films[name] <= self.limits.max_films
            and len(name) >= self.limits.min_letters
        }
        return {movie_id: self._of_film(names, allowed) for movie_id, names in counts.items()}

    def _of_film(self, names: Counter[str], allowed: set[str]) -> tuple[str, ...]:
        ranked = sorted((name for name in names if name in allowed), key=lambda name: (-names[name], name))
        often = [name for name in ranked if names[name] >= self.limits.min_per_film]
        return tuple(often or ranked[:1])
