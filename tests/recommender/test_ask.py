"""The recommender on the command line."""

import subprocess
import sys

import pytest

from ecr_ray.models import tiny

pytestmark = pytest.mark.skipif(
    not (tiny.HERE / "ecr-tiny-recommender").is_dir(), reason="the recommender is not in the package"
)


def ask(*words):
    command = [sys.executable, "-m", "ecr_ray.recommender", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_answers_with_films_reasons_and_what_was_felt():
    found = ask("I loved John Wick (2014), thank you! Another like it?", "--count", "3")
    assert found.returncode == 0, found.stderr
    felt, *films = found.stdout.splitlines()
    assert felt.startswith("feels: ") and "grateful" in felt
    assert len(films) == 3 and all("%  " in film for film in films) and any("John Wick (2014)" in f for f in films)


def test_what_is_no_recommender_is_said():
    found = ask("hello", "--recommender", "nowhere", "--emotions", "none")
    assert found.returncode == 1 and "error: nowhere holds no recommender" in found.stderr
