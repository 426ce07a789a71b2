"""What a policy learns from, by name.

- `dialogue`: movie dialogues; every recommender message is an answer to the dialogue before it.
- `ecr`: people's reviews; the answer is a review's text, asked for by the film's name, facts about it, related names
  and its first sentence (the emotion-aligned format of the ECR paper, RecSys 2024, section 4.3).
- `judge`: people's ratings as the digits that a judge answers (judging.py).

Splits never cut through what belongs together: a dialogue, or a film with all its reviews, is in one of them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

from ecr_ray import prompts
from ecr_ray.data import reading, redial
from ecr_ray.data.retrieval import Retriever
from ecr_ray.data.reviews import Review
from ecr_ray.data.splits import held_out
from ecr_ray.policy.grounding import Ground
from ecr_ray.policy.tokens import Example

RECIPES = ("dialogue", "ecr", "judge")


def dialogue_examples(
    rows: Iterable[reading.Row],
    *,
    system_role: bool,
    valid_share: float,
    split: str | None = None,
    ground: Ground | None = None,
) -> Iterator[Example]:
    """Dialogues (every answer is learnt) or turns (only the response is) as conversations.

    Args:
        rows: as reading.read gives them, without the rejected ones.
        system_role: whether the base model's template takes a system message.
        valid_share: of the dialogues held out, where the rows do not say so themselves.
        split: the split that all of them belong to; None has the rows or their dialogue's id decide. Rows of the
            split `test` are left out.
        ground: gives a turn what its reply is to be made of. Every turn is an example of its own then, because each
            has its own instructions.
    """
    if ground is not None:
        rows = _turns(rows)
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
        chosen = split or ("valid" if own == "valid" or held_out(dialogue_id, valid_share) else "train")
        grounding = ground(row.value) if ground is not None else None
        messages = tuple(prompts.policy_messages(context, grounding=grounding, system_role=system_role))
        yield Example(row.value.get("turn_id", dialogue_id), chosen, messages, only_last)


def _turns(rows: Iterable[reading.Row]) -> Iterator[reading.Row]:
    for row in rows:
        turns = redial.to_turns(row.value) if row.kind == "dialogue" else [row.value]
        yield from (reading.Row("turn", turn) for turn in turns)


def review_examples(
    reviews: Iterable[Review], retriever: Retriever, *, system_role: bool, valid_share: float, left_out: Counter
) -> Iterator[Example]:
    """Reviews as conversations: film, facts, related names and first sentence → the review's text.

    Args:
        reviews: those to learn from.
        retriever: finds films by name, and what is known of them.
        system_role: whether the base model's template takes a system message.
        valid_share: of the films held out, each with all its reviews.
        left_out: counts the reviews of films that are not known.
    """
    for number, review in enumerate(reviews):
        film = retriever.knowledge.find(review.movie)
        if film is None:
            left_out["reviews: of a film that --knowledge does not have, or has twice"] += 1
            continue
        found = retriever.for_review(review, film)
        drawn = int(hashlib.sha256(f"{retriever.seed}|{review.content}".encode()).hexdigest(), 16)
        first = prompts.FIRST_SENTENCES[drawn % len(prompts.FIRST_SENTENCES)].format(movie=film.full_name)
        asked = prompts.review_messages(film.full_name, found.entities, found.facts, first, system_role=system_role)
        answer = {"role": "assistant", "content": review.content}
        split = "valid" if held_out(film.movie_id, valid_share) else "train"
        yield Example(f"review:{number}", split, (*asked, answer))
