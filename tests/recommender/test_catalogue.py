"""What can be recommended, from every source, and what a bad one says."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecr_ray.data.reading import InputError
from ecr_ray.recommender import catalogue


def test_the_sample_has_its_films_and_their_facts_as_a_graph():
    found = catalogue.load("sample")
    numbers = found.numbers()
    wick = found.items[numbers["91626"]]
    assert wick.title == "John Wick (2014)" and ("director", "Chad Stahelski") in {
        (fact.relation, fact.name) for fact in wick.facts
    }
    neighbours = {found.graph.names[node] for _, node in found.graph.neighbours()[numbers["91626"]]}
    assert {"Chad Stahelski", "Keanu Reeves"} <= neighbours
    # One film of the sample stands under two ids, on purpose.
    assert any("one item" in note for note in found.notes)
    assert len(found) == len({item.title for item in found.items})


def write(tmp_path, text, name="films.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_a_table_of_ones_own(tmp_path):
    csv = "id,title,year,genre,director\n1,Heat,1995,crime|drama,Michael Mann\n2,Heat (1995),,,\n3,Alien (1979),,,\n"
    found = catalogue.load(write(tmp_path, csv))
    assert [(item.title, item.aliases) for item in found.items] == [("Heat (1995)", ("2",)), ("Alien (1979)", ())]
    assert found.numbers() == {"1": 0, "2": 0, "3": 1}
    assert [(head, found.graph.names[tail]) for head, _, tail in found.graph.edges_E3] == [
        (0, "crime"), (0, "drama"), (0, "Michael Mann"), (0, "1990s"), (1, "1970s")
    ]  # fmt: skip
    assert "1 of 2 items have no facts" in found.notes[-1]
    rows = [{"id": 1, "title": "Heat", "year": 1995, "genre": ["crime", "drama"], "director": ["Michael Mann"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "films.parquet")
    (item,) = catalogue.load(str(tmp_path / "films.parquet")).items
    assert item == catalogue.Item("1", "Heat", 1995, found.items[0].facts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,name\n1,Heat\n", "row 1: there is no column 'title'; the columns are id, name"),
        ("id,title\n1,Heat\n,Alien\n", "row 2, id: it is empty"),
        ("id,title\n1,Heat\n1,Alien\n", "row 2, id: '1' is also the id of row 1"),
        ("id,title,year\n1,Heat,soon\n", "row 1, year: 'soon' is not a year"),
        ("id,title\n", "holds not one item"),
    ],
)
def test_a_bad_table_says_where(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        catalogue.load(write(tmp_path, text))


def test_what_is_no_catalogue(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no such file"):
        catalogue.load("nowhere.csv")
    with pytest.raises(InputError, match=r"none of \.csv, \.parquet"):
        catalogue.load(write(tmp_path, "x", "films.txt"))
    monkeypatch.setenv("ECR_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="needs ECR_DATA_DIR"):
        catalogue.load("redial")


def test_edges_that_lead_nowhere_are_counted_and_left_out():
    content = {
        "item_ids": [7],
        "entity2id": {"<http://dbpedia.org/resource/Heat_(1995_film)>": 7, "<http://dbpedia.org/resource/A_Man>": 3},
        "relation2id": {"<http://dbpedia.org/ontology/director>": 0, "self_loop": 1},
        "dbpedia_subkg": {"7": [[0, 3], [1, 7], [0, 99]], "98": [[0, 7]]},
    }
    graph, dangling = catalogue._dbpedia(content, ["Heat (1995)"])
    assert dangling == 2 and graph.edges_E3.tolist() == [[0, 0, 1]]
    assert graph.names == ("Heat (1995)", "A Man") and graph.relations == ("director", "self_loop")


@pytest.mark.skipif(not os.environ.get("ECR_DATA_DIR"), reason="the graph is below ECR_DATA_DIR, which is not set")
def test_redials_own():
    found = catalogue.load("redial")
    assert len(found) == 6281 and not found.notes
    # What DBpedia has, genres, decades, and people whom only the film list names.
    assert len(found.graph.names) == 38_436 and {"horror", "1990s"} <= set(found.graph.names[31_161:])
    assert len(found.graph.edges_E3) > 70_000
