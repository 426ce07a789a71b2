"""People's film reviews: read from a user's file, and held to what the ECR paper kept of IMDb's.

A file is .jsonl or .csv with the columns `title`, `content`, `rating` (1-10) and `movie` (its name, better with the
year); `votes` (how many found it helpful) may stand beside them.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from ecr_ray import storage
from ecr_ray.data.reading import InputError, Rejected

COLUMNS = ("title", "content", "rating", "movie")
FIRST_PERSON = {"i", "me", "my", "mine"}
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# Sentences that speak of the review itself or of its rating teach nothing about a film.
_ABOUT_ITSELF = re.compile(r"\breview|\b10\b", re.IGNORECASE)


@dataclass(frozen=True)
class Review:
    """One review. `votes` is None where the file does not say."""

    movie: str
    title: str
    content: str
    rating: int
    votes: int | None = None


@dataclass(frozen=True)
class Filters:
    """What is kept. The defaults are the paper's for its large model; `SHORT` are those for its small one."""

    min_rating: int = 10
    per_movie: int = 25
    max_repetition: float = 0.5
    """Share of a review's words that occurred in it before."""
    min_words: int = 120
    max_words: int = 300
    """Of a longer one the first and the last half of so many words are kept, by whole sentences."""
    min_first_person: int = 4
    """How often I, me, my and mine occur, together."""
    min_votes: int = 5


SHORT = Filters(min_words=20, max_words=150, min_votes=1)


def read(location: str) -> Iterator[Review | Rejected]:
    """All reviews of a file, each taken or rejected with its line, field and reason.

    Raises:
        InputError: there is no such file, or it lacks a column.
    """
    location = find(location)
    with storage.open_read(location) as stream:
        data = stream.read()
    rows = _csv_rows(data, location) if location.endswith(".csv") else _json_rows(data, location)
    for number, raw, value in rows:
        yield value if isinstance(value, Rejected) else _parse(value, location, number, raw)


def first_sentence(text: str) -> str:
    """A text's first sentence, on one line."""
    return " ".join(_SENTENCE_END.split(text.strip(), maxsplit=1)[0].split())


def find(location: str) -> str:
    """The file that `--reviews` names.

    Raises:
        InputError: there is none.
    """
    if location == "sample":
        return str(resources.files("ecr_ray.data") / "sample" / "reviews.jsonl")
    if not storage.exists(location):
        raise InputError(f"there is no file of reviews {location!r}")
    return location


def select(reviews: Iterable[Review], filters: Filters, left_out: Counter) -> list[Review]:
    """The reviews that the filters keep, in order; `left_out` counts the others by reason."""
    kept, by_movie = [], Counter()
    for review in reviews:
        reason, review = _judge(review, filters)
        if reason is None and by_movie[review.movie] >= filters.per_movie:
            reason = f"more than {filters.per_movie} of one film"
        if reason is not None:
            left_out[f"reviews: {reason}"] += 1
            continue
        by_movie[review.movie] += 1
        kept.append(review)
    return kept


def repetition(text: str) -> float:
    """Share of words that occurred before in the text; 0 for an empty one."""
    words = _words(text)
    return 1 - len(set(words)) / len(words) if words else 0.0


def shorten(text: str, max_words: int) -> str:
    """The text, or its first and last sentences with half of `max_words` words each."""
    sentences = _SENTENCE_END.split(text)
    if len(_words(text)) <= max_words:
        return text
    head = _within(sentences, max_words // 2)
    tail = _within(sentences[len(head) :][::-1], max_words // 2)[::-1]
    return " ".join([*head, *tail])


def _within(sentences: list[str], words: int) -> list[str]:
    taken, count = [], 0
    for sentence in sentences:
        count += len(_words(sentence))
        if count > words:
            break
        taken.append(sentence)
    return taken


def _judge(review: Review, filters: Filters) -> tuple[str | None, Review]:
    """Why a review is left out (None: it is kept), and what of it is kept."""
    sentences = _SENTENCE_END.split(review.content)
    content = shorten(" ".join(s for s in sentences if not _ABOUT_ITSELF.search(s)), filters.max_words)
    words = _words(content)
    reason = None
    if review.rating < filters.min_rating:
        reason = f"rated below {filters.min_rating}"
    elif review.votes is not None and review.votes < filters.min_votes:
        reason = f"fewer than {filters.min_votes} votes"
    elif len(words) < filters.min_words:
        reason = f"fewer than {filters.min_words} words"
    elif repetition(content) > filters.max_repetition:
        reason = "says the same over and over"
    elif sum(word in FIRST_PERSON for word in words) < filters.min_first_person:
        reason = "hardly speaks in the first person"
    return reason, replace(review, content=content)


def _words(text: str) -> list[str]:
    # `I'm` and `I've` speak in the first person too.
    return [part for word in _WORD.findall(text.lower()) for part in word.split("'", 1)[:1]]


def _json_rows(data: bytes, location: str) -> Iterator[tuple[int, str, Any]]:
    seen_columns = False
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        raw = line.decode("utf-8", errors="backslashreplace")
        try:
            value = json.loads(line.decode("utf-8"))
        except ValueError as error:
            yield number, raw, Rejected(location, number, "(line)", f"not valid JSON: {error}", raw)
            continue
        if not isinstance(value, Mapping):
            yield number, raw, Rejected(location, number, "(line)", "not a JSON object", raw)
            continue
        if not seen_columns:
            _check_columns(value, location)
            seen_columns = True
        yield number, raw, value


def _csv_rows(data: bytes, location: str) -> Iterator[tuple[int, str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{location} is not UTF-8: byte {error.start + 1}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    _check_columns(reader.fieldnames or [], location)
    for row in reader:
        yield reader.line_num, json.dumps(row, ensure_ascii=False), row


def _check_columns(found: Iterable[str], location: str) -> None:
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise InputError(f"{location} has no column {missing[0]!r}: reviews need {', '.join(COLUMNS)}")


def _parse(row: Mapping[str, Any], location: str, number: int, raw: str) -> Review | Rejected:
    for name in ("content", "movie"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            return Rejected(location, number, name, "missing or not text", raw)
    numbers = {}
    for name in ("rating", "votes"):
        value = row.get(name)
        if value in (None, "") and name == "votes":
            numbers[name] = None
            continue
        try:
            numbers[name] = int(float(value))
        except (TypeError, ValueError):
            return Rejected(location, number, name, f"{value!r} is not a number", raw)
    if not 1 <= numbers["rating"] <= 10:
        return Rejected(location, number, "rating", f"{numbers['rating']} is not between 1 and 10", raw)
    return Review(
        row["movie"].strip(), str(row.get("title") or "").strip(), " ".join(row["content"].split()), **numbers
    )
