"""What can be recommended: items with their names, years and facts, and the graph that connects them.

Three sources: the embedded sample's films, ReDial's with the DBpedia graph below ECR_DATA_DIR, or a user's own file:
CSV or Parquet with the columns `id` and `title`, and where they are known `year` and any of `genre`, `director`,
`star`, `writer` (several names with `|` between, or a list). An item without facts is an item all the same.
"""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import storage
from ecr_ray.data import knowledge, redial
from ecr_ray.data.knowledge import Fact, Film, normal, split_year
from ecr_ray.data.reading import InputError

RELATIONS = ("genre", "director", "star", "writer")
# Of an item to the ten years that it is from.
DECADE = "decade"
_REDIAL_FILES = ("movie2entity", "movie_facts", "entity2id", "relation2id", "dbpedia_subkg", "item_ids")


@dataclass(frozen=True)
class Item:
    """One thing that can be recommended; `aliases` are further ids of the same one."""

    item_id: str
    name: str
    year: int | None
    facts: tuple[Fact, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`Name (Year)`."""
        return f"{self.name} ({self.year})" if self.year else self.name


@dataclass(frozen=True)
class Graph:
    """Nodes by number, and edges (head, relation, tail); the first I nodes are the catalogue's items in order."""

    names: tuple[str, ...]
    relations: tuple[str, ...]
    edges_E3: np.ndarray

    def neighbours(self) -> dict[int, list[tuple[int, int]]]:
        """Node → [(relation, other node)], in both directions."""
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for head, relation, tail in self.edges_E3.tolist():
            found[head].append((relation, tail))
            found[tail].append((relation, head))
        return found


@dataclass(frozen=True)
class Catalogue:
    """Items in a fixed order: an item's number is its place."""

    items: tuple[Item, ...]
    graph: Graph
    notes: tuple[str, ...] = field(default=())
    """What was mended or left out on reading, a sentence each."""

    def __len__(self) -> int:
        return len(self.items)

    def numbers(self) -> dict[str, int]:
        """Id (or alias) → number."""
        found: dict[str, int] = {}
        for number, item in enumerate(self.items):
            for name in (item.item_id, *item.aliases):
                found.setdefault(name, number)
        return found

    def by_name(self) -> dict[str, list[int]]:
        """Normal name, with its year and without → numbers of the items that are called so."""
        found: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            for name in {normal(item.title), normal(item.name)}:
                found[name].append(number)
        return found


def load(location: str) -> Catalogue:
    """The catalogue that `--catalogue` names: `sample`, `redial`, or a .csv, .parquet or .json file.

    Raises:
        InputError: there is no such thing, or it is not in the form it should have; by file, row and field.
    """
    if location == "sample":
        return of_films(knowledge.load("sample").films.values())
    if location == "redial":
        return _redial()
    if not storage.exists(location):
        raise InputError(f"--catalogue {location}: there is no such file")
    if location.endswith(".json"):
        return of_films(knowledge.load(location).films.values())
    if location.endswith((".csv", ".parquet")):
        return of_films(_rows(location))
    raise InputError(f"--catalogue {location} is none of .csv, .parquet, .json, `sample` and `redial`")


def of_films(films: Iterable[Film]) -> Catalogue:
    """A catalogue of films, with the graph that their facts make; films of one name and year are one item.

    Raises:
        InputError: there is no film at all.
    """
    by_title: dict[tuple[str, int | None], list[Film]] = defaultdict(list)
    for film in films:
        by_title[normal(film.name) or film.name, film.year].append(film)
    items, notes = [], []
    for same in by_title.values():
        first = same[0]
        facts = tuple(dict.fromkeys(fact for film in same for fact in film.facts))
        aliases = tuple(film.movie_id for film in same[1:])
        items.append(Item(first.movie_id, first.name, first.year, facts, aliases))
        if aliases:
            notes.append(f"{items[-1].title} stands under {first.movie_id} and {', '.join(aliases)}: one item")
    if not items:
        raise InputError("the catalogue holds not one item")
    bare = sum(not item.facts for item in items)
    if bare:
        notes.append(f"{bare} of {len(items)} items have no facts: they are found by name and by who mentions them")
    return Catalogue(tuple(items), _graph_of_facts(items), tuple(notes))


def _graph_of_facts(items: Sequence[Item]) -> Graph:
    """Items, and a node for every name that a fact leads to; one name in two roles is one person."""
    bare = Graph(tuple(item.title for item in items), (), np.zeros((0, 3), dtype=np.int64))
    return _with_facts(bare, items, {fact.relation for item in items for fact in item.facts})


def _with_facts(graph: Graph, items: Sequence[Item], relations: Collection[str]) -> Graph:
    """The graph with the items' facts of these relations, and the decades that they are from.

    A name that the graph has already is that node.
    """
    names, kinds = list(graph.names), {name: number for number, name in enumerate(graph.relations)}
    nodes: dict[str, int] = {}
    for number, name in enumerate(graph.names[len(items) :], start=len(items)):
        nodes.setdefault(f"name:{normal(name)}", number)
    edges = set()
    for head, item in enumerate(items):
        facts = [(fact.relation, fact.name) for fact in item.facts if fact.relation in relations]
        if item.year:
            facts.append((DECADE, f"{item.year // 10}0s"))
        for relation, name in facts:
            kind = relation if relation in ("genre", DECADE) else "name"
            key = f"{kind}:{normal(name)}"
            if key not in nodes:
                nodes[key] = len(names)
                names.append(name)
            edges.add((head, kinds.setdefault(relation, len(kinds)), nodes[key]))
    added = np.array(sorted(edges), dtype=np.int64).reshape(-1, 3)
    return Graph(tuple(names), tuple(kinds), np.unique(np.concatenate([graph.edges_E3, added]), axis=0))


def save(path: Path, what: Catalogue) -> None:
    """Write a catalogue as one JSON file."""
    content = {
        "items": [
            {
                "id": item.item_id,
                "name": item.name,
                "year": item.year,
                "facts": [[fact.relation, fact.name] for fact in item.facts],
                "aliases": list(item.aliases),
            }
            for item in what.items
        ],
        "names": what.graph.names[len(what) :],
        "relations": what.graph.relations,
        "edges": what.graph.edges_E3.tolist(),
    }
    storage.write_bytes(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())


def read(path: Path) -> Catalogue:
    """What `save` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    items = tuple(
        Item(
            entry["id"],
            entry["name"],
            entry["year"],
            tuple(Fact(entry["name"], relation, name) for relation, name in entry["facts"]),
            tuple(entry["aliases"]),
        )
        for entry in content["items"]
    )
    names = (*(item.title for item in items), *content["names"])
    edges = np.array(content["edges"], dtype=np.int64).reshape(-1, 3)
    return Catalogue(items, Graph(names, tuple(content["relations"]), edges))


# --- a user's own -----------------------------------------------------------------------------------------


def _rows(location: str) -> Iterator[Film]:
    """The films of a table.

    Raises:
        InputError: naming file, row and field.
    """
    rows = _csv(location) if location.endswith(".csv") else storage.read_parquet(location).to_pylist()
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{location}, row {number}"
        movie_id, title = (_cell(row, name, where) for name in ("id", "title"))
        if movie_id in seen:
            raise InputError(f"{where}, id: {movie_id!r} is also the id of row {seen[movie_id]}")
        seen[movie_id] = number
        name, year = split_year(redial.clean_name(title))
        given = row.get("year")
        if given not in (None, ""):
            try:
                year = int(given)
            except (TypeError, ValueError) as error:
                raise InputError(f"{where}, year: {given!r} is not a year") from error
        facts = tuple(
            Fact(name, relation, value)
            for relation in RELATIONS
            for value in _names(row.get(relation), where, relation)
        )
        yield Film(movie_id, name, year, facts)


def _csv(location: str) -> Iterator[dict[str, Any]]:
    with storage.open_read(location) as stream:
        text = stream.read().decode("utf-8-sig")
    yield from csv.DictReader(text.splitlines(keepends=True))


def _cell(row: Mapping[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise InputError(f"{where}: there is no column {name!r}; the columns are {', '.join(map(str, row))}")
    value = row[name]
    if value is None or not str(value).strip():
        raise InputError(f"{where}, {name}: it is empty")
    return str(value).strip()


def _names(value: Any, where: str, relation: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split("|")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{where}, {relation}: {value!r} is neither text nor a list of texts")
    return [name.strip() for name in value if name.strip()]


# --- ReDial and DBpedia -----------------------------------------------------------------------------------


def _redial() -> Catalogue:
    """ReDial's films that DBpedia knows, an item an entity, in the order of `item_ids.json`, with UniCRS's graph,
    the film list's facts and decades.

    Raises:
        InputError: a file is missing, or its ids do not fit those of another.
    """
    folder = Path(os.environ.get("ECR_DATA_DIR") or "", "redial_kg")
    content = {}
    for name in _REDIAL_FILES:
        file = folder / f"{name}.json"
        if not file.is_file():
            raise InputError(f"--catalogue redial needs ECR_DATA_DIR, the directory that holds redial_kg/{file.name}")
        content[name] = json.loads(file.read_text(encoding="utf-8"))
    films = knowledge.load("redial").films
    of_entity: dict[int, list[str]] = defaultdict(list)
    for movie_id, movie in content["movie2entity"].items():
        if movie["entity_id"] is not None:
            of_entity[movie["entity_id"]].append(movie_id)
    items = []
    for entity in content["item_ids"]:
        if entity not in of_entity:
            raise InputError(f"{folder}/item_ids.json names the entity {entity}, which no film of movie2entity.json is")
        ids = of_entity[entity]
        name, year = split_year(redial.clean_name(content["movie2entity"][ids[0]]["name"]))
        facts = next((films[i].facts for i in ids if i in films), ())
        items.append(Item(ids[0], name, year, facts, tuple(ids[1:])))
    graph, dangling = _dbpedia(content, [item.title for item in items])
    # DBpedia hardly knows a film's genre, and not everybody who made it.
    graph = _with_facts(graph, items, RELATIONS)
    notes = [f"{dangling} edges of the graph lead to an entity that it does not have: left out"] if dangling else []
    return Catalogue(tuple(items), graph, tuple(notes))


def _dbpedia(content: Mapping[str, Any], titles: Sequence[str]) -> tuple[Graph, int]:
    """UniCRS's graph with the items first; and how many edges lead nowhere."""
    order = content["item_ids"]
    uris = {number: uri for uri, number in content["entity2id"].items()}
    rest = sorted(set(uris) - set(order))
    place = {entity: number for number, entity in enumerate([*order, *rest])}
    relations = sorted(content["relation2id"], key=content["relation2id"].get)
    loops = {content["relation2id"].get("self_loop")}
    edges, dangling = set(), 0
    for head, links in content["dbpedia_subkg"].items():
        for relation, tail in links:
            if relation in loops:
                continue
            if int(head) not in place or tail not in place:
                dangling += 1
                continue
            edges.add((place[int(head)], relation, place[tail]))
    names = (*titles, *(knowledge.uri_name(uris[entity]) for entity in rest))
    read = tuple(uri.strip("<>").rpartition("/")[2] for uri in relations)
    return Graph(names, read, np.array(sorted(edges), dtype=np.int64)), dangling
