"""Reviews: a user's file read, and held to the published filters."""

import json
from collections import Counter

import pytest

from ecr_ray.data import knowledge, reviews
from ecr_ray.data.reading import InputError, Rejected
from ecr_ray.data.reviews import Filters, Review

ROW = {"title": "T", "content": "I love my old film.", "rating": 10, "movie": "Heat (1995)"}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_jsonl_and_csv_give_the_same(tmp_path):
    lines = write(tmp_path / "r.jsonl", ROW | {"votes": 7})
    table = tmp_path / "r.csv"
    table.write_text("movie,title,content,rating,votes\nHeat (1995),T,I love my old film.,10,7\n")
    assert list(reviews.read(lines)) == list(reviews.read(str(table))) == [
        Review("Heat (1995)", "T", "I love my old film.", 10, 7)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_a_missing_column_is_one_sentence(tmp_path, name):
    path = tmp_path / name
    row = {"title": "T", "content": "c", "rating": 9}
    path.write_text(json.dumps(row) if name == "r.jsonl" else "title,content,rating\nT,c,9\n")
    with pytest.raises(InputError, match=f"{name} has no column 'movie': reviews need title, content, rating, movie"):
        list(reviews.read(str(path)))


def test_a_missing_file_is_one_sentence():
    with pytest.raises(InputError, match=r"no file of reviews '/no/such\.jsonl'"):
        list(reviews.read("/no/such.jsonl"))


def test_bad_rows_are_named_and_the_rest_is_read(tmp_path):
    path = write(
        tmp_path / "r.jsonl", ROW, "{broken", ROW | {"rating": "ten"}, ROW | {"rating": 11}, ROW | {"content": ""}, ROW
    )
    found = list(reviews.read(path))
    assert [isinstance(row, Rejected) for row in found] == [False, True, True, True, True, False]
    assert [(row.line, row.field) for row in found[1:5]] == [
        (2, "(line)"),
        (3, "rating"),
        (4, "rating"),
        (5, "content"),
    ]


@pytest.fixture(scope="module")
def rows():
    return list(reviews.read("sample"))


def words(count, *extra):
    return " ".join([*extra, *(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(count))])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"rating": 9}, "rated below 10"),
        ({"votes": 4}, "fewer than 5 votes"),
        ({"votes": 5}, None),
        ({"content": words(100, "I", "me", "my", "mine")}, "fewer than 120 words"),
        ({"content": words(140)}, "hardly speaks in the first person"),
        ({"content": words(140, "I'm", "I've", "my", "mine")}, None),
        ({"content": " ".join(["I love me and my mine"] * 30)}, "says the same over and over"),
    ],
)
def test_filters(changes, reason):
    review = Review("Heat", "T", words(140, "I", "me", "my", "mine"), 10)
    left_out = Counter()
    kept = reviews.select([Review(**{**review.__dict__, **changes})], Filters(), left_out)
    assert list(left_out) == ([] if reason is None else [f"reviews: {reason}"])
    assert len(kept) == (reason is None)


def test_sentences_about_the_review_itself_are_dropped():
    content = f"This is my first review. {words(140, 'I', 'me', 'my', 'mine')}. I give it 10 of 10!"
    (kept,) = reviews.select([Review("Heat", "T", content, 10)], Filters(), Counter())
    assert kept.content == f"{words(140, 'I', 'me', 'my', 'mine')}."


def test_at_most_so_many_of_one_film():
    left_out = Counter()
    review = Review("Heat", "T", words(140, "I", "me", "my", "mine"), 10)
    assert len(reviews.select([review] * 30, Filters(), left_out)) == 25
    assert left_out == {"reviews: more than 25 of one film": 5}


def test_a_long_one_keeps_its_first_and_last_sentences():
    sentences = [f"Sentence number {chr(97 + n)} has six words." for n in range(20)]
    short = reviews.shorten(" ".join(sentences), 24)
    assert short == " ".join(sentences[:2] + sentences[-2:])
    assert reviews.shorten("Short one.", 24) == "Short one."


def test_repetition_is_the_share_of_words_seen_before():
    assert reviews.repetition("a b c d") == 0
    assert reviews.repetition("a a a a") == 0.75
    assert reviews.repetition("") == 0


class TestSample:
    """The embedded reviews."""

    def test_at_least_two_hundred_pass_the_filters(self, rows):
        assert not any(isinstance(row, Rejected) for row in rows)
        left_out = Counter()
        assert len(reviews.select(rows, reviews.SHORT, left_out)) >= 200
        assert set(left_out) == {"reviews: rated below 10"}

    def test_every_film_is_one_of_the_samples(self, rows):
        films = knowledge.load("sample")
        assert [row.movie for row in rows if films.find(row.movie) is None] == []

    def test_they_are_short_and_no_two_begin_alike(self, rows):
        assert all(30 <= len(row.content.split()) <= 90 for row in rows)
        starts = Counter(tuple(row.content.lower().split()[:4]) for row in rows)
        assert [start for start, count in starts.items() if count > 1] == []
