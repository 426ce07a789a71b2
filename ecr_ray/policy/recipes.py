"""What a policy learns from, by name.

- `dialogue`: movie dialogues; every recommender message is an answer to the dialogue before it.
- `ecr`: people's reviews; the answer is a review's text, asked for by the film's name, facts about it, related names
  and its first sentence (the emotion-aligned format of the ECR paper, RecSys 2024, section 4.3).

Splits never cut through what belongs together: a dialogue, or a film with all its reviews, is in one of them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from ecr_ray import prompts
from ecr_ray.data import reading, redial
from ecr_ray.policy.tokens import Example

RECIPES = ("dialogue", "ecr")


def dialogue_examples(
    rows: Iterable[reading.Row], *, system_role: bool, valid_share: float, split: str | None = None
) -> Iterator[Example]:
    """Dialogues (every answer is learnt) or turns (only the response is) as conversations.

    Args:
        rows: as reading.read gives them, without the rejected ones.
        system_role: whether the base model's template takes a system message.
        valid_share: of the dialogues held out, where the rows do not say so themselves.
        split: the split that all of them belong to; None has the rows or their dialogue's id decide. Rows of the
            split `test` are left out.
    """
    for row in rows:
        if row.kind == "dialogue":
            context, dialogue_id, only_last = (
                redial.merge_speakers(row.value["messages"]),
                row.value["dialogue_id"],
                False,
            )
        else:
            answer = {"role": "recommender", "text": row.value["response"]}
            context, dialogue_id, only_last = [*row.value["context"], answer], row.value["dialogue_id"], True
        if not any(message["role"] == "recommender" for message in context):
            continue
        own = row.value["split"]
        if split is None and own == "test":
            continue
        chosen = split or ("valid" if own == "valid" or is_held_out(dialogue_id, valid_share) else "train")
        messages = tuple(prompts.policy_messages(context, system_role=system_role))
        yield Example(row.value.get("turn_id", dialogue_id), chosen, messages, only_last)


def is_held_out(key: Any, share: float) -> bool:
    """Whether what belongs to this key is in the held-out share; the same on every machine and in every run."""
    drawn = int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big")
    return drawn < share * 2**64
