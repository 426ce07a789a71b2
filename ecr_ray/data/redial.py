"""ReDial as it is released, and how its dialogues become turns.

Source: Li et al., "Towards Deep Conversational Recommendations", NeurIPS 2018. One JSON line is one dialogue:
`conversationId, messages[{senderWorkerId, text, ...}], initiatorWorkerId, movieMentions{id: name},
initiatorQuestions{id: {suggested, seen, liked}}`; the initiator is the seeker. A message may carry
`emotion {label: probability}`, as in ECR's annotated files.

Survived without comment, because the released files have them: a questionnaire that is `[]`, movieMentions as
a list, the same speaker twice in a row, empty messages, a movie without a name, two spaces before the year,
`%3F` and `&amp;` in names, CRLF in texts.
"""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from ecr_ray.records import EMOTIONS, SPLITS

_MENTION = re.compile(r"@(\d+)")
_OPINIONS = ("suggested", "seen", "liked")


class RowError(ValueError):
    """One row that cannot be used, by field and reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


def parse_dialogue(row: Mapping[str, Any], *, split: str, max_message_chars: int = 20_000) -> dict[str, Any]:
    """One JSON object of ReDial → a dialogue record.

    Args:
        row: the decoded line. Its own `_split` or `split` wins over the argument.
        split: the split of the file it comes from.
        max_message_chars: longest message that is taken for a human's.

    Raises:
        RowError: names the field at fault.
    """
    dialogue_id = _identifier(row, "conversationId", "dialogue_id")
    seeker = row.get("initiatorWorkerId")
    if not isinstance(seeker, int | str):
        raise RowError("initiatorWorkerId", "missing" if seeker is None else f"not a number but {_kind(seeker)}")
    names = movie_names(row.get("movieMentions"))
    messages = [
        _message(message, n, seeker, names, max_message_chars)
        for n, message in enumerate(_list(row.get("messages"), "messages"))
    ]
    messages = [message for message in messages if message["text"]]
    if not messages:
        raise RowError("messages", "there is no text in any message")
    return {
        "dialogue_id": dialogue_id,
        "split": _split(row.get("_split", row.get("split", split))),
        "messages": messages,
        "mentions": _mentions(names, row.get("initiatorQuestions")),
    }


def parse_record(row: Mapping[str, Any], *, split: str, max_message_chars: int = 20_000) -> dict[str, Any]:
    """A dialogue that is already in this project's form (messages have a `role`) → the same, checked."""
    messages = _context(row.get("messages"), max_message_chars, "messages")
    if not messages:
        raise RowError("messages", "there is no text in any message")
    mentions = [
        {
            "movie_id": _movie_id(m.get("movie_id"), "mentions"),
            "title": m.get("title"),
            **{o: m.get(o) for o in _OPINIONS},
        }
        for m in row.get("mentions") or []
    ]
    return {
        "dialogue_id": _identifier(row, "dialogue_id"),
        "split": _split(row.get("split", split)),
        "messages": messages,
        "mentions": mentions,
    }


def movie_names(mentions: Any) -> dict[str, str | None]:
    """`movieMentions` → {movie id: clean name, or None where the file has none}."""
    if mentions is None or mentions == []:
        return {}
    if isinstance(mentions, list):
        # Seen in the wild: a list of {id: name} objects, or of {"movieId": ..., "movieName": ...}.
        merged: dict[str, Any] = {}
        for entry in mentions:
            if not isinstance(entry, Mapping):
                raise RowError("movieMentions", f"an entry is not an object but {_kind(entry)}")
            merged |= {entry["movieId"]: entry.get("movieName")} if "movieId" in entry else entry
        mentions = merged
    if not isinstance(mentions, Mapping):
        raise RowError("movieMentions", f"not an object but {_kind(mentions)}")
    names = {}
    for movie_id, name in mentions.items():
        if not str(movie_id).isdigit():
            raise RowError("movieMentions", f"movie id {movie_id!r} is not a number")
        if name is not None and not isinstance(name, str):
            raise RowError(f"movieMentions.{movie_id}", f"the name is not text but {_kind(name)}")
        names[str(movie_id)] = clean_name(name) if name else None
    return names


def clean_name(name: str) -> str:
    """A movie's name as people write it: entities and percent codes decoded, spaces single."""
    return " ".join(html.unescape(unquote(name)).split())


def to_turns(dialogue: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The recommender's turns of a dialogue, in order, as turn records.

    Consecutive messages by one speaker are one message; `index` counts merged messages from 0.
    """
    liked = {m["movie_id"]: m["liked"] for m in dialogue["mentions"]}
    merged = merge_speakers(dialogue["messages"])
    for index, message in enumerate(merged):
        if message["role"] != "recommender":
            continue
        movie_ids = list(dict.fromkeys(message["movie_ids"]))
        yield {
            "turn_id": f"{dialogue['dialogue_id']}:{index}",
            "dialogue_id": dialogue["dialogue_id"],
            "index": index,
            "split": dialogue["split"],
            "context": merged[:index],
            "response": message["text"],
            "target_movie_ids": movie_ids,
            "target_liked": [liked.get(movie_id) for movie_id in movie_ids],
        }


def merge_speakers(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join consecutive messages of one role: texts by a space; of an emotion named twice, the likelier."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        if not merged or merged[-1]["role"] != message["role"]:
            merged.append(message)
            continue
        last = merged[-1]
        emotions: dict[str, float] = {}
        for emotion in [*last["emotions"], *message["emotions"]]:
            emotions[emotion["label"]] = max(emotion["prob"], emotions.get(emotion["label"], 0.0))
        merged[-1] = {
            "role": last["role"],
            "text": f"{last['text']} {message['text']}",
            "movie_ids": [*last["movie_ids"], *message["movie_ids"]],
            "emotions": [{"label": label, "prob": prob} for label, prob in emotions.items()],
        }
    return merged


def parse_turn(
    row: Mapping[str, Any], *, split: str, max_message_chars: int = 20_000, row_id: str = ""
) -> dict[str, Any]:
    """One JSON object with a context and a response → a turn record.

    Takes this project's turns and the original system's scoring input (`context` a list of texts or one text,
    `resp`). In a list of plain texts the speakers alternate and the last one before the response is the seeker.

    Args:
        row_id: the id of a row that carries none; empty refuses such rows.

    Raises:
        RowError: names the field at fault.
    """
    turn_id = row_id if row_id and row.get("turn_id") is None else _identifier(row, "turn_id")
    dialogue_id, _, tail = turn_id.rpartition(":")
    index = row.get("index", int(tail) if dialogue_id and tail.isdigit() else 0)
    if not isinstance(index, int) or isinstance(index, bool):
        raise RowError("index", f"not a whole number but {_kind(index)}")
    response_field = "response" if "response" in row else "resp"
    response = _text(row.get(response_field), response_field, max_message_chars)
    if not response:
        raise RowError(response_field, "empty text")
    movie_ids = [_movie_id(m, "target_movie_ids") for m in _list(row.get("target_movie_ids") or [], "target_movie_ids")]
    return {
        "turn_id": turn_id,
        "dialogue_id": str(row.get("dialogue_id") or dialogue_id or turn_id),
        "index": index,
        "split": _split(row.get("split", split)),
        "context": merge_speakers(_context(row.get("context"), max_message_chars, "context")),
        "response": response,
        "target_movie_ids": movie_ids,
        "target_liked": list(row.get("target_liked") or [None] * len(movie_ids)),
    }


def _message(
    message: Any, n: int, seeker: int | str, names: Mapping[str, str | None], max_chars: int
) -> dict[str, Any]:
    field = f"messages[{n}]"
    if not isinstance(message, Mapping):
        raise RowError(field, f"not an object but {_kind(message)}")
    sender = message.get("senderWorkerId")
    if not isinstance(sender, int | str):
        raise RowError(f"{field}.senderWorkerId", "missing" if sender is None else f"not a number but {_kind(sender)}")
    text = _text(message.get("text"), f"{field}.text", max_chars)
    movie_ids = [movie_id for movie_id in _MENTION.findall(text) if movie_id in names]
    return {
        "role": "seeker" if sender == seeker else "recommender",
        # An id without a name stays as it stands: what the film is called is not known.
        "text": _MENTION.sub(lambda found: names.get(found[1]) or found[0], text),
        "movie_ids": movie_ids,
        "emotions": _emotions(message.get("emotion"), f"{field}.emotion"),
    }


def _context(context: Any, max_chars: int, field: str) -> list[dict[str, Any]]:
    """Messages as objects with a role, or as plain texts of alternating speakers; empty ones left out."""
    parts = [context] if isinstance(context, str) else _list(context, field)
    messages = []
    for n, part in enumerate(parts):
        if isinstance(part, Mapping):
            if part.get("role") not in ("seeker", "recommender"):
                raise RowError(f"{field}[{n}].role", f"{part.get('role')!r} is neither 'seeker' nor 'recommender'")
            role, text = part["role"], part.get("text")
        else:
            role, text = ("seeker", "recommender")[(len(parts) - 1 - n) % 2], part
        emotions = part.get("emotions") if isinstance(part, Mapping) else None
        messages.append(
            {
                "role": role,
                "text": _text(text, f"{field}[{n}]", max_chars),
                "movie_ids": [str(m) for m in part.get("movie_ids") or []] if isinstance(part, Mapping) else [],
                "emotions": emotions or [],
            }
        )
    return [m for m in messages if m["text"]]


def _mentions(names: Mapping[str, str | None], form: Any) -> list[dict[str, Any]]:
    if form is None or form == []:
        form = {}
    if not isinstance(form, Mapping):
        raise RowError("initiatorQuestions", f"not an object but {_kind(form)}")
    mentions = []
    for movie_id, name in names.items():
        answers = form.get(movie_id) or {}
        if not isinstance(answers, Mapping):
            raise RowError(f"initiatorQuestions.{movie_id}", f"not an object but {_kind(answers)}")
        for opinion in _OPINIONS:
            if answers.get(opinion) not in (None, 0, 1, 2):
                raise RowError(f"initiatorQuestions.{movie_id}.{opinion}", f"{answers[opinion]!r} is not 0, 1 or 2")
        mentions.append({"movie_id": movie_id, "title": name, **{o: answers.get(o) for o in _OPINIONS}})
    return mentions


def _emotions(value: Any, field: str) -> list[dict[str, Any]]:
    if not value:
        return []
    if not isinstance(value, Mapping):
        raise RowError(field, f"not an object but {_kind(value)}")
    for label, prob in value.items():
        if label not in EMOTIONS:
            raise RowError(field, f"{label!r} is none of {', '.join(EMOTIONS)}")
        if not isinstance(prob, int | float) or not 0 <= prob <= 1:
            raise RowError(f"{field}.{label}", f"{prob!r} is not a probability")
    return [{"label": label, "prob": float(prob)} for label, prob in value.items()]


def _identifier(row: Mapping[str, Any], *fields: str) -> str:
    for field in fields:
        value = row.get(field)
        if isinstance(value, bool) or not isinstance(value, int | str | None):
            raise RowError(field, f"not an id but {_kind(value)}")
        if value is not None and str(value).strip():
            return str(value)
    raise RowError(fields[0], "missing")


def _movie_id(value: Any, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise RowError(field, "a movie id is null" if value is None else f"{value!r} is not a movie id")
    return str(value)


def _text(value: Any, field: str, max_chars: int) -> str:
    if not isinstance(value, str):
        raise RowError(field, "missing" if value is None else f"not text but {_kind(value)}")
    if len(value) > max_chars:
        raise RowError(field, f"{len(value):,} characters; a message may have {max_chars:,}")
    return value.replace("\r\n", "\n").strip()


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(field, "missing" if value is None else f"not a list but {_kind(value)}")
    return value


def _split(value: Any) -> str:
    if value not in SPLITS:
        raise RowError("split", f"{value!r} is none of {', '.join(SPLITS)}")
    return value


def _kind(value: Any) -> str:
    return {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number",
    }.get(type(value), "null")
