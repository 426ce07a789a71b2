"""Titles and names in free text → what they are: exact, with a slip of the pen, and by year; offline.

A title that several films share is left open unless a year says which. A title that is made of everyday words ("It",
"Up", "Her") counts only where the text marks it as one: with its year, in quotation marks, or by a capital letter
inside a sentence.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from ecr_ray.data.knowledge import normal
from ecr_ray.encoders import text as encoder_text
from ecr_ray.recommender.catalogue import Catalogue

_WORD = re.compile(r"[^\W_]+")
_YEAR_AFTER = re.compile(r"""["'”’]?\s*,?\s*\(?((?:19|20)\d\d)\)?""")
_QUOTES = "\"“”'‘’*"
# Words of the longest title that is looked for.
LONGEST = 12
# A slip of the pen is forgiven in titles of at least so many letters.
FUZZY_LETTERS = 7
# Of the encoder's vocabulary, which stands in order of frequency, so many words count as everyday ones.
EVERYDAY_WORDS = 6000
_ARTICLES = ("the", "a", "an")


@dataclass(frozen=True)
class Link:
    """A part of a text and what it names."""

    start: int
    end: int
    node: int | None
    """Number of an item, or of another node of the graph; None where it is left open."""
    how: str
    """exact, year (which said which), fuzzy, name, or open."""
    candidates: tuple[int, ...] = ()
    """open: what it may be."""


@dataclass(frozen=True)
class _Token:
    word: str
    start: int
    end: int


class Linker:
    """Finds a catalogue's items, and the names that its facts lead to."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._titles: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for number, item in enumerate(catalogue.items):
            for words in _spellings(item.name):
                self._titles[words].add(number)
        self._names: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for node in range(len(catalogue), len(catalogue.graph.names)):
            words = tuple(normal(catalogue.graph.names[node]).split())
            # One word alone is a genre or half a name.
            if len(words) > 1:
                self._names[words].add(node)

    @cached_property
    def _slips(self) -> dict[str, set[tuple[str, ...]]]:
        """A title's letters with one of them missing → the titles that may be meant (Garbe, SymSpell, 2012)."""
        found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for words in self._titles:
            letters = "".join(words)
            if len(letters) >= FUZZY_LETTERS:
                for short in _without_one(letters):
                    found[short].add(words)
        return found

    def link(self, text: str) -> list[Link]:
        """Everything that is named, in the order of the text; what is found does not overlap."""
        tokens = [_Token(normal(m[0]), m.start(), m.end()) for m in _WORD.finditer(text)]
        found: list[Link] = []
        at = 0
        while at < len(tokens):
            link, used = self._at(text, tokens, at)
            if link is not None:
                found.append(link)
            at += used
        return found

    def items(self, text: str) -> list[int]:
        """Numbers of the items that are named, each once."""
        return list(dict.fromkeys(link.node for link in self.link(text) if self.is_item(link)))

    def is_item(self, link: Link) -> bool:
        """Whether it leads to an item of the catalogue."""
        return link.node is not None and link.node < len(self._catalogue)

    def _at(self, text: str, tokens: Sequence[_Token], at: int) -> tuple[Link | None, int]:
        """The longest thing that begins with this token, and how many tokens it takes."""
        for count in range(min(LONGEST, len(tokens) - at), 0, -1):
            part = tokens[at : at + count]
            words = tuple(token.word for token in part)
            if words in self._titles:
                link, more = self._title(text, tokens, at, count, self._titles[words], "exact")
                if link is not None:
                    return link, count + more
            if words in self._names:
                nodes = tuple(sorted(self._names[words]))
                if len(nodes) == 1:
                    return Link(part[0].start, part[-1].end, nodes[0], "name"), count
                return Link(part[0].start, part[-1].end, None, "open", nodes), count
        return self._misspelt(text, tokens, at)

    def _misspelt(self, text: str, tokens: Sequence[_Token], at: int) -> tuple[Link | None, int]:
        for count in range(min(LONGEST, len(tokens) - at), 0, -1):
            letters = "".join(token.word for token in tokens[at : at + count])
            if len(letters) < FUZZY_LETTERS or (count == 1 and letters in _everyday()):
                continue
            # Punctuation and spaces, which people leave out and put in, are no slip.
            same = self._titles_of_letters.get(letters, ())
            meant = same or [
                words
                for short in (letters, *_without_one(letters))
                for words in self._slips.get(short, ())
                if _one_apart(letters, "".join(words))
            ]
            if meant:
                numbers = set().union(*(self._titles[words] for words in meant))
                how = "exact" if same else "fuzzy"
                link, more = self._title(text, tokens, at, count, numbers, how)
                if link is not None:
                    return link, count + more
        return None, 1

    @cached_property
    def _titles_of_letters(self) -> dict[str, list[tuple[str, ...]]]:
        """Titles by their letters without the spaces, which people leave out and put in."""
        found: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for words in self._titles:
            if len("".join(words)) >= FUZZY_LETTERS:
                found["".join(words)].append(words)
        return found

    def _title(
        self, text: str, tokens: Sequence[_Token], at: int, count: int, numbers: set[int], how: str
    ) -> tuple[Link | None, int]:
        """A link to one of these items, or an open one; None where the text means no title. And tokens of a year."""
        part = tokens[at : at + count]
        start, end = part[0].start, part[-1].end
        year = _YEAR_AFTER.match(text, end)
        more = 0
        if year is not None:
            of_year = {n for n in numbers if self._catalogue.items[n].year == int(year[1])}
            if of_year:
                numbers, more, end = of_year, 1, year.end()
                how = "year" if how == "exact" else how
            elif how == "fuzzy":
                return None, 0
        if not more and not self._marked(text, part):
            return None, 0
        if len(numbers) == 1:
            return Link(start, end, next(iter(numbers)), how), more
        return Link(start, end, None, "open", tuple(sorted(numbers))), more

    def _marked(self, text: str, part: Sequence[_Token]) -> bool:
        """Whether the text, without a year, means a title here: its words are not everyday ones, or it says so."""
        if any(token.word not in _everyday() for token in part):
            return True
        start, end = part[0].start, part[-1].end
        if start and text[start - 1] in _QUOTES and end < len(text) and text[end] in _QUOTES:
            return True
        before = text[:start].rstrip()
        inside = bool(before) and before[-1] not in ".!?:\n"
        raised = [text[token.start].isupper() for token in part if token.word not in _ARTICLES] or [False]
        # A text that is written in capitals says nothing by them; and I is always one.
        shouted = sum(c.isupper() for c in text) > sum(c.islower() for c in text)
        lone = len(part) == 1 and part[0].word == "i"
        return all(raised) and not shouted and not lone and (inside or len(part) > 1)


def _spellings(name: str) -> Iterator[tuple[str, ...]]:
    """The words of a title, also without an article in front, where more than one word is left."""
    words = tuple(normal(name).split())
    if words:
        yield words
    if len(words) > 2 and words[0] in _ARTICLES:
        yield words[1:]


def _without_one(letters: str) -> Iterable[str]:
    return {letters[:n] + letters[n + 1 :] for n in range(len(letters))}


def _one_apart(one: str, other: str) -> bool:
    """Whether a letter more, less, another, or two swapped make one of the other."""
    if one == other:
        return True
    if abs(len(one) - len(other)) > 1:
        return False
    n = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if len(one) == len(other):
        return one[n + 1 :] == other[n + 1 :] or (
            one[n : n + 2] == other[n : n + 2][::-1] and one[n + 2 :] == other[n + 2 :]
        )
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer[n + 1 :] == shorter[n:]


_one_reader = threading.Lock()


def _everyday() -> frozenset[str]:
    """Common words of English."""
    # Threads that import transformers at the same time find half of it.
    with _one_reader:
        return _read_everyday()


@lru_cache(1)
def _read_everyday() -> frozenset[str]:
    vocabulary: Mapping[str, Any] = encoder_text.load_tokenizer(encoder_text.MINILM).get_vocab()
    return frozenset(w for w, n in vocabulary.items() if n < EVERYDAY_WORDS and w.isalnum())
