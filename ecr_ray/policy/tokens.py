"""Conversations → token ids and labels: what a policy is trained on is its answers, each with its end of turn.

A conversation that is longer than the model reads becomes several windows; every answer is trained on once, with as
much of the dialogue before it as fits.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ecr_ray.errors import UserError
from ecr_ray.policy import templates

IGNORED = -100
Message = Mapping[str, str]


class TrainingDataError(UserError):
    """There is nothing to train on."""


@dataclass(frozen=True)
class Example:
    """One conversation: chat messages (`role` system, user or assistant; `content`), and what to learn of it.

    `only_last`: of the assistant's messages only the last one is an answer to learn, the others are context.
    """

    id: str
    split: str
    messages: tuple[Message, ...]
    only_last: bool = False


@dataclass
class Tokenized:
    """Rows `input_ids`, `labels` (IGNORED where nothing is to be learnt) of a split, and what was left out."""

    rows: list[dict[str, list[int]]] = field(default_factory=list)
    answers: int = 0
    left_out: Counter = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        """Tokens that count in the loss."""
        return sum(label != IGNORED for row in self.rows for label in row["labels"])


def tokenize(
    examples: Iterable[Example], tokenizer: Any, max_length: int, *, learn_all: bool = False
) -> dict[str, Tokenized]:
    """Token ids and labels by split.

    Args:
        examples: the conversations.
        tokenizer: of the base model; its chat template needs generation markers (templates.training_template).
        max_length: tokens that a row may have.
        learn_all: in the split `train`, learn every token but the first, not only the answers. What is held out is
            measured on the answers either way.

    Raises:
        TrainingDataError: not one token of the split `train` is left to learn.
    """
    encode = Encoder.of(tokenizer)
    found: dict[str, Tokenized] = {"train": Tokenized(), "valid": Tokenized()}
    counts = Counter()
    for example in examples:
        counts[example.split] += 1
        into = found[example.split]
        for ids, labels, answers in _windows(example, encode, max_length, into.left_out):
            if learn_all and example.split == "train":
                labels = ids
            into.rows.append({"input_ids": ids, "labels": labels})
            into.answers += answers
    if counts["valid"] and not counts["train"]:
        raise TrainingDataError(
            f"nothing to learn: all {counts['valid']} conversations are of the split valid, which is only measured on; "
            "give as --input some that are of train"
        )
    if not found["train"].trained_tokens:
        why = "; ".join(f"{number} {reason}" for reason, number in found["train"].left_out.items())
        raise TrainingDataError(
            f"nothing to learn is left of {counts['train']} conversations at --max-length {max_length}"
            + (f" ({why})" if why else "")
            + ": give longer --max-length or other data"
        )
    return found


def rows_of(example: Example, encode: "Encoder", max_length: int) -> list[dict[str, list[int]]]:
    """The rows of one conversation, without answers that are longer than `max_length` tokens."""
    return [{"input_ids": ids, "labels": labels} for ids, labels, _ in _windows(example, encode, max_length, Counter())]


def _windows(
    example: Example, encode: "Encoder", max_length: int, left_out: Counter
) -> Iterator[tuple[list[int], list[int], int]]:
    """(ids, labels, number of answers in the labels) of every row that a conversation gives."""
    system = [m for m in example.messages[:1] if m["role"] == "system"]
    turns = list(example.messages[len(system) :])
    ends = [n + 1 for n, message in enumerate(turns) if message["role"] == "assistant"]
    todo = ends[-1:] if example.only_last else ends
    while todo:
        start = 0
        row = encode(system + turns[: todo[-1]])
        end = todo[-1]
        if len(row[0]) > max_length:
            start, end, row = _widest(system, turns, todo, encode, max_length)
        if row is None:
            left_out["answers longer than --max-length"] += 1
            todo = todo[1:]
            continue
        ids, mask = row
        done = [e for e in todo if e <= end]
        before = sum(start < e <= end for e in ends) - len(done)
        labels = _labels(ids, mask, skip=before)
        yield ids, labels, len(done)
        todo = todo[len(done) :]


def _widest(
    system: list[Message], turns: list[Message], todo: Sequence[int], encode: "Encoder", max_length: int
) -> tuple[int, int, tuple[list[int], list[int]] | None]:
    """The window that holds the next answer to learn, most of the dialogue before it, and answers after it that fit.

    Three quarters of the room are for what goes before and the first answer: one without its dialogue teaches little.
    """
    users = [n for n, message in enumerate(turns[: todo[0]]) if message["role"] == "user"]
    start, row = None, None
    for candidate in users:
        found = encode(system + turns[candidate : todo[0]])
        if len(found[0]) <= max_length:
            roomy = len(found[0]) <= max_length * 0.75 or candidate == users[-1]
            if row is None or roomy:
                start, row = candidate, found
            if roomy:
                break
    if row is None:
        return todo[0] - 2, todo[0], _shortened(system, turns[todo[0] - 2 : todo[0]], encode, max_length)
    end = todo[0]
    for further in todo[1:]:
        found = encode(system + turns[start:further])
        if len(found[0]) > max_length:
            break
        end, row = further, found
    return start, end, row


def _shortened(
    system: list[Message], exchange: list[Message], encode: "Encoder", max_length: int
) -> tuple[list[int], list[int]] | None:
    """A question and its answer with as much of the question's end as fits; None where the answer alone does not."""
    question, answer = exchange
    words = question["content"].split()
    while words:
        words = words[len(words) // 2 + 1 :]
        row = encode([*system, {**question, "content": " ".join(words)}, answer])
        if len(row[0]) <= max_length:
            return row
    return None


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the template that marks answers."""

    tokenizer: Any
    template: str

    @classmethod
    def of(cls, tokenizer: Any) -> "Encoder":
        """With the tokenizer's own template, or the marked one in its place."""
        return cls(tokenizer, templates.training_template(tokenizer))

    def __call__(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """(ids, mask that is 1 on what the assistant says)."""
        found = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages],
            chat_template=self.template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return list(found["input_ids"]), list(found["assistant_masks"])


def _labels(ids: Sequence[int], mask: Sequence[int], skip: int) -> list[int]:
    """Labels of the answers, without the first `skip` of them."""
    labels, answer, inside = [], -1, False
    for token, marked in zip(ids, mask, strict=True):
        if marked and not inside:
            answer += 1
        inside = bool(marked)
        labels.append(token if marked and answer >= skip else IGNORED)
    return labels
