"""Reasons that a person can read."""

from ecr_ray.data.knowledge import Fact, Film
from ecr_ray.recommender import catalogue, reasons
from ecr_ray.recommender.examples import Mention, Turn
from ecr_ray.records import EMOTIONS


def film(movie_id, name, year, **facts):
    return Film(movie_id, name, year, tuple(Fact(name, relation, value) for relation, value in facts.items()))


CATALOGUE = catalogue.of_films(
    [
        film("1", "Heat", 1995, genre="crime", director="Michael Mann", star="Al Pacino"),
        film("2", "Collateral", 2004, genre="crime", director="Michael Mann"),
        film("3", "Alien", 1979, genre="horror", director="Ridley Scott"),
        film("4", "Jaws", 1975, genre="horror"),
        film("5", "Unheard Of", None),
    ]
)


def feels(**emotions):
    return tuple(emotions.get(name, 0.0) for name in EMOTIONS)


def asked(*mentions, text="hello"):
    return Turn("d", 1, (text,), (0,), mentions)


def test_the_strongest_thing_that_two_films_share_and_the_feeling():
    found = reasons.reason(1, asked(Mention(0, 0, 0, feels(nostalgia=0.8, neutral=0.9))), CATALOGUE)
    assert found.text == "is by Michael Mann, like Heat (1995), which you remember fondly"
    assert found.mention == 0 and found.emotion == "nostalgia"
    assert found.shared == (("genre", "crime"), ("director", "Michael Mann"))


def test_a_film_that_was_not_enjoyed_is_no_reason_if_there_is_another():
    disliked = Mention(3, 0, 0, feels(negative=0.9))
    found = reasons.reason(2, asked(disliked, Mention(0, 0, 0)), CATALOGUE, {0: 0.1})
    assert found.text == "is often named beside Heat (1995)" and found.emotion is None
    alone = reasons.reason(2, asked(disliked), CATALOGUE)
    assert alone.text == "is horror, like Jaws (1975)" and alone.emotion == "negative"


def test_what_was_asked_for_in_words():
    assert reasons.reason(3, asked(text="Some horror, please"), CATALOGUE).text == "is horror, which you asked about"
    assert (
        reasons.reason(2, asked(text="ridley scott"), CATALOGUE).text
        == "has to do with Ridley Scott, which you asked about"
    )
    # A feeling that is hardly there is not spoken of.
    weak = Mention(0, 0, 0, feels(like=0.2))
    assert reasons.reason(4, asked(weak), CATALOGUE).text == "is often named beside Heat (1995)"


def test_without_anything_it_does_not_make_something_up():
    assert reasons.reason(4, asked(), CATALOGUE).text == "suits what you said, and is often recommended"
    assert reasons.reason(0, asked(Mention(0, 1, 0)), CATALOGUE).text == "was named before in this conversation"
