"""What a reader must know before believing a figure: cheats and biases, found in the data, a sentence each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecr_ray.evaluation import text_measures
from ecr_ray.evaluation.lineage import Overlap
from ecr_ray.evaluation.measures import Replies, equal_length_of, judged_measure
from ecr_ray.evaluation.simulation.measures import KEPT
from ecr_ray.evaluation.statistics import Comparison, Figure

# A phrase of five words in so many of a system's replies, and so many times as often as in people's.
PHRASE_SHARE, PHRASE_TIMES = 0.2, 4.0
SAME_SHARE = 0.1
TRUNCATED_SHARE = 0.1
LENGTH_BIAS, POSITION_BIAS = 0.3, 0.05
# Of what a simulated user says, so much at least tells of what it looks for.
WISH_SHARE = 0.5
# The measure that is the critic's opinion.
CLIMBED = "critic"


@dataclass(frozen=True)
class Warning:
    """`kind` for programs, `about` a system or judge."""

    kind: str
    about: str
    text: str


def of_training(overlaps: Mapping[str, Overlap]) -> list[Warning]:
    """Systems that are asked what they have learnt from."""
    found = []
    for system, overlap in overlaps.items():
        if overlap.prompts:
            text = (
                f"{overlap.prompts} of the {overlap.of} prompts are of dialogues that {system} has learnt from: its "
                "figures here say nothing about dialogues that it has not seen."
            )
            found.append(Warning("own training data", system, text))
        if overlap.unknown:
            text = f"Whether {system} has learnt from these dialogues cannot be told: {overlap.unknown}."
            found.append(Warning("training data unknown", system, text))
    return found


def of_texts(replies: Replies) -> list[Warning]:
    """Replies that are all the same, say one phrase again and again, or are cut off."""
    found = []
    human = dict(text_measures.most_common_phrases(replies.people, top=1000))
    for system in replies.texts:
        texts = replies.present(system)[1]
        if replies.is_reference(system) or not texts:
            continue
        for phrase, share in text_measures.most_common_phrases(texts, top=1):
            if share >= PHRASE_SHARE and share >= PHRASE_TIMES * human.get(phrase, 0.0):
                text = f"{share:.0%} of {system}'s replies say “{phrase}” (people: {human.get(phrase, 0.0):.0%})."
                found.append(Warning("repeated phrase", system, text))
        same = text_measures.share_equal(texts)
        if len(texts) > 1 and same >= SAME_SHARE:
            found.append(Warning("same reply", system, f"{same:.0%} of {system}'s replies are one and the same."))
        ended = [value for value in replies.ended[system] if value is not None]
        if ended and 1 - np.mean(ended) > TRUNCATED_SHARE:
            text = f"{1 - np.mean(ended):.0%} of {system}'s replies are cut off at the longest length that was allowed."
            found.append(Warning("cut off", system, text))
    return found


def of_judges(
    judges: Sequence[Mapping[str, Any]],
    teachers: set[str],
    length: Mapping[str, Figure | None],
    position: Mapping[str, Figure | None],
) -> list[Warning]:
    """Judges that taught the critic, that nobody taught, that like length, or like what stands first or second.

    Args:
        judges: their entries in a scoring run's record.
        teachers: names of those that the critic learnt from.
        length: judge → Spearman's rho of length and rating among the replies to one prompt.
        position: judge → how far above a half it rates what stands second, where it compared replies.
    """
    found = []
    for judge in judges:
        name = judge["name"]
        if name in teachers:
            text = f"{name} is not independent: the critic that PPO climbed and best-of-N chose by learnt from it."
            found.append(Warning("not independent", name, text))
        if judge["untrained"]:
            found.append(Warning("untrained", name, f"{name} is untrained: its ratings are noise."))
        unlearnt = [aspect for aspect, source in (judge["learnt_from"] or {}).items() if source == "not learnt"]
        if unlearnt:
            names = ", ".join(aspect.replace("_", " ") for aspect in unlearnt)
            found.append(Warning("not taught", name, f"{name} was never taught to rate {names}."))
        if judge["learnt_from"] and name in position:
            text = f"{name} was taught to rate single replies, never to compare two: its Elo is worth little."
            found.append(Warning("not taught", name, text))
        if (bias := length.get(name)) and bias.low is not None and bias.low > LENGTH_BIAS:
            text = (
                f"{name} prefers longer replies to the same prompt (Spearman {bias.value:.2f}, 95 % {bias.low:.2f} to "
                f"{bias.high:.2f}): a system can gain by writing more."
            )
            found.append(Warning("length bias", name, text))
        if (lean := position.get(name)) and lean.low is not None and abs(lean.value) > POSITION_BIAS:
            side = "second" if lean.value > 0 else "first"
            text = f"{name} leans to what stands {side} ({abs(lean.value):.2f} of 1): both orders are averaged."
            found.append(Warning("position bias", name, text))
    return found


def of_length(figures: Sequence[Figure], comparisons: Sequence[Comparison], judges: Sequence[str]) -> list[Warning]:
    """Systems that a judge finds better than the baseline, and no better where replies are equally long."""
    found = []
    for judge in judges:
        gains = {c.system: c for c in comparisons if c.measure == judged_measure(judge) and (c.low or 0) > 0}
        for figure in figures:
            gain = gains.get(figure.system)
            if gain and figure.measure == equal_length_of(judge, gain.against) and (figure.low or 0) <= 0:
                left = "nobody can say" if figure.value is None else f"{figure.value:.2f} of it is left"
                text = (
                    f"{judge} finds {gain.system} better than {gain.against} (by {gain.difference:.2f}); of replies of "
                    f"equal length, {left}: it may like the length alone."
                )
                found.append(Warning("length alone", gain.system, text))
    return found


def of_users(talked: Sequence[Figure]) -> list[Warning]:
    """Simulated users that do not say what they look for.

    Args:
        talked: figures of the talks.
    """
    return [
        Warning(
            "simulated user",
            figure.system,
            f"Of what the simulated users said to {figure.system}, {figure.value:.0%} of the messages tell of a film "
            "that they like or look for: a success is rather luck than listening.",
        )
        for figure in talked
        if figure.measure == KEPT and figure.high is not None and figure.high < WISH_SHARE
    ]


def of_broken(broken: Mapping[str, Mapping[str, int]]) -> list[Warning]:
    """Systems some of whose talks came to nothing.

    Args:
        broken: system → reason → talks.
    """
    found = []
    for system, reasons in broken.items():
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        text = f"{sum(reasons.values())} of the talks with {system} broke off ({told}): they count as nothing."
        found.append(Warning("talks broke off", system, text))
    return found


def of_gains(comparisons: Sequence[Comparison], independent: Sequence[str]) -> list[Warning]:
    """Systems that the critic finds better than the baseline, and no independent judge does.

    Args:
        independent: names of the judges that took no part in the critic.
    """
    found = []
    for gain in comparisons:
        if gain.measure != CLIMBED or gain.low is None or gain.low <= 0:
            continue
        others = [
            c
            for c in comparisons
            if c.system == gain.system and any(c.measure == judged_measure(judge) for judge in independent)
        ]
        if others and not any(c.low is not None and c.low > 0 for c in others):
            text = (
                f"The critic finds {gain.system} better than {gain.against} (by {gain.difference:.3f}), but no "
                "independent judge does with confidence: it may have learnt to please the critic."
            )
            found.append(Warning("critic alone", gain.system, text))
    return found
