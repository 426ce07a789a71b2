"""Prompts: which turns, how much of their dialogue, and in what order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.data.reading import Row
from ecr_ray.policy import weights
from ecr_ray.policy.ppo import questions
from ecr_ray.prompts import Grounding


@pytest.fixture(scope="module")
def tokenizer():
    return weights.load_tokenizer("ecr-tiny-chat", None)


def dialogue(number, *texts):
    roles = ("recommender", "seeker")
    messages = [{"role": roles[n % 2], "text": text, "movie_ids": [], "emotions": []} for n, text in enumerate(texts)]
    return Row("dialogue", {"dialogue_id": f"d{number}", "split": "train", "messages": messages, "mentions": []})


def test_a_turn_is_asked_once_the_seeker_has_spoken(tokenizer):
    left_out = Counter()
    found = questions.ask([dialogue(1, "Hi!", "I like Heat.", "Try Ronin.")], tokenizer, 128, left_out)
    assert [(q.turn_id, q.response) for q in found] == [("d1:2", "Try Ronin.")]
    assert found[0].context == [{"role": "recommender", "text": "Hi!"}, {"role": "seeker", "text": "I like Heat."}]
    assert tokenizer.decode(found[0].ids).endswith("I like Heat. [/INST]")
    assert left_out == {questions.NO_SEEKER: 1}


def test_what_is_too_long_loses_its_oldest_messages_and_never_its_last(tokenizer):
    left_out = Counter()
    long = "film " * 36
    rows = [
        dialogue(1, "Hi!", long, "Which one do you like best of all?", "I like Heat.", "Try Ronin."),
        dialogue(2, "Hi!", long * 4, "Oh."),
    ]
    found = questions.ask(rows, tokenizer, 100, left_out)
    assert [q.turn_id for q in found] == ["d1:2", "d1:4"]
    text = tokenizer.decode(found[1].ids)
    assert len(found[0].ids) <= 100 and "film film" in tokenizer.decode(found[0].ids)
    assert len(found[1].ids) <= 100 and "film film" not in text and "I like Heat." in text
    assert left_out == {questions.NO_SEEKER: 2, questions.TOO_LONG: 1} and [q.dialogue_id for q in found] == ["d1"] * 2


def test_dialogues_are_held_out_whole(tokenizer):
    rows = [dialogue(n, "Hi!", "I like Heat.", "Try Ronin.", "More!", "Or Collateral.") for n in range(40)]
    learn, kept = questions.split(questions.ask(rows, tokenizer, 128, Counter()), 0.3)
    assert learn and kept and not {q.dialogue_id for q in learn} & {q.dialogue_id for q in kept}
    first = questions.spread(kept, len({q.dialogue_id for q in kept}), 0)
    assert len({q.dialogue_id for q in first}) == len(first)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 9))
def test_every_question_is_asked_once_before_any_is_asked_again(count, batch, seed):
    steps = 3 * count // batch + 2
    order = np.concatenate([questions.of_step(count, batch, step, seed) for step in range(1, steps + 1)])
    for epoch in range(len(order) // count):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_grounded_questions_say_which_film_to_name(tokenizer):
    def ground(turn):
        return Grounding("Ronin (1998)", ("like",)) if "Ronin" in turn["response"] else None

    rows = [dialogue(1, "Hi!", "I like Heat.", "Try Ronin.", "More!", "No.")]
    first, second = questions.ask(rows, tokenizer, 160, Counter(), ground=ground)
    assert (first.film, second.film) == ("Ronin (1998)", "")
    assert "Film: Ronin (1998)\nFeelings: like" in tokenizer.decode(first.ids)
    assert "Film:" not in tokenizer.decode(second.ids)
