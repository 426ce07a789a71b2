"""Thumbs that people gave to a served recommender → dialogues, with what was liked of what was recommended.

A line is one thumb, with the conversation as it was by then:
`{"conversation", "messages": [{role, text, movie_ids, emotions}], "titles": {movie id: title}, "film": id or null,
"liked", "answer"}`. Where `film` is null the thumb is about the reply itself.
"""

from collections.abc import Iterable, Mapping
from typing import Any

PATTERN = "thumbs-*.jsonl"


def is_thumb(value: Any) -> bool:
    """Whether a decoded line is one."""
    return isinstance(value, Mapping) and {"conversation", "messages", "titles", "film", "liked"} <= set(value)


def collect(thumbs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Thumbs, the oldest first, as dialogue records: of each conversation its longest form, of each film the last word.

    A film that was recommended and got no thumb has `liked` null: nobody said.
    """
    found: dict[str, dict[str, Any]] = {}
    for thumb in thumbs:
        kept = found.setdefault(thumb["conversation"], {"messages": [], "titles": {}, "liked": {}})
        kept["titles"] |= thumb["titles"]
        if len(thumb["messages"]) >= len(kept["messages"]):
            kept["messages"] = thumb["messages"]
        if thumb["film"] is not None:
            kept["liked"][thumb["film"]] = int(thumb["liked"])
    return [
        {
            "dialogue_id": f"served-{name}",
            "split": "train",
            "messages": kept["messages"],
            "mentions": [_mention(movie_id, title, kept["liked"]) for movie_id, title in kept["titles"].items()],
        }
        for name, kept in found.items()
    ]


def _mention(movie_id: str, title: str, liked: Mapping[str, int]) -> dict[str, Any]:
    return {"movie_id": movie_id, "title": title, "suggested": 1, "seen": None, "liked": liked.get(movie_id)}
