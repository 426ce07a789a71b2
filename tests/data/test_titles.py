"""Film titles in texts."""

from ecr_ray.data import titles


def test_titles_are_looked_up_by_name_and_year():
    known = titles.Titles(["Heat (1995)", "Super Troopers (2001)", "12 Angry Men (1957)"])
    text = "I like Heat (1995) and the super  troopers (2001), not 13 Angry Men (1957) or Heat (1996)."
    assert known.named(text) == [True, True, False, False]
    assert known.named("No film here, (2001)") == [False]
    assert known.named("Nothing.") == []


def test_the_embedded_films():
    found = titles.load("sample").named("Have you seen Die Hard (1988) or Dye Hard (1988)?")
    assert found == [True, False]
