"""Titles that must not be said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_ray.data.knowledge import Film
from ecr_ray.evaluation.simulation import leaking
from ecr_ray.recommender import catalogue


@pytest.mark.parametrize(
    ("text", "title", "leaks"),
    [
        ("I want to see Jaws", "Jaws (1975)", True),
        ("i want to see jaws!", "Jaws (1975)", True),
        ("open your jawse", "Jaws (1975)", False),
        ("the godfather, I think", "The Godfather (1972)", True),
        ("that godfather film", "The Godfather (1972)", True),
        ("my god, father", "The Godfather (1972)", False),
        ("something like amelie", "Amélie (2001)", True),
        ("Schindlers List", "Schindler's List (1993)", True),
        ("Schindler’s list", "Schindler's List (1993)", True),
        ("the one with the way of water", "Avatar: The Way of Water (2022)", True),
        ("water", "Avatar: The Way of Water (2022)", False),
        ("star wars", "Star Wars: Episode V - The Empire Strikes Back (1980)", True),
        ("from 1917", "1917 (2019)", True),
        ("from 2019", "1917 (2019)", False),
        # Words that every sentence has, alone.
        ("I like it, I am fed up", "It (2017)", False),
        ("I am fed up", "Up (2009)", False),
        ("It?", "It (2017)", True),
        ("I'm M", "M (1931)", False),
        ("get out of here", "Get Out (2017)", True),
        ("", "Jaws (1975)", False),
        ("anything", "(2009)", False),
    ],
)
def test_words_that_give_a_title_away(text, title, leaks):
    assert leaking.leaks(text, title) is leaks


@pytest.fixture(scope="module")
def watch():
    films = [("1", "It", 2017), ("2", "The Shawshank Redemption", 1994), ("3", "Halloween", 1978)]
    films += [("4", "Halloween", 2018), ("5", "Blade Runner 2049", 2017), ("6", "Blade Runner", 1982)]
    return leaking.Watch(catalogue.of_films(Film(*film, ()) for film in films))


@pytest.mark.parametrize(
    ("text", "film", "leaks"),
    [
        ("I want the Shawshenk redemption", "2", True),
        ("I want it", "1", False),
        ("I watched It (2017)", "1", True),
        ("have you seen It yet", "1", True),
        ("a Halloween film", "3", True),
        ("a Halloween film", "4", True),
        # Which one it is not is no secret, but the words are there.
        ("Halloween (2018)", "3", True),
        ("Blade Runner 2049 (2017)", "6", True),
        ("Blade Runner (1982)", "5", False),
    ],
)
def test_slips_of_the_pen_and_marks_give_it_away_too(watch, text, film, leaks):
    assert watch.leaks(text, film) is leaks


def test_what_a_reply_names_is_one_film(watch):
    assert watch.names("How about Halloween (2018)?", "4") and not watch.names("How about Halloween (2018)?", "3")
    assert not watch.names("How about Halloween?", "3")


def test_films_can_be_taken_out_of_a_text(watch):
    assert watch.without_films("Is Blade Runner (1982) old, or It (2017)?") == "Is  old, or ?"


@settings(deadline=None)
@given(st.text(), st.text(), st.text(min_size=1))
def test_a_title_that_stands_in_a_text_is_found(before, after, title):
    if leaking._words(title):
        assert leaking.leaks(title, title)
    if len(leaking._words(title).split()) > 1:
        assert leaking.leaks(f"{before} . {title} . {after}", title)
