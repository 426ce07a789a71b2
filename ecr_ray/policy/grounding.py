"""What a reply is to be made of (a film, feelings, facts, a sentence of somebody who saw it), and whether it was.

In training the film is the one that the human recommender's turn names first; when it answers, the recommender's
choice. Either way it stands in the prompt in the same form.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecr_ray import prompts
from ecr_ray.data import knowledge, retrieval, reviews, titles
from ecr_ray.data.knowledge import Film, normal
from ecr_ray.data.reading import Rejected
from ecr_ray.data.retrieval import Retriever
from ecr_ray.data.reviews import Review
from ecr_ray.prompts import Grounding

# A feeling that is less likely is not worth a word.
LIKELY = 0.3
# A review's sentence of more words would fill the prompt.
LONGEST_SENTENCE = 30


class Grounder:
    """Finds what to say of a film, the same for the same film and turn."""

    def __init__(self, retriever: Retriever, said: Sequence[Review]) -> None:
        self._retriever, self.films = retriever, retriever.knowledge.films
        self._sentences: dict[str, list[str]] = defaultdict(list)
        for review in said:
            film = retriever.knowledge.find(review.movie)
            sentence = reviews.first_sentence(review.content)
            if film is not None and len(sentence.split()) <= LONGEST_SENTENCE:
                self._sentences[film.movie_id].append(sentence)

    def of_film(self, film: Film, emotions: Sequence[str], key: str) -> Grounding:
        """Facts and a review's sentence of a film.

        Args:
            emotions: what the seeker feels.
            key: tells several draws for one film apart.
        """
        found = self._sentences.get(film.movie_id, [])
        drawn = int(hashlib.sha256(f"{self._retriever.seed}|{film.movie_id}|{key}".encode()).hexdigest(), 16)
        facts = tuple(map(str, self._retriever.for_film(film, key).facts))
        return Grounding(film.full_name, tuple(emotions), facts, found[drawn % len(found)] if found else "")

    def of_turn(self, turn: Mapping[str, Any]) -> Grounding | None:
        """For the film that a recorded turn names first; None where it names none that is known."""
        for movie_id in turn["target_movie_ids"]:
            if movie_id in self.films:
                return self.of_film(self.films[movie_id], feelings(turn["context"]), turn["turn_id"])
        return None


def load(films: str, said: str, limits: retrieval.Limits, seed: int) -> Grounder:
    """A grounder.

    Args:
        films: what `--knowledge` names.
        said: what `--reviews` names; `none`: no reviews.

    Raises:
        InputError: one of them is not there, or not in the form it should have.
    """
    found = [] if said == "none" else [r for r in reviews.read(said) if not isinstance(r, Rejected)]
    return Grounder(Retriever(knowledge.load(films), found, limits, seed), found)


def feelings(context: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What the seeker's last message says they feel, the likeliest first, where somebody annotated it."""
    for message in reversed(context):
        if message["role"] == "seeker":
            known = sorted(message.get("emotions") or (), key=lambda e: -e["prob"])
            return tuple(e["label"] for e in known if e["prob"] >= LIKELY)
    return ()


@dataclass(frozen=True)
class Check:
    """What became of the grounding in a reply."""

    names_film: bool
    invented: int
    """Titles with a year that no film has, and that the seeker did not say either."""


def check(reply: str, film: str, context: Sequence[Mapping[str, str]], catalogue: titles.Titles) -> Check:
    """Whether a reply names the film, and how many titles it invents.

    Args:
        film: with its year or without.
        context: the dialogue before it.
        catalogue: which films exist.
    """
    return Check(names(reply, film), len(catalogue.invented(reply, [m["text"] for m in context])))


def names(reply: str, film: str) -> bool:
    """Whether a text names a film, whatever its case and punctuation, with its year or without."""
    title = normal(knowledge.split_year(film)[0])
    return bool(title) and f" {title} " in f" {normal(reply)} "


Ground = Callable[[Mapping[str, Any]], prompts.Grounding | None]
