"""Recipes: dialogues and reviews as conversations, split by dialogue and by film."""

from collections import Counter

import pytest

from ecr_ray import prompts
from ecr_ray.data import knowledge, reading, retrieval
from ecr_ray.data.reviews import Review
from ecr_ray.policy import recipes


def dialogue(number, split="train", *, first="seeker"):
    other = "recommender" if first == "seeker" else "seeker"
    messages = [
        {"role": role, "text": text, "movie_ids": [], "emotions": []}
        for role, text in ((first, "one"), (first, "two"), (other, "three"), (first, "four"))
    ]
    value = {"dialogue_id": str(number), "split": split, "messages": messages, "mentions": []}
    return reading.Row("dialogue", value)


def contents(example):
    return [(m["role"], m["content"]) for m in example.messages]


def test_a_dialogue_is_a_chat_with_the_seeker_as_user():
    (example,) = recipes.dialogue_examples([dialogue(1)], system_role=True, valid_share=0)
    said = [("user", "one two"), ("assistant", "three"), ("user", "four")]
    assert contents(example) == [("system", prompts.POLICY_SYSTEM), *said]


def test_where_the_recommender_speaks_first_the_seeker_joins():
    (example,) = recipes.dialogue_examples([dialogue(1, first="recommender")], system_role=True, valid_share=0)
    assert contents(example)[1:3] == [("user", prompts.SEEKER_JOINS), ("assistant", "one two")]


def test_a_template_without_system_role_gets_the_instructions_in_the_first_message():
    (example,) = recipes.dialogue_examples([dialogue(1)], system_role=False, valid_share=0)
    assert contents(example)[0] == ("user", f"{prompts.POLICY_SYSTEM}\n\none two")


def test_dialogues_are_held_out_whole_test_ones_left_out():
    rows = [dialogue(n) for n in range(400)] + [dialogue(1000, "valid"), dialogue(1001, "test")]
    found = list(recipes.dialogue_examples(rows, system_role=True, valid_share=0.1))
    counts = Counter(example.split for example in found)
    assert counts["train"] + counts["valid"] == 401 and 20 < counts["valid"] < 65
    assert next(e for e in found if e.id == "1000").split == "valid"
    again = recipes.dialogue_examples(rows, system_role=True, valid_share=0.1)
    assert [e.split for e in again] == [e.split for e in found]


def test_turns_of_one_dialogue_stay_together():
    def turn(number, index):
        value = {
            "turn_id": f"{number}:{index}", "dialogue_id": str(number), "split": "train", "response": "r",
            "context": [{"role": "seeker", "text": "s"}],
        }  # fmt: skip
        return reading.Row("turn", value)

    rows = [turn(number, index) for number in range(60) for index in (1, 3, 5)]
    found = list(recipes.dialogue_examples(rows, system_role=True, valid_share=0.3))
    assert all(example.only_last for example in found)
    splits = {}
    for example in found:
        splits.setdefault(example.id.split(":")[0], set()).add(example.split)
    assert all(len(each) == 1 for each in splits.values())
    assert {split for each in splits.values() for split in each} == {"train", "valid"}


@pytest.fixture(scope="module")
def films():
    facts = (knowledge.Fact("Heat", "director", "Michael Mann"), knowledge.Fact("Heat", "star", "Al Pacino"))
    others = [knowledge.Film(str(n), f"Film {n}", 2000, ()) for n in range(2, 80)]
    return knowledge.Knowledge([knowledge.Film("1", "Heat", 1995, facts), *others])


def review_examples(films, reviews, **changes):
    retriever = retrieval.Retriever(films, reviews, retrieval.Limits(min_count=1), seed=0)
    left_out = Counter()
    settings = {"system_role": True, "valid_share": 0.2, "left_out": left_out} | changes
    return list(recipes.review_examples(reviews, retriever, **settings)), left_out


def test_a_review_is_asked_for_in_the_papers_form(films):
    text = "Michael Mann made me weep, and I do not know why."
    (example,), _ = review_examples(films, [Review("Heat (1995)", "Oh", text, 10)])
    _, question, answer = example.messages
    lines = question["content"].splitlines()
    assert lines[0] == "Movie Name: Heat (1995)"
    assert lines[1] == "Related Entities: none"
    assert lines[2] == "Related Knowledge from KG: Heat's director is Michael Mann"
    assert lines[3].startswith("First Sentence: ") and "Heat (1995)" in lines[3]
    assert answer == {"role": "assistant", "content": text}


def test_reviews_are_split_by_film(films):
    reviews = [Review(f"Film {n} (2000)", "t", f"text {k}", 10) for n in range(2, 80) for k in range(3)]
    found, _ = review_examples(films, reviews)
    by_film = {}
    for example, review in zip(found, reviews, strict=True):
        by_film.setdefault(review.movie, set()).add(example.split)
    assert all(len(splits) == 1 for splits in by_film.values())
    assert {s for splits in by_film.values() for s in splits} == {"train", "valid"}


def test_a_review_of_an_unknown_film_is_counted(films):
    found, left_out = review_examples(films, [Review("Nowhere (1900)", "t", "x", 10)])
    assert found == [] and sum(left_out.values()) == 1
