"""Every figure of every system: values reply by reply, means with intervals, and differences from the baseline.

Values are arrays along the prompts, (N,), NaN where a reply has none; so any two systems are compared prompt by prompt.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecr_ray.data.titles import Titles
from ecr_ray.evaluation import statistics, text_measures
from ecr_ray.evaluation.asking import Prompts
from ecr_ray.evaluation.replies import OK
from ecr_ray.evaluation.statistics import Comparison, Figure
from ecr_ray.policy import grounding

# Measure → system → (N,).
Values = dict[str, dict[str, np.ndarray]]
DISTINCT = (1, 2, 3, 4)
REFERENCE = "it is the reference"
CHOOSING = "KL of best-of-N from its policy, nats an answer, at most (no measurement: log N - (N-1)/N)"


def judged_measure(judge: str, aspect: str = "overall") -> str:
    """What a judge's rating of an aspect is called."""
    return f"{judge}: {aspect.replace('_', ' ')}, 0-9"


@dataclass(frozen=True)
class Replies:
    """All replies by system, along the prompts; None where there is none."""

    asked: Prompts
    texts: Mapping[str, list[str | None]]
    ended: Mapping[str, list[bool | None]]

    @classmethod
    def of(cls, asked: Prompts, rows: Iterable[Mapping[str, Any]]) -> "Replies":
        """From rows of replies."""
        at = {row["turn_id"]: n for n, row in enumerate(asked.rows)}
        texts: dict[str, list[str | None]] = {}
        ended: dict[str, list[bool | None]] = {}
        for row in rows:
            for into, value in ((texts, row["text"] if row["status"] == OK else None), (ended, row["ended"])):
                into.setdefault(row["system"], [None] * len(at))[at[row["turn_id"]]] = value
        return cls(asked, texts, ended)

    @property
    def people(self) -> list[str]:
        """What people answered."""
        return [row["response"] for row in self.asked.rows]

    def is_reference(self, system: str) -> bool:
        """Whether a system is the people themselves."""
        at, texts = self.present(system)
        return bool(texts) and texts == [self.people[n] for n in at]

    def present(self, system: str) -> tuple[np.ndarray, list[str]]:
        """Numbers of the prompts that a system answers, and its answers."""
        found = [(n, text) for n, text in enumerate(self.texts[system]) if text is not None]
        return np.array([n for n, _ in found], dtype=int), [text for _, text in found]

    def along(self, system: str, values_M: Sequence[float]) -> np.ndarray:
        """Values of the answers that there are, along all prompts."""
        found = np.full(len(self.asked.rows), np.nan)
        found[self.present(system)[0]] = values_M
        return found


def of_texts(replies: Replies, titles: Titles | None) -> Values:
    """What texts alone say: length, ends, variety, repetition, nearness to people's answers, and the films named."""
    found: Values = {}

    def add(measure: str, system: str, values_M: Sequence[float]) -> None:
        found.setdefault(measure, {})[system] = replies.along(system, values_M)

    for system in replies.texts:
        at, texts = replies.present(system)
        add("words", system, text_measures.words_each(texts))
        for n in DISTINCT:
            add(f"distinct-{n}, per reply", system, text_measures.distinct_each(texts, n))
        add("repetition, share of three-word sequences", system, text_measures.repetition_each(texts))
        ended = [replies.ended[system][n] for n in at]
        if any(value is not None for value in ended):
            add("ends by itself, share", system, [np.nan if value is None else float(value) for value in ended])
        if not replies.is_reference(system):
            human = [replies.people[n] for n in at]
            add("ROUGE-L, per reply", system, text_measures.rouge_l_each(texts, human))
            add("chrF, per reply", system, text_measures.chrf_each(texts, human))
        if titles is not None:
            _films(add, replies, system, titles)
    return found


def _films(add: Callable[[str, str, Sequence[float]], None], replies: Replies, system: str, titles: Titles) -> None:
    at, texts = replies.present(system)
    said = [[message["text"] for message in replies.asked.rows[n]["context"]] for n in at]
    add("titles named per reply", system, [float(len(titles.named(text))) for text in texts])
    invented = [len(titles.invented(text, before)) for text, before in zip(texts, said, strict=True)]
    add("names a film that does not exist, share", system, [float(count > 0) for count in invented])
    if replies.is_reference(system):
        return
    human = [titles.films(replies.people[n]) for n in at]
    hits = [
        float(any(grounding.names(text, film) for film in films)) if films else np.nan
        for text, films in zip(texts, human, strict=True)
    ]
    add("names a film that people recommended there, share", system, hits)


def over_corpus(
    replies: Replies,
    titles: Titles | None,
    nats: Mapping[str, Sequence[tuple[float, int] | None]],
    how: Mapping[str, Any],
) -> list[Figure]:
    """Figures of many replies at once: corpus variety, BLEU, precision of titles, perplexity.

    Args:
        nats: system → of every prompt's reply (log-likelihood in nats, tokens).
        how: seed and resamples of the intervals.
    """
    found = []
    for system in replies.texts:
        at, texts = replies.present(system)
        groups = replies.asked.groups[at]
        for n in DISTINCT:
            # A resample holds texts twice and so fewer different n-grams: an interval would be wrong.
            found.append(_alone(f"distinct-{n}, corpus", system, text_measures.distinct_corpus(texts, n), groups))
            per_reply = text_measures.distinct_per_sentence(texts, n)
            found.append(_alone(f"unique {n}-grams / replies (the paper's Dist-{n})", system, per_reply, groups))
        found += _bleu(replies, system, how)
        if titles is not None:
            found.append(_precision(texts, system, titles, groups, how))
        if system in nats:
            found.append(_perplexity(nats[system], system, replies.asked.groups, how))
    return found


def _alone(measure: str, system: str, value: float, groups: np.ndarray) -> Figure:
    if np.isnan(value):
        return _withheld(measure, system, groups, "no reply is long enough")
    return Figure(measure, system, round(float(value), 4), None, None, len(groups), len(set(groups)))


def _withheld(measure: str, system: str, groups: np.ndarray, why: str) -> Figure:
    return Figure(measure, system, None, None, None, len(groups), len(set(groups)), why)


def _bleu(replies: Replies, system: str, how: Mapping[str, Any]) -> list[Figure]:
    at, texts = replies.present(system)
    groups = replies.asked.groups[at]
    if replies.is_reference(system):
        return [_withheld(f"BLEU-{n}", system, groups, REFERENCE) for n in DISTINCT]
    counts = text_measures.bleu_counts(texts, [replies.people[n] for n in at])
    return [
        statistics.figure(f"BLEU-{n}", system, lambda picked, n=n: counts.score(picked, n), groups, **how)
        for n in DISTINCT
    ]


def _precision(texts: Sequence[str], system: str, titles: Titles, groups: np.ndarray, how: Mapping[str, Any]) -> Figure:
    named = [titles.named(text) for text in texts]
    all_M, real_M = np.array([len(known) for known in named]), np.array([sum(known) for known in named])
    measure = "named titles that exist, share"
    if not all_M.any():
        return _withheld(measure, system, groups, "it names no title with a year")

    def share(picked: np.ndarray) -> float:
        return float(real_M[picked].sum() / all_M[picked].sum()) if all_M[picked].any() else np.nan

    return statistics.figure(measure, system, share, groups, **how)


def _perplexity(
    nats: Sequence[tuple[float, int] | None], system: str, groups: np.ndarray, how: Mapping[str, Any]
) -> Figure:
    known = np.array([n for n, value in enumerate(nats) if value is not None], dtype=int)
    both = np.array([nats[n] for n in known], dtype=float).reshape(-1, 2)

    def perplexity(picked: np.ndarray) -> float:
        return float(np.exp(-both[picked, 0].sum() / both[picked, 1].sum()))

    return statistics.figure("perplexity", system, perplexity, groups[known], **how)


def choosing(system: str, tries: int, groups: np.ndarray) -> Figure:
    """The KL of a policy whose best of N answers is taken from the policy itself, in nats: at most log N - (N-1)/N.

    Source: Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy" (arXiv 2401.01879).
    """
    bound = round(float(np.log(tries) - (tries - 1) / tries), 4)
    return Figure(CHOOSING, system, bound, None, None, len(groups), len(set(groups)))


def alignment(seeker_NK: np.ndarray, reply_NK: np.ndarray) -> np.ndarray:
    """How much more a reply's feelings are those of the message it answers than those of the other messages, (N,).

    The cosine of the two emotion vectors, less the mean cosine of the same reply with all other prompts' messages: a
    system that always sounds the same has 0.

    Args:
        seeker_NK: probabilities of the emotions in the message before; NaN rows are left out.
        reply_NK: in the reply.
    """
    known = ~(np.isnan(seeker_NK).any(1) | np.isnan(reply_NK).any(1))
    a, b = (m[known] / np.linalg.norm(m[known], axis=1, keepdims=True) for m in (seeker_NK, reply_NK))
    found = np.full(len(seeker_NK), np.nan)
    if known.sum() > 1:
        cosine = b @ a.T
        own = np.diag(cosine)
        found[known] = own - (cosine.sum(1) - own) / (len(own) - 1)
    return found


def of_judges(replies: Replies, judgments: Iterable[Mapping[str, Any]], aspects: Sequence[str]) -> Values:
    """Every judge's ratings on the paper's scale, 0 to 9; NaN where a judgment failed."""
    at = {row["turn_id"]: n for n, row in enumerate(replies.asked.rows)}
    found: Values = {}
    for row in judgments:
        for aspect in (*aspects, "overall"):
            by_system = found.setdefault(judged_measure(row["judge"], aspect), {})
            into = by_system.setdefault(row["system"], np.full(len(at), np.nan))
            into[at[row["turn_id"]]] = np.nan if row[aspect] is None else 9 * row[aspect]
    return found


def figures(values: Values, rated: Values, replies: Replies, how: Mapping[str, Any]) -> list[Figure]:
    """The mean of every measure for every system.

    Args:
        values: a reply without one has none: it is too short, or people named no film there.
        rated: by judges; a reply without a rating is one on which the judge failed, and counts as such.
    """
    found = []
    for measure, by_system in (values | rated).items():
        for system, values_N in by_system.items():
            at = replies.present(system)[0] if measure in rated else np.flatnonzero(~np.isnan(values_N))
            found.append(statistics.figure(measure, system, values_N[at], replies.asked.groups[at], **how))
    return found


def differences(
    values: Values, rated: Values, baseline: str, groups_N: np.ndarray, how: Mapping[str, Any]
) -> list[Comparison]:
    """Every system against the baseline, prompt by prompt, with p-values adjusted over all of them (Holm)."""
    found = []
    for measure, by_system in (values | rated).items():
        for system, ours_N in by_system.items():
            if system == baseline or baseline not in by_system:
                continue
            theirs_N = by_system[baseline]
            at = np.arange(len(groups_N))
            if measure not in rated:
                at = np.flatnonzero(~np.isnan(ours_N) & ~np.isnan(theirs_N))
            pair = (ours_N[at], baseline, theirs_N[at])
            found.append(statistics.compare(measure, system, *pair, groups_N[at], **how))
    return statistics.adjusted(found)


def equal_length_of(judge: str, baseline: str) -> str:
    """Name of the measure."""
    return f"{judge}: ahead of {baseline} at equal length, 0-9"


def at_equal_length(
    judges: Sequence[str], values: Values, baseline: str, replies: Replies, how: Mapping[str, Any]
) -> list[Figure]:
    """How far every system is ahead of the baseline in a judge's eyes, with the length of replies taken out."""
    found = []
    for judge in judges:
        by_system = values.get(judged_measure(judge), {})
        for system in by_system if baseline in by_system else ():
            if system != baseline:
                ahead_N, longer_N = (of[system] - of[baseline] for of in (by_system, values["words"]))
                name, groups_N = equal_length_of(judge, baseline), replies.asked.groups
                found.append(statistics.at_equal_length(name, system, ahead_N, longer_N, groups_N, **how))
    return found


def rows_of(values: Values, asked: Prompts) -> list[dict[str, Any]]:
    """As rows of a table: `system`, `turn_id`, `dialogue_id`, `measure`, `value`."""
    return [
        {
            "system": system,
            "turn_id": row["turn_id"],
            "dialogue_id": row["dialogue_id"],
            "measure": measure,
            "value": None if np.isnan(value) else float(value),
        }
        for measure, by_system in values.items()
        for system, values_N in by_system.items()
        for row, value in zip(asked.rows, values_N, strict=True)
    ]
