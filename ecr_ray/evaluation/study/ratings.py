"""Filled-in sheets → ratings, however a spreadsheet has saved them, with every row that cannot be used named."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecr_ray.evaluation.study import cells
from ecr_ray.evaluation.study.design import HIGHEST, LOWEST, MEASURES, Item

# A spreadsheet may write 7 as 7.0 or, in much of Europe, as 7,0.
_RATING = re.compile(r"(\d+)([.,]0+)?")
_POINT_ZERO = re.compile(r"[.,]0+$")
_HEADINGS = re.compile(r"\s*([^\r\n]*)")
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Rating:
    """What one rater said of one item."""

    rater: int
    """From 1, as the sheets are numbered."""
    item: Item
    values: Mapping[str, int]
    """Measure → rating; without those that were left empty."""
    comment: str


@dataclass(frozen=True)
class Problem:
    """A row that is set aside, or a rating that is not there."""

    file: str
    row: int
    """As a spreadsheet numbers them, headings being row 1; 0: the file as a whole."""
    column: str
    reason: str
    raw: Sequence[str] = ()
    """The row as it was, if it is set aside."""

    def __str__(self) -> str:
        where = [self.file, f"row {self.row}" if self.row else "", f"column {self.column}" if self.column else ""]
        return f"{', '.join(part for part in where if part)}: {self.reason}"


@dataclass
class Read:
    """What came of all files."""

    ratings: list[Rating] = field(default_factory=list)
    set_aside: list[Problem] = field(default_factory=list)
    missing: list[Problem] = field(default_factory=list)


def read(paths: Sequence[Path], raters: Sequence[Sequence[Item]]) -> Read:
    """All ratings of some files. The first usable row of an item counts.

    Args:
        paths: the files.
        raters: every rater's items, of the key; whose a row is, its item says.
    """
    known = {item.item: (number, item) for number, items in enumerate(raters, 1) for item in items}
    found, first = Read(), {}
    gaps: dict[str, list[Problem]] = {}
    files: dict[str, str] = {}
    for path in paths:
        rows, problem = _rows(path)
        if problem:
            found.set_aside.append(problem)
        for number, row in rows:
            item, empty = row["item"], not any(row.get(measure) for measure in MEASURES)
            reason = _unusable(row, known, first)
            if reason:
                found.set_aside.append(Problem(path.name, number, *reason, list(row.values())))
            elif not empty:
                rating = _rating(row, *known[item])
                gaps[item] = [Problem(path.name, number, m, "not rated") for m in MEASURES if m not in rating.values]
                first[item] = f"{path.name}, row {number}"
                found.ratings.append(rating)
            elif item not in first:
                gaps[item] = [Problem(path.name, number, "", f"item {item} is not rated")]
            files.setdefault(item, path.name)
    found.missing = [problem for problems in gaps.values() for problem in problems]
    found.missing += [problem for number, items in enumerate(raters, 1) for problem in _absent(number, items, files)]
    return found


def _unusable(
    row: Mapping[str, str], known: Mapping[str, tuple[int, Item]], first: Mapping[str, str]
) -> tuple[str, str] | None:
    """Column and reason, if a row cannot be used."""
    item = row["item"]
    if item not in known:
        return "item", f"{item!r} is no item of this study"
    for measure in MEASURES:
        value = row.get(measure, "")
        whole = _RATING.fullmatch(value)
        if value and (whole is None or not LOWEST <= int(whole[1]) <= HIGHEST):
            return measure, f"{value!r} is not a whole number from {LOWEST} to {HIGHEST}"
    if item in first and any(row.get(name) for name in MEASURES):
        return "item", f"{item} was rated before, in {first[item]}"
    return None


def _rating(row: Mapping[str, str], rater: int, item: Item) -> Rating:
    values = {name: int(_RATING.fullmatch(row[name])[1]) for name in MEASURES if row.get(name)}
    return Rating(rater, item, values, cells.unescaped(row.get("comment", "")))


def _absent(rater: int, items: Sequence[Item], files: Mapping[str, str]) -> Iterator[Problem]:
    """Items of a rater that has sent a file without a row of them."""
    sent = list(dict.fromkeys(files[item.item] for item in items if item.item in files))
    gone = [item.item for item in items if item.item not in files]
    if sent and gone:
        told = f"{len(gone)} of rater {rater}'s {len(items)} items have no row, the first of them {gone[0]}"
        yield Problem(" and ".join(sent), 0, "item", told)


# --- files ------------------------------------------------------------------------------------------------


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], Problem | None]:
    """The rows of a file that hold anything, with their numbers; and why it has none, or not all."""
    name = path.name
    try:
        content = path.read_bytes()
    except OSError as error:
        return [], Problem(str(path), 0, "", f"cannot be read ({error.strerror})")
    if content.startswith(b"PK"):
        return [], Problem(name, 0, "", "is a workbook, not CSV: save it as CSV (UTF-8, comma delimited)")
    text = _decoded(content)
    delimiter = max(",;\t", key=_HEADINGS.match(text)[1].count)
    # Strict: a quote that never ends would swallow every row after it.
    reader = enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1)
    found: list[tuple[int, dict[str, str]]] = []
    names: list[str] = []
    number = 0
    try:
        for number, cell_values in reader:
            if not any(cell.strip() for cell in cell_values):
                continue
            if names:
                found.append((number, _row(names, cell_values)))
                continue
            names = [cell.strip().casefold() for cell in cell_values]
            problem = _heading_problem(name, number, names)
            if problem:
                return [], problem
    except csv.Error as error:
        return found, Problem(name, number + 1, "", f"is not CSV from here on ({error})")
    return found, None if found else Problem(name, 0, "", "has no row of ratings")


def _row(names: Sequence[str], cell_values: Sequence[str]) -> dict[str, str]:
    row = dict(zip(names, [*cell_values, *[""] * len(names)], strict=False))
    row |= {name: row[name].strip() for name in MEASURES if name in row}
    # A column with gaps is a column of 1234567.0 to some programs.
    return row | {"item": _POINT_ZERO.sub("", row["item"].strip())}


def _heading_problem(file: str, row: int, names: Sequence[str]) -> Problem | None:
    if "item" not in names:
        return Problem(file, row, "item", f"no column has this heading (there are {', '.join(names)[:200]})")
    twice = next((name for name in ("item", *MEASURES) if names.count(name) > 1), None)
    if twice:
        return Problem(file, row, twice, "two columns have this heading")
    missing = [name for name in MEASURES if name not in names]
    if len(missing) == len(MEASURES):
        return Problem(file, row, missing[0], "no column has this heading, nor any other measure's")
    return None


def _decoded(content: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def as_json(problem: Problem) -> dict[str, Any]:
    """One line of a quarantine file."""
    return {**vars(problem), "raw": list(problem.raw)}
