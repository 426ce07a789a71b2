"""From a judge's answer to scores: the expectation over its digits, or a checked JSON object. Pure functions."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = 10


class AnswerError(ValueError):
    """An answer that is no judgment. `status` is a word to count by, the message says what was wrong."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Judgment:
    """Aspect scores in 0–1, how sure the judge was (0–1), and how much it wanted to answer in digits (0–1)."""

    scores: tuple[float, ...]
    confidence: float | None
    digit_mass: float | None

    @property
    def overall(self) -> float:
        """The mean of the aspects, as in the original system."""
        return sum(self.scores) / len(self.scores)


def from_logprobs(logprobs: np.ndarray) -> Judgment:
    """The expected digit of each aspect, over nine.

    Args:
        logprobs: (aspects, 10) natural log-probabilities of the digits 0–9 where that aspect is answered, over
            the judge's whole vocabulary; −inf is allowed, NaN is not.

    Returns:
        scores: Σ_d d·p(d) / 9 with p normalised over the digits. confidence: 1 − mean over the aspects of
        H(p) / log 10. digit_mass: mean over the aspects of Σ_d p(d) before normalising.

    Raises:
        AnswerError: a NaN, or an aspect on which no digit has any probability.
    """
    if np.isnan(logprobs).any():
        raise AnswerError("nan", "the judge's log-probabilities are not numbers")
    top = logprobs.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise AnswerError("no_digit", "the judge gave no digit any probability")
    weights = np.exp(logprobs - top)
    total = weights.sum(axis=1, keepdims=True)
    probs = weights / total
    entropy = -np.sum(probs * np.log(np.maximum(probs, 1e-300)), axis=1)
    mass = np.exp(top[:, 0]) * total[:, 0]
    scores = probs @ np.arange(LEVELS) / (LEVELS - 1)
    return Judgment(
        scores=tuple(float(s) for s in scores),
        confidence=float(np.clip(1 - entropy.mean() / math.log(LEVELS), 0, 1)),
        digit_mass=float(min(mass.mean(), 1.0)),
    )


def json_schema(aspects: Sequence[str]) -> dict[str, object]:
    """The JSON schema of a judge's answer in JSON mode: every aspect, whole numbers 0–9, nothing else."""
    level = {"type": "integer", "minimum": 0, "maximum": LEVELS - 1}
    return {
        "type": "object",
        "properties": {name: level for name in aspects},
        "required": list(aspects),
        "additionalProperties": False,
    }


def from_json(answer: str, aspects: Sequence[str]) -> Judgment:
    """The scores in a JSON answer, checked against `json_schema`.

    Nothing is guessed: a missing aspect, a number out of range or text around the object is an error.

    Raises:
        AnswerError: says what is wrong with the answer.
    """
    import jsonschema

    try:
        value = json.loads(answer)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnswerError("not_json", f"the answer is not JSON ({error})") from error
    try:
        jsonschema.validate(value, json_schema(aspects))
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "answer"
        raise AnswerError("off_schema", f"{where}: {error.message}") from error
    return Judgment(tuple(value[name] / (LEVELS - 1) for name in aspects), confidence=None, digit_mass=None)
