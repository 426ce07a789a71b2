"""What a policy is asked: turns of dialogues as prompts, whole messages, in a fixed order for every step."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ecr_ray import prompts
from ecr_ray.data import reading, redial
from ecr_ray.data.splits import held_out
from ecr_ray.policy.grounding import Ground

NO_SEEKER = "the seeker has not said anything yet"
TOO_LONG = "its last message alone is longer than --max-prompt"


@dataclass(frozen=True)
class Question:
    """A dialogue that waits for the recommender's answer."""

    turn_id: str
    dialogue_id: str
    context: list[dict[str, str]]
    """`role` and `text` of every message."""
    ids: list[int]
    """Token ids of the prompt."""
    response: str
    """What the human recommender said."""
    film: str = ""
    """That the answer is told to name; empty: none."""

    def as_row(self) -> dict[str, Any]:
        """For a Parquet file."""
        return asdict(self)


def ask(
    rows: Iterable[reading.Row],
    tokenizer: Any,
    max_prompt: int,
    left_out: Counter[str],
    limit: int | None = None,
    ground: Ground | None = None,
) -> list[Question]:
    """Every turn after at least one message of the seeker as a question.

    Args:
        rows: dialogues or turns, without the rejected ones.
        tokenizer: of the policy.
        max_prompt: tokens; older messages are left out to fit, the last one never.
        left_out: counts the turns that could not be used, by reason.
        limit: stop after so many.
        ground: gives a turn what its answer is to be made of.
    """
    system_role = prompts.accepts_system_role(tokenizer)
    found: list[Question] = []
    for row in rows:
        turns = list(redial.to_turns(row.value)) if row.kind == "dialogue" else [row.value]
        for turn in turns:
            context = [{"role": m["role"], "text": m["text"]} for m in turn["context"]]
            if not any(message["role"] == "seeker" for message in context):
                left_out[NO_SEEKER] += 1
                continue
            grounding = ground(turn) if ground is not None else None
            ids = encode(context, tokenizer, max_prompt, system_role=system_role, grounding=grounding)
            if ids is None:
                left_out[TOO_LONG] += 1
                continue
            film = grounding.film if grounding is not None else ""
            found.append(Question(turn["turn_id"], turn["dialogue_id"], context, ids, turn["response"], film))
            if limit is not None and len(found) == limit:
                return found
    return found


def encode(
    context: Sequence[dict[str, str]],
    tokenizer: Any,
    max_prompt: int,
    *,
    system_role: bool,
    grounding: prompts.Grounding | None = None,
) -> list[int] | None:
    """The prompt of a dialogue in at most `max_prompt` tokens, its oldest messages left out; None: it cannot be."""
    for begin in range(len(context)):
        chat = prompts.policy_messages(context[begin:], grounding=grounding, system_role=system_role)
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        if len(ids) <= max_prompt:
            return list(ids)
    return None


def split(questions: Iterable[Question], share: float) -> tuple[list[Question], list[Question]]:
    """Questions to learn from, and those of dialogues that are held out."""
    learn: list[Question] = []
    kept: list[Question] = []
    for question in questions:
        (kept if held_out(question.dialogue_id, share) else learn).append(question)
    return learn, kept


def of_step(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """The numbers of a step's questions, (batch,): permutation after permutation, the same however often it is asked.

    Args:
        count: of all questions.
        batch: a step.
        step: from 1.
        seed: of the permutations.
    """
    wanted = np.arange((step - 1) * batch, step * batch)
    found = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(wanted // count):
        here = wanted // count == epoch
        found[here] = np.random.default_rng([seed, int(epoch)]).permutation(count)[wanted[here] % count]
    return found


def spread(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """So many questions, from as many dialogues as there are: the first of every dialogue's, then the second ones."""
    order = np.random.default_rng(seed).permutation(len(questions))
    seen: Counter[str] = Counter()
    keyed = []
    for place, n in enumerate(order):
        dialogue = questions[n].dialogue_id
        keyed.append((seen[dialogue], place, n))
        seen[dialogue] += 1
    return [questions[n] for _, _, n in sorted(keyed)[:count]]
