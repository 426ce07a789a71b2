"""The embedded sample is what the project says it is."""

import json
import re
from collections import Counter
from itertools import pairwise

from ecr_ray.data import reading, sample
from ecr_ray.records import EMOTIONS, SPLITS


def raw():
    return [json.loads(line) for line in sample.dialogues_path().read_bytes().splitlines()]


def rows():
    return [row.value for row in reading.read(reading.find("sample"), max_message_chars=2000, number_rows=False)]


def test_it_has_the_promised_size_and_reads_without_a_complaint():
    dialogues = rows()
    assert len(dialogues) >= 60 and len(dialogues) == len(raw())
    assert {d["split"] for d in dialogues} == set(SPLITS)
    assert min(len(d["messages"]) for d in dialogues) >= 6


def test_all_nine_emotions_occur():
    count = Counter(e["label"] for d in rows() for m in d["messages"] for e in m["emotions"])
    assert set(count) == set(EMOTIONS) and min(count.values()) >= 12


def test_films_have_year_genre_director_and_two_stars():
    movies = sample.movies()
    assert len(movies) >= 150
    for movie in movies.values():
        assert movie["name"] and 1900 < movie["year"] < 2027 and movie["genre"] and movie["director"]
        assert len(movie["star"]) == 2
    mentioned = {m["movie_id"] for d in rows() for m in d["mentions"]}
    assert mentioned <= set(movies)


def test_the_quirks_of_the_released_corpus_occur():
    dialogues = raw()
    names = [n for d in dialogues if isinstance(d["movieMentions"], dict) for n in d["movieMentions"].values()]
    texts = [m["text"] for d in dialogues for m in d["messages"]]
    senders = [[m["senderWorkerId"] for m in d["messages"]] for d in dialogues]
    by_name = Counter((m["name"], m["year"]) for m in sample.movies().values())
    assert any(d["initiatorQuestions"] == [] for d in dialogues)
    assert any(isinstance(d["movieMentions"], list) for d in dialogues)
    assert "" in texts and any("\r\n" in t for t in texts)
    assert None in names
    assert any(n and "  (" in n for n in names) and any(n and not re.search(r"\(\d{4}\)", n) for n in names)
    assert any(n and "%3F" in n for n in names) and any(n and "&amp;" in n for n in names)
    assert any(a == b for s in senders for a, b in pairwise(s))
    assert max(by_name.values()) > 1


def test_it_says_that_it_was_written_for_the_project():
    assert "written for this project" in (sample.dialogues_path().parent / "README.md").read_text()
