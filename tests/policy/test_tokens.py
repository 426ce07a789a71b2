"""Conversations to ids and labels: every answer learnt once, with its end; long ones in windows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_ray.models import tiny
from ecr_ray.policy.tokens import IGNORED, Example, TrainingDataError, tokenize


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.load_tokenizer()


def chat(*texts, system=None):
    head = [{"role": "system", "content": system}] if system else []
    return (*head, *({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)))


def learnt(row, tokenizer):
    """The answers in a row's labels, as texts."""
    answers, current = [], []
    for label in [*row["labels"], IGNORED]:
        if label != IGNORED:
            current.append(label)
        elif current:
            answers.append(tokenizer.decode(current))
            current = []
    return answers


def test_only_answers_are_learnt_each_with_its_end_of_turn(tokenizer):
    example = Example("d", "train", chat("Hi", "Hello!", "A film?", "Try Heat.", system="S"))
    (row,) = tokenize([example], tokenizer, 512)["train"].rows
    assert tokenizer.decode(row["input_ids"]) == (
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] Hello!</s><s>[INST] A film? [/INST] Try Heat.</s>"
    )
    assert learnt(row, tokenizer) == [" Hello!</s>", " Try Heat.</s>"]


def test_of_a_turn_only_the_response_is_learnt(tokenizer):
    example = Example("d:3", "train", chat("Hi", "Hello!", "A film?", "Try Heat."), only_last=True)
    (row,) = tokenize([example], tokenizer, 512)["train"].rows
    assert learnt(row, tokenizer) == [" Try Heat.</s>"]


def test_everything_is_learnt_where_asked_but_what_is_held_out_is_measured_on_answers(tokenizer):
    examples = [Example(split, split, chat("Hi", "Hello!")) for split in ("train", "valid")]
    found = tokenize(examples, tokenizer, 512, learn_all=True)
    assert found["train"].rows[0]["labels"] == found["train"].rows[0]["input_ids"]
    assert learnt(found["valid"].rows[0], tokenizer) == [" Hello!</s>"]


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=24).filter(lambda n: len(n) % 2 == 0),
    room=st.integers(80, 200),
    system=st.booleans(),
)
def test_a_long_conversation_becomes_windows_that_teach_every_answer_once(lengths, room, system):
    tokenizer = tiny.load_tokenizer()
    texts = [f"{n}: " + " ".join(["film"] * length) for n, length in enumerate(lengths)]
    example = Example("d", "train", chat(*texts, system="Be kind." if system else None))
    found = tokenize([example], tokenizer, room)["train"]
    assert all(len(row["input_ids"]) <= room for row in found.rows)
    answers = [answer for row in found.rows for answer in learnt(row, tokenizer)]
    assert answers == [f" {text}</s>" for text in texts[1::2]]
    assert found.answers == len(answers)


def test_a_window_keeps_much_of_the_dialogue_before_its_answer(tokenizer):
    texts = [f"message {n} " + "word " * 10 for n in range(40)]
    rows = tokenize([Example("d", "train", chat(*texts))], tokenizer, 200)["train"].rows
    for row in rows[1:]:
        before = next(n for n, label in enumerate(row["labels"]) if label != IGNORED)
        assert before > 60, "an answer with hardly any dialogue before it"


def test_a_question_that_is_too_long_keeps_its_end(tokenizer):
    example = Example("d", "train", chat("word " * 200 + "the end?", "Yes."))
    (row,) = tokenize([example], tokenizer, 64)["train"].rows
    assert len(row["input_ids"]) <= 64 and learnt(row, tokenizer) == [" Yes.</s>"]
    assert "word the end? [/INST]" in tokenizer.decode(row["input_ids"])


def test_an_answer_that_cannot_fit_is_left_out_and_counted(tokenizer):
    long = "word " * 200
    example = Example("d", "train", chat("Hi", "Hello!", "More?", long, "And?", "Bye."))
    found = tokenize([example], tokenizer, 64)["train"]
    assert [a for row in found.rows for a in learnt(row, tokenizer)] == [" Hello!</s>", " Bye.</s>"]
    assert sum(found.left_out.values()) == 1


def test_nothing_left_to_learn_is_one_sentence(tokenizer):
    example = Example("d", "train", chat("Hi", "word " * 100))
    with pytest.raises(TrainingDataError, match="nothing to learn is left of 1 conversations at --max-length 32"):
        tokenize([example], tokenizer, 32)


def test_conversations_that_are_all_held_out_are_nothing_to_learn(tokenizer):
    examples = [Example(name, "valid", chat("Hi", "Hello!")) for name in "ab"]
    with pytest.raises(TrainingDataError, match="all 2 conversations are of the split valid"):
        tokenize(examples, tokenizer, 64)
