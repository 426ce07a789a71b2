import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.data import redial
from ecr_ray.data.redial import RowError

DIALOGUE = {
    "conversationId": "7",
    "initiatorWorkerId": 1,
    "respondentWorkerId": 2,
    "movieMentions": {"11": "Heat  (1995)", "12": "Lilo &amp; Stitch", "13": None, "14": "Who%3F (2001)"},
    "initiatorQuestions": {"11": {"suggested": 0, "seen": 1, "liked": 1}},
    "messages": [
        {"senderWorkerId": 1, "text": "I liked @11\r\nand you?", "emotion": {"like": 0.75, "curious": 0.25}},
        {"senderWorkerId": 2, "text": ""},
        {"senderWorkerId": 2, "text": "Try @12 ,"},
        {"senderWorkerId": 2, "text": "or @13 or @14 or @99"},
        {"senderWorkerId": 1, "text": "ok"},
        {"senderWorkerId": 2, "text": "bye"},
    ],
}


def parse(**changes):
    return redial.parse_dialogue({**copy.deepcopy(DIALOGUE), **changes}, split="test")


def test_a_dialogue_is_read_with_names_in_place_of_ids():
    found = parse()
    assert (found["dialogue_id"], found["split"]) == ("7", "test")
    assert [m["text"] for m in found["messages"]] == [
        "I liked Heat (1995)\nand you?", "Try Lilo & Stitch ,", "or @13 or Who? (2001) or @99", "ok", "bye",
    ]  # fmt: skip
    assert [m["role"] for m in found["messages"]] == [
        "seeker",
        "recommender",
        "recommender",
        "seeker",
        "recommender",
    ]
    assert found["messages"][2]["movie_ids"] == ["13", "14"]
    assert found["messages"][0]["emotions"] == [
        {"label": "like", "prob": 0.75},
        {"label": "curious", "prob": 0.25},
    ]


def test_what_the_form_does_not_say_stays_null():
    mentions = {m["movie_id"]: m for m in parse()["mentions"]}
    assert mentions["11"] == {"movie_id": "11", "title": "Heat (1995)", "suggested": 0, "seen": 1, "liked": 1}
    assert mentions["12"] == {
        "movie_id": "12",
        "title": "Lilo & Stitch",
        "suggested": None,
        "seen": None,
        "liked": None,
    }
    assert mentions["13"]["title"] is None
    assert all(m["liked"] is None for m in parse(initiatorQuestions=[])["mentions"])


def test_turns_are_merged_recommender_messages_with_what_came_before():
    first, last = redial.to_turns(parse())
    assert (first["turn_id"], first["index"], first["response"]) == (
        "7:1",
        1,
        "Try Lilo & Stitch , or @13 or Who? (2001) or @99",
    )
    assert [m["text"] for m in first["context"]] == ["I liked Heat (1995)\nand you?"]
    assert first["target_movie_ids"] == ["12", "13", "14"] and first["target_liked"] == [None, None, None]
    assert (last["turn_id"], len(last["context"])) == ("7:3", 3)


def test_merging_keeps_the_likelier_probability_of_an_emotion():
    def message(p):
        return {"role": "seeker", "text": "x", "movie_ids": [], "emotions": [{"label": "happy", "prob": p}]}

    (merged,) = redial.merge_speakers([message(0.3), message(0.9), message(0.1)])
    assert merged["emotions"] == [{"label": "happy", "prob": 0.9}] and merged["text"] == "x x x"


@pytest.mark.parametrize("mentions", [[], None, {}])
def test_no_mentions_is_no_mistake(mentions):
    assert parse(movieMentions=mentions)["mentions"] == []


def test_mentions_may_be_a_list_of_objects():
    assert redial.movie_names([{"1": "A"}, {"movieId": "2", "movieName": "B"}]) == {"1": "A", "2": "B"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"conversationId": None}, "conversationId"),
        ({"conversationId": ["7"]}, "conversationId"),
        ({"initiatorWorkerId": None}, "initiatorWorkerId"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"senderWorkerId": 1, "text": "  "}]}, "messages"),
        ({"messages": [{"senderWorkerId": 1, "text": 5}]}, "messages[0].text"),
        ({"messages": [{"senderWorkerId": None, "text": "a"}]}, "messages[0].senderWorkerId"),
        ({"messages": [{"senderWorkerId": 1, "text": "x" * 20_001}]}, "messages[0].text"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"movieMentions": {"null": "A"}}, "movieMentions"),
        ({"movieMentions": "A"}, "movieMentions"),
        ({"movieMentions": {"1": 5}}, "movieMentions.1"),
        ({"initiatorQuestions": {"11": {"liked": 7}}}, "initiatorQuestions.11.liked"),
        (
            {"messages": [{"senderWorkerId": 1, "text": "a", "emotion": {"angry": 1.0}}]},
            "messages[0].emotion",
        ),
        ({"_split": "dev"}, "split"),
    ],
)
def test_a_mistake_is_named_by_its_field(changes, field):
    with pytest.raises(RowError) as error:
        parse(**changes)
    assert error.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*DIALOGUE, "emotion"]), JSON)
def test_any_value_in_any_field_is_read_or_refused_never_a_crash(field, value):
    row = copy.deepcopy(DIALOGUE)
    if field == "emotion":
        row["messages"][0]["emotion"] = value
    else:
        row[field] = value
    try:
        found = redial.parse_dialogue(row, split="train")
    except RowError:
        return
    assert list(redial.to_turns(found)) is not None


@given(
    st.dictionaries(
        st.sampled_from(
            ["turn_id", "context", "response", "resp", "index", "target_movie_ids", "target_liked", "split"]
        ),
        JSON,
    )
)
def test_any_turn_row_is_read_or_refused_never_a_crash(row):
    try:
        redial.parse_turn(row, split="train")
    except RowError as error:
        assert error.field and error.reason


def test_a_turn_of_the_original_system_has_alternating_speakers():
    turn = redial.parse_turn({"context": ["hi", "hello", "a film?"], "resp": "Heat"}, split="train", row_id="f-1")
    assert [m["role"] for m in turn["context"]] == ["seeker", "recommender", "seeker"]
    assert (turn["turn_id"], turn["response"]) == ("f-1", "Heat")


def test_a_turn_without_an_id_is_refused_unless_rows_are_numbered():
    with pytest.raises(RowError, match="turn_id: missing"):
        redial.parse_turn({"context": "hi", "resp": "Heat"}, split="train")


@pytest.mark.parametrize(("name", "dialogues", "turns"), [("test_data", 1342, 7978), ("train_recovered", 10005, 62606)])
def test_the_real_files_are_read_whole(redial, name, dialogues, turns):
    import json

    from ecr_ray.data import redial as reader

    counted = [0, 0]
    with (redial / f"{name}.jsonl").open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            found = reader.parse_dialogue(json.loads(line), split="test")
            counted[0] += 1
            counted[1] += sum(1 for _ in reader.to_turns(found))
    assert counted == [dialogues, turns]
