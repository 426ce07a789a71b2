"""Which films exist, and whether those that a text names do."""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ecr_ray.data import knowledge, reading, redial

_YEAR = re.compile(r"\((\d{4})\)")
# Words of the longest title that is looked for.
LONGEST = 12


class Titles:
    """Film titles with their years."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._known = {knowledge.normal(name) for name in names}
        self._undated = {knowledge.normal(knowledge.split_year(name)[0]) for name in names}

    def is_one(self, title: str) -> bool:
        """Whether a film is called so, whatever its year."""
        return knowledge.normal(title) in self._undated

    def named(self, text: str) -> list[bool]:
        """For everything written as a title with its year: whether there is such a film."""
        return [any(ending in self._known for ending in endings) for endings in _endings(text)]

    def films(self, text: str) -> list[str]:
        """Those that are written with their year and exist, as `name (year)` in normal words."""
        found = []
        for endings in _endings(text):
            known = [ending for ending in endings if ending in self._known]
            if known:
                name, _, year = known[-1].rpartition(" ")
                found.append(f"{name} ({year})")
        return found

    def invented(self, text: str, said: Iterable[str]) -> list[str]:
        """What is written as a title with its year, and is no film: its last word and year, normal.

        Args:
            said: texts of others; what stands there was not invented here.
        """
        theirs = {endings[0] for other in said for endings in _endings(other)}
        return [
            endings[0]
            for endings in _endings(text)
            if not any(ending in self._known for ending in endings) and endings[0] not in theirs
        ]


def _endings(text: str) -> Iterator[list[str]]:
    """For every year in brackets what may be the title before it, from the last word alone to the longest."""
    before = 0
    for year in _YEAR.finditer(text):
        words = text[before : year.start()].split()[-LONGEST:]
        before = year.end()
        endings = [knowledge.normal(" ".join([*words[-k:], year[1]])) for k in range(1, len(words) + 1)]
        # A year with nothing before it is no film's name.
        yield endings or [year[0]]


def load(location: str) -> Titles:
    """`redial`: ReDial's own list below ECR_DATA_DIR; `sample`: the embedded films; else a file that --knowledge takes.

    Raises:
        InputError: there is no such thing, or it is not in the form it should have.
    """
    if location == "redial":
        path = Path(reading.find("redial:test").files[0]).with_name("movies_with_mentions.csv")
        with path.open(encoding="utf-8", newline="") as lines:
            return Titles([redial.clean_name(row["movieName"]) for row in csv.DictReader(lines) if row["movieName"]])
    return Titles(film.full_name for film in knowledge.load(location).films.values())
