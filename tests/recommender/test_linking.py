"""Titles in free text."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_ray.data.knowledge import Fact, Film
from ecr_ray.recommender import catalogue, linking

FILMS = [
    Film("1", "Heat", 1995, (Fact("Heat", "director", "Michael Mann"),)),
    Film("2", "It", 2017, ()),
    Film("3", "It", 1990, ()),
    Film("4", "The Shawshank Redemption", 1994, (Fact("", "star", "Tim Robbins"), Fact("", "genre", "drama"))),
    Film("5", "Halloween", 1978, ()),
    Film("6", "Halloween", 2018, ()),
    Film("7", "Ocean's Eleven", 2001, ()),
    Film("8", "Get Out", 2017, ()),
    Film("9", "Spider-Man", 2002, ()),
    Film("10", "2001: A Space Odyssey", 1968, ()),
]


@pytest.fixture(scope="module")
def linker():
    return linking.Linker(catalogue.of_films(FILMS))


def named(linker, text):
    return [(text[link.start : link.end], link.node, link.how) for link in linker.link(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Have you seen The Shawshank Redemption (1994)?", [("The Shawshank Redemption (1994)", 3, "year")]),
        ("i loved the shawshank redemption", [("the shawshank redemption", 3, "exact")]),
        ("shawshank redemption is good", [("shawshank redemption", 3, "exact")]),
        ("I loved the Shawshenk Redemption!", [("the Shawshenk Redemption", 3, "fuzzy")]),
        ("I loved teh shawshank redemtpion", [("shawshank redemtpion", 3, "fuzzy")]),
        ("oceans eleven or spiderman", [("oceans eleven", 6, "exact"), ("spiderman", 8, "exact")]),
        ("2001 a space odyssey", [("2001 a space odyssey", 9, "exact")]),
        # Everyday words, and titles that are made of them.
        ("I like it. It is fun, get out and see it", []),
        ("we watched It (2017) yesterday", [("It (2017)", 1, "year")]),
        ("we watched It yesterday", [("It", None, "open")]),
        ('she said "get out" is scary', [("get out", 7, "exact")]),
        ("she liked Get Out", [("Get Out", 7, "exact")]),
        ("WE LIKE IT, GET OUT", []),
        # Two films of a name.
        ("Halloween was great", [("Halloween", None, "open")]),
        ("Halloween 1978", [("Halloween 1978", 4, "year")]),
        ("Halloween, 1999", [("Halloween", None, "open")]),
        # People.
        ("anything by michael mann", [("michael mann", 10, "name")]),
        ("a drama", []),
        ("", []),
    ],
)
def test_what_a_text_names(linker, text, expected):
    assert named(linker, text) == expected


def test_an_open_one_says_what_it_may_be(linker):
    (link,) = linker.link("Halloween!")
    assert link.candidates == (4, 5) and linker.items("Halloween!") == []
    assert linker.items("Heat (1995) by Michael Mann, and Heat (1995)") == [0]


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("abcd", "abcd", True),
        ("abcd", "abd", True),
        ("abcd", "abxcd", True),
        ("abcd", "abxd", True),
        ("abcd", "acbd", True),
        ("abcd", "axxd", False),
        ("abcd", "ab", False),
    ],
)
def test_one_slip(one, other, near):
    assert linking._one_apart(one, other) is near and linking._one_apart(other, one) is near


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_and_nothing_overlaps(text):
    found = linking.Linker(catalogue.of_films(FILMS)).link(text)
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert all(0 <= link.start < link.end <= len(text) for link in found)


def test_threads_that_come_at_the_same_time_read_the_common_words_once(monkeypatch):
    began = []

    class Slow:
        def get_vocab(self):
            return {"the": 0, "movie": 1, "##s": 2, "rare": linking.EVERYDAY_WORDS}

    def load(name):
        began.append(name)
        time.sleep(0.2)
        return Slow()

    linking._read_everyday.cache_clear()
    monkeypatch.setattr(linking.encoder_text, "load_tokenizer", load)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: linking._everyday(), range(8)))
    linking._read_everyday.cache_clear()
    assert len(began) == 1 and found == [{"the", "movie"}] * 8
