"""A reply as it is written, in which every film that is named exists, or was named by the other person.

The policy writes a film as its title with the year in brackets, as it has learnt to; other models write it in
quotation marks. Where there is no such film, one that was recommended takes the place, as in systems that fill slots.
A title with neither year nor marks is words like others and passes. Text is held back only while it may still turn out
to be a title.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from ecr_ray.data.knowledge import normal
from ecr_ray.data.titles import LONGEST, Titles

# Words that stand inside titles without a capital.
_SMALL = "a|an|and|as|at|by|de|du|for|from|in|la|le|of|on|or|the|to|vs\\.?|with|&|-|–"
_BIG = r"[A-Z0-9À-ÖØ-Þ\"'“‘*#][^\s()]*"
_RUN = rf"{_BIG}(?:\s+(?:(?:{_SMALL})(?=\s)|{_BIG}))*"
# What may still become a title: its words, the word that is just being written, and a bracket that is not closed.
_OPEN = re.compile(rf"(?<!\S){_RUN}(?:\s+\S*|\s*\(\d{{0,4}})?$|\s*\(\d{{0,4}}$|\s+$")
_TITLE = re.compile(rf"(?<!\S){_RUN}\s*$")
# Two words or more: one in quotation marks is seldom a film.
_WITHIN = r"[A-Z0-9À-ÖØ-Þ'‘*#][^\s()\"“”]*"
_QUOTED = re.compile(rf"(?<!\S)[\"“]({_WITHIN}(?:\s+(?:(?:{_SMALL})(?=\s)|{_WITHIN}))+)[\"”](?!\s*\()")
_WORD = re.compile(r"(?<!\S)[^\s(]+")
_FIRST = re.compile(r"\s*[^\s(]+")
_YEAR = re.compile(r"\s*\(\d{4}\)")
_MARK, _CLOSING = re.compile(r"(?<!\S)[\"“]"), re.compile(r"[\"”]")
# A title is a word of its own, marks that open it aside.
_APART = re.compile(r"(?:^|\s)[\"'“‘*(]*$")
_ARTICLES = {"the", "a", "an"}
NOTHING_BETTER = "another film"


class Guard:
    """Takes a reply in pieces, gives it back in pieces."""

    def __init__(
        self, titles: Titles, said: Sequence[str] = (), instead: Iterable[str] = (), *, quick: bool = False
    ) -> None:
        """For one reply.

        Args:
            titles: which films exist.
            said: texts of the other person; what they name may be named.
            instead: films, the best first, that take the place of those that do not exist.
            quick: show the reply's first word as soon as it is there, though it may begin a title; what is written of
                one that does not exist then goes on after it.
        """
        self._quick = quick
        self._titles, self._said, self._instead = titles, said, iter(instead)
        self._out, self._held = "", ""
        self._places: dict[str, str] = {}

    @property
    def replaced(self) -> dict[str, str]:
        """What was written → what stands in its place."""
        return dict(self._places)

    @property
    def text(self) -> str:
        """All that was given back."""
        return self._out

    def feed(self, piece: str) -> str:
        """What can be shown after this piece of the reply."""
        self._held += piece
        return self._give("".join(self._resolved()) + self._closed())

    def finish(self) -> str:
        """What is left when the reply has ended."""
        rest = "".join(self._resolved()) + self._held
        self._held = ""
        return self._give(rest)

    def _give(self, text: str) -> str:
        text = _QUOTED.sub(self._unquoted, text)
        self._out += text
        return text

    def _resolved(self) -> Iterator[str]:
        """Everything up to the last year in brackets."""
        given = ""
        while found := _YEAR.search(self._held):
            before, year = self._held[: found.start()], found[0]
            self._held = self._held[found.end() :]
            part = self._checked(given, before, year)
            given += part
            yield part

    def _checked(self, given: str, before: str, year: str) -> str:
        whole = self._out + given + before
        last = _YEAR.split(whole)[-1] + year
        if not self._titles.invented(last, self._said):
            return before + year
        title = _TITLE.search(before)
        if title is None:
            # Its words are not written as a title's; without the brackets they are none.
            return f"{before} {year.strip()[1:-1]}"
        begin = title.start() + _last_words(title[0])
        start = begin + _lead(before[begin:], self._out + given + before[:begin])
        if self._is_theirs(before[start:]):
            return before + year
        written = " ".join(f"{before[start:]}{year}".split())
        if written not in self._places:
            self._places[written] = next(self._unnamed(whole), NOTHING_BETTER)
        space = "" if _APART.search(self._out + given + before[:start]) else " "
        return before[:start] + space + self._places[written]

    def _unquoted(self, found: re.Match[str]) -> str:
        title, before = found[1], self._out + found.string[: found.start()]
        if (
            not _APART.search(before)
            or len(title.split()) > LONGEST
            or self._titles.is_one(title)
            or self._is_theirs(title)
        ):
            return found[0]
        if title not in self._places:
            self._places[title] = next(self._unnamed(self._out), NOTHING_BETTER)
        return self._places[title]

    def _is_theirs(self, title: str) -> bool:
        """Whether the other person named it, if without the year."""
        words = f" {normal(title)} "
        return bool(words.strip()) and any(words in f" {normal(text)} " for text in self._said)

    def _unnamed(self, whole: str) -> Iterator[str]:
        taken = set(self._places.values())
        return (film for film in self._instead if film not in taken and film not in whole)

    def _closed(self) -> str:
        """What cannot be part of a title any more."""
        first = _FIRST.match(self._held) if self._quick and not self._out.strip() else None
        if first:
            self._held = self._held[first.end() :]
            return first[0] + self._closed_after()
        return self._closed_after()

    def _closed_after(self) -> str:
        found = _OPEN.search(self._held)
        start = found.start() if found else len(self._held)
        start += _last_words(self._held[start:])
        shown, self._held = self._held[:start], self._held[start:]
        return shown


def _last_words(text: str) -> int:
    """Where the last words begin, as many as a title may have."""
    words = list(_WORD.finditer(text))
    return words[-LONGEST].start() if len(words) > LONGEST else 0


def _lead(run: str, before: str) -> int:
    """Where in a run of capitals the title begins: at its quotation mark, if it has one.

    The first word of a sentence has its capital for that.
    """
    if marks := list(_MARK.finditer(run)):
        inside = marks[-1].end()
        # What follows the year may close it.
        return marks[-1].start() if _CLOSING.search(run, inside) else inside
    words = list(re.finditer(r"\S+", run))
    begins = not before.strip() or before.rstrip()[-1] in ".!?:"
    if not begins or len(words) < 2 or words[0][0].lower() in _ARTICLES:
        return 0
    second = words[1]
    return second.start() if second[0][0].isupper() or second[0][0].isdigit() else 0
