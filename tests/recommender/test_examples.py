"""What a recommender is asked, from dialogues."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ecr_ray.data import reading
from ecr_ray.data.knowledge import Film
from ecr_ray.recommender import catalogue, examples
from ecr_ray.recommender.linking import Linker
from ecr_ray.records import EMOTIONS

FILMS = [Film("1", "Heat", 1995, ()), Film("2", "Alien", 1979, ()), Film("3", "Halloween", 1978, ())]
CATALOGUE = catalogue.of_films([*FILMS, Film("4", "Halloween", 2018, ())])
RESOLVE = examples.resolver(CATALOGUE)


def message(role, text, *ids, **emotions):
    said = [{"label": label, "prob": prob} for label, prob in emotions.items()]
    return {"role": role, "text": text, "movie_ids": list(ids), "emotions": said}


DIALOGUE = {
    "dialogue_id": "d",
    "mentions": [
        {"movie_id": "1", "title": "Heat (1995)", "liked": 1},
        {"movie_id": "2", "title": "Alien (1979)", "liked": None},
        {"movie_id": "77", "title": "Alien (1979)", "liked": 0},
        {"movie_id": "99", "title": "Nobody Made This (2050)", "liked": 2},
    ],
    "messages": [
        message("recommender", "hi"),
        message("seeker", "I like Heat", "1", like=0.9, happy=0.2),
        message("seeker", "a lot", happy=0.5),
        message("recommender", "See Alien and Alien", "2", "2"),
        message("recommender", "Alien, and Nobody", "77", "99"),
        message("seeker", "no", negative=1.0),
        message("recommender", "Heat then", "1"),
    ],
}


def test_a_dialogue_by_hand():
    first, second, third = examples.of_dialogue(DIALOGUE, RESOLVE)
    assert (first.index, first.targets, first.texts) == (0, (), ())
    # Once a message, not once a turn; an id that is not known goes by its name; one that nobody knows is kept apart.
    assert second.targets == (1, 1) and second.liked == (None, 0) and second.unknown == ("99",)
    assert second.texts == ("hi", "I like Heat a lot") and second.roles == (1, 0)
    (heat,) = second.mentions
    assert (heat.item, heat.role, heat.index) == (0, 0, 1)
    assert dict(zip(EMOTIONS, heat.emotions, strict=True)) == dict.fromkeys(EMOTIONS, 0.0) | {"like": 0.9, "happy": 0.5}
    # What the recommender named takes the feeling of the answer to it.
    assert third.mentioned == [1, 0] and third.targets == (0,) and third.liked == (1,)
    assert third.mentions[1].emotions[EMOTIONS.index("negative")] == 1


def test_where_nobody_wrote_down_an_id_titles_are_found_in_the_texts():
    said = [{**m, "movie_ids": [], "text": m["text"].replace("Heat", "Heat (1995)")} for m in DIALOGUE["messages"]]
    bare = {**DIALOGUE, "mentions": [], "messages": said}
    assert examples.has_ids(DIALOGUE) and not examples.has_ids(bare)
    assert [turn.targets for turn in examples.of_dialogue(bare, RESOLVE)] == [(), (), ()]
    turns = list(examples.of_dialogue(bare, RESOLVE, Linker(CATALOGUE).items))
    assert [turn.targets for turn in turns] == [(), (1,), (0,)]
    assert [turn.mentioned for turn in turns] == [[], [0], [1, 0]]
    assert turns[1].liked == (None,) and not turns[1].unknown


def test_a_feeling_that_has_not_been_said_yet_is_not_known():
    cut = DIALOGUE | {"messages": [*DIALOGUE["messages"][:4], message("seeker", "hm"), DIALOGUE["messages"][6]]}
    *_, last = examples.of_dialogue(cut, RESOLVE)
    assert last.mentions[0].emotions and not last.mentions[1].emotions


def test_a_name_of_several_films_is_nobodys():
    assert RESOLVE("x", "Halloween") is None and RESOLVE("x", "Halloween (2018)") == 3
    # A film of another year is another film.
    assert RESOLVE("x", "Heat") == 0 and RESOLVE("x", "Heat (1986)") is None
    assert RESOLVE("x", None) is None and RESOLVE("1", "Alien (1979)") == 0


def test_what_is_asked_after_a_dialogue_without_ids():
    context = [
        message("seeker", "I saw Heat", like=1.0),
        {"role": "recommender", "text": "And Alien?", "movie_ids": ["2"]},
    ]
    turn = examples.of_context(context, RESOLVE, lambda text: [0] if "Heat" in text else [])
    assert [(m.item, m.role, m.index) for m in turn.mentions] == [(0, 0, 0), (1, 1, 1)]
    assert turn.mentions[0].emotions and not turn.mentions[1].emotions
    assert examples.of_context([], RESOLVE, lambda text: []).mentions == ()


def test_examples_and_who_names_what():
    turns = list(examples.of_dialogue(DIALOGUE, RESOLVE))
    asked, rows, turn_N = examples.to_rank(turns)
    assert [turn.index for turn in asked] == [2, 4] and turn_N.tolist() == [0, 0, 1]
    assert rows.target_N.tolist() == [1, 1, 0] and rows.liked_N.tolist() == [-1, 0, 1]
    matrix, names = examples.mentions_matrix(turns, len(CATALOGUE))
    assert names == ["d"] and matrix.tolist() == [[1, 1, 0, 0]]
    assert examples.popularity(turns, len(CATALOGUE)).tolist() == [1, 1, 0, 0]
    assert len(examples.to_rank([])[1]) == 0


@pytest.mark.skipif(not os.environ.get("ECR_DATA_DIR"), reason="ReDial is below ECR_DATA_DIR, which is not set")
def test_redials_test_split_is_the_published_one():
    found = catalogue.load("redial")
    resolve = examples.resolver(found)
    rows = reading.read(reading.find("redial:test"), max_message_chars=20_000, number_rows=False)
    turns = [turn for row in rows for turn in examples.of_dialogue(row.value, resolve)]
    folder = Path(os.environ["ECR_DATA_DIR"], "redial_kg")
    lines = (folder / "test_data_processed.jsonl").read_text(encoding="utf-8").split("\n")
    published = [json.loads(line) for line in lines if line]
    place = {entity: n for n, entity in enumerate(json.loads((folder / "item_ids.json").read_text()))}
    assert len(turns) == len(published) == 7978
    theirs = [sorted(place[entity] for entity in line["rec"]) for line in published]
    different = sum(sorted(turn.targets) != rec for turn, rec in zip(turns, theirs, strict=True))
    # Four turns name a film by an id that the catalogue lacks, and by a title that does not say which film it is.
    assert sum(map(len, theirs)) == 4810 and sum(len(turn.targets) for turn in turns) == 4806 and different == 4
    assert np.mean([len(turn.mentions) for turn in turns]) > 2
