"""What simulated users are after."""

import pytest

from ecr_ray.data.knowledge import Fact, Film
from ecr_ray.evaluation.simulation import tasks
from ecr_ray.evaluation.simulation.leaking import Watch
from ecr_ray.recommender import catalogue
from ecr_ray.records import EMOTIONS


def film(number, name, year, **facts):
    found = tuple(Fact(name, relation, value) for relation, values in facts.items() for value in values)
    return Film(str(number), name, year, found)


FILMS = [
    film(1, "Heat", 1995, genre=["crime", "action"], star=["Al Pacino"], director=["Michael Mann"]),
    film(2, "Collateral", 2004, genre=["crime", "thriller"], star=["Tom Cruise"], director=["Michael Mann"]),
    film(3, "The Insider", 1999, genre=["drama"], star=["Al Pacino"], director=["Michael Mann"]),
    film(4, "Frozen", 2013, genre=["family"], star=["Kristen Bell"]),
    film(5, "Heat Wave", 2011, genre=["crime", "action"], star=["Al Pacino"], director=["Michael Mann"]),
    film(6, "Nothing Known", 2000),
    film(7, "Steve Jobs", 2015, genre=["drama"], star=["Steve Jobs", "Kate Winslet"]),
]


@pytest.fixture(scope="module")
def what():
    return catalogue.of_films(FILMS)


def by_target(found):
    return {task.target: task for task in found}


def test_a_target_of_the_catalogue_has_facts_and_two_films_like_it(what):
    found = by_target(tasks.draw_tasks(what, 99, seed=1))
    # Frozen shares nothing with any film, and of film 6 nothing is known.
    assert set(found) == {"1", "2", "3", "5", "7"}
    # Heat Wave shares four facts with Heat, but gives it away; 2 and 3 share two each.
    assert set(found["1"].likes) == {"Collateral (2004)", "The Insider (1999)"}
    assert found["5"].likes[0] == "Heat (1995)"
    assert found["1"].facts == (
        ("genre", "crime"), ("genre", "action"), ("star", "Al Pacino"), ("director", "Michael Mann"),
        ("decade", "1990s"),
    )  # fmt: skip
    assert ("star", "Steve Jobs") not in found["7"].facts and ("star", "Kate Winslet") in found["7"].facts
    assert all(task.feeling in EMOTIONS for task in found.values())


def test_the_same_seed_draws_the_same_and_another_others(what):
    first = tasks.draw_tasks(what, 3, seed=1)
    assert tasks.draw_tasks(what, 3, seed=1) == first and len(first) == 3
    assert any(tasks.draw_tasks(what, 3, seed=seed) != first for seed in range(2, 6))


def message(role, *films, emotions=()):
    return {
        "role": role,
        "text": "…",
        "movie_ids": list(films),
        "emotions": [{"label": label, "prob": prob} for label, prob in emotions],
    }


def dialogue(name, messages, **liked):
    """`liked`: `m1=(suggested, liked)`."""
    mentions = [
        {"movie_id": key[1:], "title": "?", "suggested": suggested, "seen": 1, "liked": likes}
        for key, (suggested, likes) in liked.items()
    ]
    return {"dialogue_id": name, "split": "test", "messages": messages, "mentions": mentions}


def test_a_dialogue_gives_the_last_liked_suggestion_and_what_was_named_before(what):
    found = dialogue(
        "d",
        [
            message("seeker", "2", "4", emotions=[("neutral", 0.9), ("nostalgia", 0.4)]),
            message("recommender", "3"),
            message("seeker", "7"),
            message("recommender", "1"),
            message("seeker", "5", emotions=[("happy", 1.0)]),
            message("recommender", "6"),
        ],
        m2=(0, 1), m3=(1, 1), m4=(0, 0), m7=(0, 2), m1=(1, 1), m6=(1, 0), m5=(0, 1),
    )  # fmt: skip
    (task,) = tasks.draw_tasks(what, 5, 0, [found])
    # 6 was not liked; 4 neither, and 5 came later, as did the joy.
    assert (task.task_id, task.target, task.feeling) == ("d", "1", "nostalgia")
    assert task.likes == ("Collateral (2004)", "Steve Jobs (2015)")


@pytest.mark.parametrize(
    ("messages", "liked"),
    [
        # Nobody said that it was liked.
        ([message("seeker", "2"), message("recommender", "1")], {"m1": (1, None), "m2": (0, 1)}),
        # The seeker named it first.
        ([message("seeker", "2", "1"), message("recommender", "1")], {"m1": (1, 1)}),
        # Nothing was named before.
        ([message("recommender", "1"), message("seeker", "2")], {"m1": (1, 1)}),
        # What was named before gives it away.
        ([message("seeker", "5"), message("recommender", "1")], {"m1": (1, 1)}),
        # Nothing is known of it.
        ([message("seeker", "2"), message("recommender", "6")], {"m6": (1, 1)}),
        ([message("seeker", "2"), message("recommender", "77")], {"m77": (1, 1)}),
    ],
)
def test_a_dialogue_that_makes_no_task_is_said(what, messages, liked):
    with pytest.raises(tasks.SimulationError, match="no dialogue has a suggested film"):
        tasks.draw_tasks(what, 5, 0, [dialogue("d", messages, **liked)])


def test_a_catalogue_without_facts_makes_no_task():
    with pytest.raises(tasks.SimulationError, match="not one of the catalogue's 1 films"):
        tasks.draw_tasks(catalogue.of_films([FILMS[5]]), 5, 0)


def test_no_task_of_the_sample_gives_its_film_away():
    what = catalogue.load("sample")
    watch = Watch(what)
    found = tasks.draw_tasks(what, 1000, 0)
    assert len(found) > 0.9 * len(what)
    for task in found:
        assert not [t for t in (*task.likes, *(name for _, name in task.facts)) if watch.leaks(t, task.target)]
