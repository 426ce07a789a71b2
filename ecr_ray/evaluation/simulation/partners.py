"""Who a simulated user talks with: a served system, a recommender alone, or one that names what is popular."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ecr_ray.evaluation.simulation.calls import NoAnswer, endpoint
from ecr_ray.evaluation.simulation.users import SPEECHLESS, Message
from ecr_ray.recommender import catalogue, examples
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.linking import Linker

POPULAR = "popular"
# An endpoint's names of who speaks.
_ROLES = {"seeker": "user", "recommender": "assistant"}


@dataclass(frozen=True)
class Turn:
    """What is answered."""

    text: str
    film_ids: tuple[str, ...]
    """The films that are recommended, the best first."""


class Partner(Protocol):
    """A system under evaluation, asked by several threads at a time."""

    def reply(self, messages: Sequence[Message]) -> Turn:
        """The answer to a talk whose last message is the user's.

        Raises:
            NoAnswer: there is none.
        """


class Served:
    """A system behind `POST /v1/recommend`."""

    def __init__(self, url: str, key_env: str = "", *, count: int = 1, seed: int = 0) -> None:
        """Connect at the first reply.

        Args:
            url: its address, as in http://127.0.0.1:8000.
            key_env: environment variable that holds its key; empty: it asks for none.
            count: films that are asked for.

        Raises:
            SimulationError: the variable is empty.
        """
        self._endpoint, self._count, self._seed = endpoint(url, key_env), count, seed

    def reply(self, messages: Sequence[Message]) -> Turn:
        """As `Partner.reply`; what was recommended before is not asked for again."""
        body = {
            "messages": [{"role": _ROLES[m.role], "content": m.text or SPEECHLESS} for m in messages],
            "k": self._count,
            "exclude": list(_recommended(messages)),
            "seed": self._seed,
        }
        answer = self._endpoint.post("v1/recommend", body)
        try:
            films = tuple(str(film["id"]) for film in answer["recommendations"])
            return Turn(str(answer["reply"]), films[: self._count])
        except (KeyError, TypeError) as error:
            raise NoAnswer("partner_body", f"not an answer of /v1/recommend: {str(answer)[:200]}") from error


class Recommending:
    """A trained recommender in this process, which names its best films in a sentence."""

    def __init__(self, directory: Path, *, count: int = 1, emotions: str = "none") -> None:
        """Load it.

        Args:
            count: films that are recommended at a time.
            emotions: what reads feelings, a bundled classifier or a directory; `none`: nothing does.

        Raises:
            RecommenderError, HeadsError: there is none.
        """
        from ecr_ray.emotion import live
        from ecr_ray.recommender.predict import Recommender

        self._recommender, self._count = Recommender(directory), count
        self._emotions = None if emotions == "none" else live.Live(emotions)
        # Both remember what they read before, and a core computes no faster for two.
        self._one_at_a_time = threading.Lock()

    def reply(self, messages: Sequence[Message]) -> Turn:
        """As `Partner.reply`; neither what was named nor what was recommended before."""
        dialogue: list[dict[str, Any]] = [
            {"role": m.role, "text": m.text, "movie_ids": list(m.film_ids), "emotions": []} for m in messages
        ]
        with self._one_at_a_time:
            felt = self._emotions.read(dialogue) if self._emotions else dialogue
            films = self._recommender.recommend(felt, self._count).films
        told = [f"{film.title}, which {film.reason.text}" for film in films]
        return Turn(_sentence(told), tuple(film.item_id for film in films))


class Popular:
    """The most popular films that were not named before, one after the other: what every system stands beside."""

    def __init__(self, what: Catalogue | Path, counts: Mapping[str, int], *, count: int = 1) -> None:
        """Sort the films.

        Args:
            what: a catalogue, or the file of one (see `catalogue.save`).
            counts: how many dialogues name each film, by id; the others come after them, in the catalogue's order.
            count: films that are recommended at a time.
        """
        what = catalogue.read(what) if isinstance(what, Path) else what
        self._linker, self._items, self._count = Linker(what), what.items, count
        self._order = sorted(what.items, key=lambda item: -counts.get(item.item_id, 0))

    def reply(self, messages: Sequence[Message]) -> Turn:
        """As `Partner.reply`."""
        named = {self._items[number].item_id for m in messages for number in self._linker.items(m.text)}
        named |= _recommended(messages).keys()
        films = [item for item in self._order if item.item_id not in named][: self._count]
        return Turn(_sentence([item.title for item in films]), tuple(item.item_id for item in films))


def popularity(dialogues: Iterable[Mapping[str, Any]], what: Catalogue) -> dict[str, int]:
    """How many dialogues name each film, by id."""
    resolve = examples.resolver(what)
    turns = (turn for dialogue in dialogues for turn in examples.of_dialogue(dialogue, resolve))
    counts = examples.popularity(turns, len(what))
    return {item.item_id: int(count) for item, count in zip(what.items, counts, strict=True)}


def _recommended(messages: Sequence[Message]) -> dict[str, None]:
    """Ids of the films that were recommended before, each once and in order."""
    return dict.fromkeys(film for message in messages for film in message.film_ids)


def _sentence(films: Sequence[str]) -> str:
    return f"How about {'; or '.join(films)}?" if films else "I have nothing left to recommend."
