"""The README's figures are those of the records."""

import pytest

from ecr_ray import benchmarks
from ecr_ray.benchmarks import figures


def test_the_readme_says_what_the_records_say():
    text = figures.README.read_text()
    assert figures.fill(text, figures.RESULTS) == text, "run `make figures`"


def test_a_marked_place_without_a_record_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        figures.fill("<!-- nothing -->\nold\n<!-- /nothing -->", tmp_path)


def test_a_row_has_the_median_of_the_rounds_and_its_range():
    row = benchmarks.row("peer", "rows/s", [10.0, 30.0, 20.0], [10.0, 10.0, 10.0], "work")
    assert (row["ours"], row["theirs"], row["ratio"], row["low"], row["high"], row["n"]) == (
        20.0,
        10.0,
        2.0,
        1.0,
        3.0,
        3,
    )
