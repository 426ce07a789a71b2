"""Thumbs → dialogues."""

import json

from ecr_ray.data import feedback, reading
from ecr_ray.data.redial import to_turns


def thumb(conversation, texts, film, liked, titles=(("7", "Heat (1995)"), ("9", "Up (2009)"))):
    messages = [
        {"role": ("seeker", "recommender")[n % 2], "text": text, "movie_ids": ["7", "9"] if n % 2 else []}
        for n, text in enumerate(texts)
    ]
    return {
        "conversation": conversation,
        "messages": messages,
        "titles": dict(titles),
        "film": film,
        "liked": liked,
        "answer": "a",
    }


def write(folder, name, rows, more=""):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n" + more)


def read(folder):
    source = reading.find(str(folder))
    return list(reading.read(source, max_message_chars=1000, number_rows=False))


def test_the_last_word_on_every_film_counts(tmp_path):
    rows = [
        thumb("c1", ["hi", "try Heat"], "7", True),
        thumb("c1", ["hi", "try Heat"], "7", False),
        thumb("c1", ["hi", "try Heat", "more", "try Up"], None, True),
        thumb("c2", ["hello", "Up!"], "9", True),
    ]
    write(tmp_path / "feedback", "thumbs-1.jsonl", rows)
    one, two = (row.value for row in read(tmp_path / "feedback"))
    assert one["dialogue_id"] == "served-c1" and len(one["messages"]) == 4
    assert {m["movie_id"]: m["liked"] for m in one["mentions"]} == {"7": 0, "9": None}
    assert {m["movie_id"]: m["liked"] for m in two["mentions"]} == {"7": None, "9": 1}
    turn = next(iter(to_turns(two)))
    assert turn["target_movie_ids"] == ["7", "9"] and turn["target_liked"] == [None, 1]


def test_a_broken_line_is_named_and_the_rest_is_read(tmp_path):
    write(
        tmp_path / "feedback",
        "thumbs-1.jsonl",
        [thumb("c1", ["hi", "Up!"], "9", True)],
        '{"conversation": "x"}\n{oops\n',
    )
    found = read(tmp_path / "feedback")
    assert [(row.line, row.reason[:11]) for row in found if isinstance(row, reading.Rejected)] == [
        (2, "not a thumb"),
        (3, "not valid J"),
    ]
    assert [row.value["dialogue_id"] for row in found if isinstance(row, reading.Row)] == ["served-c1"]


def test_a_directory_of_other_files_is_read_as_before(tmp_path):
    (tmp_path / "dialogues.jsonl").write_text(
        json.dumps({"dialogue_id": "d", "messages": [{"role": "seeker", "text": "x"}]})
    )
    assert not reading.find(str(tmp_path)).thumbs
    assert feedback.is_thumb(thumb("c", ["x"], None, True)) and not feedback.is_thumb([])
