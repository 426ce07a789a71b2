"""Films and facts: from the sample, a file, and DBpedia's graph where it is."""

import json
import os
from pathlib import Path

import pytest

from ecr_ray.data import knowledge
from ecr_ray.data.reading import InputError


def test_the_sample_has_director_stars_and_genre():
    film = knowledge.load("sample").find("Die Hard (1988)")
    assert [str(fact) for fact in film.facts] == [
        "Die Hard's director is John McTiernan",
        "Die Hard's star is Bruce Willis",
        "Die Hard's star is Alan Rickman",
        "Die Hard's genre is action",
        "Die Hard's genre is thriller",
    ]


def test_a_name_that_two_films_have_finds_none_without_its_year(tmp_path):
    path = tmp_path / "films.json"
    path.write_text(json.dumps({"1": {"name": "It (1990)"}, "2": {"name": "It", "year": 2017}, "3": {"name": "Up!"}}))
    films = knowledge.load(str(path))
    assert films.find("It") is None
    assert films.find("it (2017)").movie_id == "2"
    assert films.find("IT  (1990)").movie_id == "1"
    assert films.find("Up").movie_id == "3"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "is not an object of movie id"),
        ("{", "is not valid JSON"),
        ('{"7": {"year": 1990}}', "movie 7, name: missing"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, said):
    path = tmp_path / "films.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        knowledge.load(str(path))


def test_no_file_is_one_sentence():
    with pytest.raises(InputError, match=r"cannot read the films of --knowledge /no/films\.json"):
        knowledge.load("/no/films.json")


def test_redials_films_have_facts_of_the_graph():
    if not Path(os.environ.get("ECR_DATA_DIR", "/nonexistent"), "redial_kg", "movie_facts.json").is_file():
        pytest.skip("needs the real graph: set ECR_DATA_DIR to a directory with redial_kg/")
    films = knowledge.load("redial")
    film = films.find("Back to the Future Part II (1989)")
    said = {str(fact) for fact in film.facts}
    assert f"{film.name}'s director is Robert Zemeckis" in said
    assert f"{film.name}'s music composer is Alan Silvestri" in said
    keys = [(fact.relation, knowledge.normal(fact.name)) for fact in film.facts]
    assert len(keys) == len(set(keys))
    assert len(films.films) > 6000
