"""Films and what is known of them: facts as (film, relation, name), from the embedded sample, a file or DBpedia.

The graph is the DBpedia part that UniCRS and ECR use. Of its relations those count that the ECR paper kept
(RecSys 2024, section 4.3), and beside them the film lists' own: director, star, writer, genre.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ecr_ray.data import redial, sample
from ecr_ray.data.reading import InputError

# DBpedia's name of a relation → how it is read out.
GRAPH_RELATIONS = {
    "starring": "star",
    "writer": "writer",
    "productionCompany": "production company",
    "director": "director",
    "musicComposer": "music composer",
}
# A film list's key → how it is read out.
_LIST_RELATIONS = {"director": "director", "star": "star", "writer": "writer", "genre": "genre"}
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")


@dataclass(frozen=True)
class Fact:
    """One edge of the graph: `film`'s `relation` is `name`."""

    film: str
    relation: str
    name: str

    def __str__(self) -> str:
        return f"{self.film}'s {self.relation} is {self.name}"


@dataclass(frozen=True)
class Film:
    """A film by id; `name` is without its year."""

    movie_id: str
    name: str
    year: int | None
    facts: tuple[Fact, ...]

    @property
    def full_name(self) -> str:
        """As ReDial writes it: `Name (Year)`."""
        return f"{self.name} ({self.year})" if self.year else self.name


class Knowledge:
    """All films, found by id or by name."""

    def __init__(self, films: Iterable[Film]) -> None:
        self.films = {film.movie_id: film for film in films}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for film in self.films.values():
            for name in {film.full_name, film.name}:
                self._by_name[normal(name)].append(film.movie_id)

    def find(self, name: str) -> Film | None:
        """The film of this name, with or without its year; None where there is none, or several.

        ReDial has a few films under two ids: of one name and year, they are one film.
        """
        found = [self.films[movie_id] for movie_id in self._by_name.get(normal(name), [])]
        return found[0] if len({film.full_name for film in found}) == 1 else None

    def names(self) -> set[str]:
        """Every name that a fact leads to."""
        return {fact.name for film in self.films.values() for fact in film.facts if fact.relation != "genre"}


def normal(name: str) -> str:
    """A name for comparison: case, spaces and punctuation aside."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def load(location: str) -> Knowledge:
    """The films that `--knowledge` names.

    Raises:
        InputError: there is no such thing, or it is not in the form it should have.
    """
    if location == "sample":
        return Knowledge(_from_list(sample.movies(), "sample"))
    if location == "redial":
        return Knowledge(_from_redial())
    try:
        content = json.loads(Path(location).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the films of --knowledge {location}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{location} is not valid JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{location} is not an object of movie id → {{name, year, genre, director, star}}")
    return Knowledge(_from_list(content, location))


def _from_list(movies: Mapping[str, Any], where: str) -> Iterator[Film]:
    for movie_id, movie in movies.items():
        if not isinstance(movie, Mapping) or not isinstance(movie.get("name"), str):
            raise InputError(f"{where}, movie {movie_id}, name: missing or not text")
        name, year = split_year(redial.clean_name(movie["name"]))
        facts = tuple(
            Fact(name, relation, value) for key, relation in _LIST_RELATIONS.items() for value in movie.get(key) or []
        )
        yield Film(str(movie_id), name, movie.get("year") or year, facts)


def split_year(name: str) -> tuple[str, int | None]:
    """`Heat (1995)` → (`Heat`, 1995)."""
    found = _YEAR.search(name)
    return (name[: found.start()], int(found[1])) if found else (name, None)


def _from_redial() -> Iterator[Film]:
    """ReDial's films with the facts of `movie_facts.json` and their one-hop neighbours in the DBpedia graph."""
    folder = Path(os.environ.get("ECR_DATA_DIR") or "", "redial_kg")
    if not (folder / "movie_facts.json").is_file():
        raise InputError("--knowledge redial needs ECR_DATA_DIR, the directory that holds redial_kg/movie_facts.json")
    content = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}
    names = {number: uri_name(uri) for uri, number in content["entity2id"].items()}
    relations = {
        number: GRAPH_RELATIONS.get(uri.strip("<>").rpartition("/")[2])
        for uri, number in content["relation2id"].items()
    }
    nodes = {movie_id: movie["entity_id"] for movie_id, movie in content["movie2entity"].items()}
    for film in _from_list(content["movie_facts"], "movie_facts.json"):
        edges = content["dbpedia_subkg"].get(str(nodes.get(film.movie_id)), [])
        hop = [Fact(film.name, relations[r], names[tail]) for r, tail in edges if relations[r]]
        # Both lists may say the same; the first to say it stays.
        facts = {(fact.relation, normal(fact.name)): fact for fact in reversed([*film.facts, *hop])}
        yield Film(film.movie_id, film.name, film.year, tuple(reversed(facts.values())))


def uri_name(uri: str) -> str:
    """`<http://dbpedia.org/resource/Angela_Bassett_(actor)>` → `Angela Bassett`."""
    name = unquote(uri.strip("<>").rpartition("/resource/")[2]).replace("_", " ")
    return re.sub(r"\s*\([^)]*\)$", "", name)
