"""What a response is worth: the critic's opinion on a fixed scale, less what an answer should not do. Pure functions.

N responses. Their end, the titles they name and how much they repeat are facts; what each costs is a setting.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecr_ray.data.titles import Titles
from ecr_ray.encoders.predict import Predictions
from ecr_ray.errors import UserError
from ecr_ray.policy import grounding

Messages = Sequence[Mapping[str, str]]
# (dialogues, responses) → a number each.
Reward = Callable[[Sequence[Messages], Sequence[str]], Sequence[float]]
NO_END, UNKNOWN_TITLE, REPETITION, MISSING_FILM = "no_end", "unknown_title", "repetition", "missing_film"
# Of a response that is longer than the critic reads.
CUT_WORDS = 24


class RewardError(UserError):
    """A reward that is no number, or a function that cannot be found."""


@dataclass(frozen=True)
class Scale:
    """Where the rewards of the policy before PPO lay; fixed, so that a reward means the same at every step."""

    mean: float
    std: float

    @classmethod
    def of(cls, values_N: np.ndarray) -> "Scale":
        """The scale of these rewards. All the same, they stay as far apart as they are."""
        std = float(np.std(values_N))
        return cls(float(np.mean(values_N)), std if std > 1e-6 else 1.0)

    def apply(self, values_N: np.ndarray) -> np.ndarray:
        """Centred and in standard deviations."""
        return (values_N - self.mean) / self.std


def opinion(found: Predictions, weights: Mapping[str, float], doubt: float) -> np.ndarray:
    """The critic's weighted aspects, each less `doubt` times its own uncertainty: a lower confidence bound, (N,).

    Raises:
        RewardError: a head that the critic does not have, or weights of nothing.
    """
    check_heads(found.heads, weights)
    columns = [found.heads.index(head) for head in weights]
    share_K = np.array(list(weights.values())) / sum(weights.values())
    return (found.mean_NK[:, columns] - doubt * found.std_NK[:, columns]) @ share_K


def check_heads(heads: Sequence[str], weights: Mapping[str, float]) -> None:
    """Make sure that a critic has what the reward asks for.

    Raises:
        RewardError: a head that the critic does not have, or weights of nothing.
    """
    if set(weights) - set(heads) or sum(weights.values()) <= 0:
        raise RewardError(
            f"the critic has the heads {', '.join(heads)}; the reward asks for "
            f"{', '.join(f'{name}={weight:g}' for name, weight in weights.items()) or 'none'}"
        )


def faults(
    responses: Sequence[str], ended: Sequence[bool], titles: Titles | None, films: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """What is wrong with each response, (N,) each: no end (0 or 1), titles that do not exist, share of repetition.

    And, where responses were told to name `films` (empty: none), whether they do not (0 or 1).
    """
    named = [titles.named(text) if titles else [] for text in responses]
    missing = {}
    if films is not None:
        pairs = zip(responses, films, strict=True)
        missing = {MISSING_FILM: np.array([float(bool(f) and not grounding.names(text, f)) for text, f in pairs])}
    return missing | {
        NO_END: 1.0 - np.array(ended, dtype=float),
        UNKNOWN_TITLE: np.array([float(len(known) - sum(known)) for known in named]),
        REPETITION: np.array([repeated(text) for text in responses]),
    }


def repeated(text: str, n: int = 3) -> float:
    """The share of a text's word n-grams that it has said before; 0 for a text of fewer words."""
    words = text.casefold().split()
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def total(opinion_N: np.ndarray, faults_N: Mapping[str, np.ndarray], costs: Mapping[str, float]) -> np.ndarray:
    """A scaled opinion less what the faults cost, (N,).

    Raises:
        RewardError: a number is none: a reward that is made up would be learnt.
    """
    found = opinion_N - sum(costs.get(name, 0.0) * amount for name, amount in faults_N.items())
    broken = np.flatnonzero(~np.isfinite(found))
    if len(broken):
        raise RewardError(
            f"{len(broken)} of {len(found)} rewards are no number, the first of response {broken[0] + 1}: the critic "
            "or the reward function is broken"
        )
    return found


class Rewarder:
    """From dialogues and answers to what each is worth: an opinion, a scale, and what faults cost."""

    def __init__(
        self, opinion: Reward, titles: Titles | None, costs: Mapping[str, float], scale: Scale | None = None
    ) -> None:
        self._opinion, self._titles, self._costs, self.scale = opinion, titles, costs, scale

    def __call__(
        self,
        dialogues: Sequence[Messages],
        responses: Sequence[str],
        ended: Sequence[bool],
        films: Sequence[str] | None = None,
    ) -> "Rewarded":
        """Every answer's worth. The first call's opinions fix the scale, if nothing has."""
        raw_N = np.asarray(self._opinion(dialogues, responses), dtype=np.float64)
        if raw_N.shape != (len(responses),):
            raise RewardError(f"the reward function gave {raw_N.shape} numbers for {len(responses)} responses")
        found = faults(responses, ended, self._titles, films)
        checked_N = total(raw_N, {}, {})
        if self.scale is None:
            self.scale = Scale.of(checked_N)
        return Rewarded(raw_N, found, total(self.scale.apply(checked_N), found, self._costs))


@dataclass(frozen=True)
class Rewarded:
    """Of N answers: the opinion as it was given, the faults, and the sum of both on the fixed scale, (N,) each."""

    raw_N: np.ndarray
    faults: Mapping[str, np.ndarray]
    total_N: np.ndarray


def of_critic(predict: Callable[..., Predictions], weights: Mapping[str, float], doubt: float) -> Reward:
    """A critic's opinion as a reward function.

    Args:
        predict: of a predictor: contexts, responses → predictions. A response that is longer than the encoder reads is
            read as far as that.
        weights: of the critic's heads.
        doubt: how many of its own standard deviations are taken off.
    """

    def judge(dialogues: Sequence[Messages], responses: Sequence[str]) -> np.ndarray:
        found = predict(dialogues, responses)
        unread = np.flatnonzero(found.unread)
        if len(unread):
            # As many words as surely fit; of a sampled answer the rest is seldom more than repetition.
            again = predict(
                [dialogues[n] for n in unread], [" ".join(responses[n].split()[:CUT_WORDS]) for n in unread]
            )
            found.mean_NK[unread], found.std_NK[unread] = again.mean_NK, again.std_NK
        return opinion(found, weights, doubt)

    return judge


def parse_aspects(aspects: Sequence[str]) -> dict[str, float]:
    """`name=weight` of each → weights by name; without a weight it is 1.

    Raises:
        RewardError: a weight that is no number, or a name twice.
    """
    found: dict[str, float] = {}
    for aspect in aspects:
        name, _, weight = aspect.partition("=")
        try:
            value = float(weight or 1)
        except ValueError as error:
            raise RewardError(f"--aspects {aspect}: {weight!r} is no number; write it as overall=1") from error
        if name in found:
            raise RewardError(f"--aspects names {name} twice")
        found[name] = value
    return found


def load(name: str) -> Reward:
    """`module:function`.

    Raises:
        RewardError: there is none.
    """
    module, _, function = name.partition(":")
    # A file beside which the job is started is found, too.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RewardError(f"--reward {name}: {error}; write it as module:function") from error
    return found
