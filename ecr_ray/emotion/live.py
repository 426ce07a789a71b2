"""Emotions of a dialogue that is going on: a classifier in this process, without Ray."""

from collections.abc import Mapping, Sequence
from typing import Any

from ecr_ray.emotion import annotators
from ecr_ray.encoders import predict

BUNDLED = "ecr-tiny-emotion"
# What is less likely is not kept, as in what jobs/annotate.py writes.
KEEP_ABOVE = 0.1
REMEMBERED = 4096


class Live:
    """Reads the messages of a dialogue; of what was read before it remembers the answer."""

    def __init__(self, name: str = BUNDLED, *, keep_above: float = KEEP_ABOVE) -> None:
        """Load a bundled classifier by its name, or one from a directory.

        Raises:
            HeadsError: there is none.
        """
        self._classifier, self._keep_above = predict.Local(name), keep_above
        self._known: dict[str, list[dict[str, Any]]] = {}

    def read(self, dialogue: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same messages with `emotions`; those that carry some keep them."""
        texts = dict.fromkeys(m["text"] for m in dialogue if not m.get("emotions"))
        found = {text: self._known[text] for text in texts if text in self._known}
        new = [text for text in texts if text not in found]
        if new:
            probability_NK = self._classifier.predict_ids(self._classifier.reader.encode_alone(new)).mean_NK
            found |= {t: annotators.kept(p, self._keep_above) for t, p in zip(new, probability_NK, strict=True)}
        self._known |= found
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return [{**m, "emotions": m.get("emotions") or found[m["text"]]} for m in dialogue]
