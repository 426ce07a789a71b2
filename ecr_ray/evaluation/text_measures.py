"""What replies are like as texts: variety, repetition, length, and nearness to what people answered. Pure functions.

Tokens are words and punctuation in lower case (NLTK's `wordpunct_tokenize`), but for BLEU and chrF, which are
sacreBLEU's so that they can be set beside others' figures. Values reply by reply are (N,), NaN for an empty reply, and
for one without a reference where one is needed.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecr_ray.policy.ppo.rewards import repeated

ORDERS = 4
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words_each(texts: Sequence[str]) -> np.ndarray:
    """Words of every reply, between blanks, (N,)."""
    return np.array([len(text.split()) or np.nan for text in texts], dtype=float)


def repetition_each(texts: Sequence[str]) -> np.ndarray:
    """The share of every reply's three-word sequences that it has said before, (N,)."""
    return np.array([repeated(text) if text.strip() else np.nan for text in texts], dtype=float)


# --- variety ----------------------------------------------------------------------------------------------


def distinct_corpus(texts: Sequence[str], n: int) -> float:
    """Different n-grams as a share of all n-grams of the texts (Li et al. 2016's distinct-n); NaN without any.

    It falls with the number of texts: compare sets of one size only.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def distinct_each(texts: Sequence[str], n: int) -> np.ndarray:
    """Different n-grams as a share of the n-grams of every reply, (N,); NaN for one of fewer than n tokens."""
    return np.array([distinct_corpus([text], n) for text in texts], dtype=float)


def distinct_per_sentence(texts: Sequence[str], n: int) -> float:
    """Different n-grams of all texts over the number of replies that say something; NaN without any.

    What ECR's paper calls Dist-n. It is no share, can exceed 1 and grows with the length of replies. (Its tokens are
    those between blanks, and ours are not.)
    """
    told = [text for text in texts if text.strip()]
    return len({gram for text in told for gram in _grams(text, n)}) / len(told) if told else float("nan")


def share_equal(texts: Sequence[str]) -> float:
    """The share of the replies that are the most frequent one; NaN without any."""
    told = Counter(text.strip() for text in texts if text.strip())
    return max(told.values()) / told.total() if told else float("nan")


def most_common_phrases(texts: Sequence[str], n: int = 5, top: int = 10) -> list[tuple[str, float]]:
    """The n-word phrases that most replies say, each with the share of replies that say it, the most frequent first.

    Punctuation does not part words, and case does not count. A reply that says a phrase twice counts once.
    """
    told = [text for text in texts if text.strip()]
    found: Counter[str] = Counter()
    for text in told:
        words = _WORD.findall(text.lower())
        # Not a set, whose order differs between runs: equal counts stay in the order of the texts.
        found.update(dict.fromkeys((" ".join(words[at : at + n]) for at in range(len(words) - n + 1)), 1))
    return [(phrase, count / len(told)) for phrase, count in found.most_common(top)]


def _tokens(text: str) -> list[str]:
    from nltk.tokenize import wordpunct_tokenize

    return wordpunct_tokenize(text.lower())


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = _tokens(text)
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


# --- nearness to a reference ------------------------------------------------------------------------------


def rouge_l_each(texts: Sequence[str], references: Sequence[str | None]) -> np.ndarray:
    """ROUGE-L: F1 of the longest common subsequence of tokens of every reply and its reference, in 0-1, (N,).

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", with β = 1 and no stemming.
    """
    found = np.full(len(texts), np.nan)
    for n, text, reference in _pairs(texts, references):
        a, b = _tokens(text), _tokens(reference)
        found[n] = 2 * common_subsequence(a, b) / (len(a) + len(b))
    return found


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, a column of the table in one integer's bits.

    Source: Hyyrö 2004, "Bit-Parallel LCS-length Computation Revisited".
    """
    places: dict[str, int] = {}
    for at, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << at
    everything = (1 << len(a)) - 1
    column = everything
    for token in b:
        matched = column & places.get(token, 0)
        column = ((column + matched) | (column - matched)) & everything
    return len(a) - column.bit_count()


def chrf_each(texts: Sequence[str], references: Sequence[str | None]) -> np.ndarray:
    """chrF2 of every reply in 0-100, (N,): sacreBLEU's, nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    found = np.full(len(texts), np.nan)
    for n, text, reference in _pairs(texts, references):
        found[n] = metric.sentence_score(text, [reference]).score
    return found


def bleu(texts: Sequence[str], references: Sequence[str | None], n: int) -> float:
    """BLEU of all replies together, as `BleuCounts.score` says."""
    return bleu_counts(texts, references).score(np.arange(len(texts)), n)


@dataclass(frozen=True)
class BleuCounts:
    """What the BLEU of any of N replies is made from. A reply without a reference counts nothing.

    One that is empty, and has a reference, counts its reference's length, as in sacreBLEU.
    """

    correct_NK: np.ndarray
    """n-grams of 1 to 4 tokens that the reference has, too."""
    total_NK: np.ndarray
    words_N: np.ndarray
    reference_words_N: np.ndarray

    def score(self, picked: np.ndarray, n: int) -> float:
        """BLEU of n-grams up to n (cumulative) of the replies with these numbers, in 0-100; NaN if none has n tokens.

        sacreBLEU's corpus BLEU of that order, nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp.
        """
        from sacrebleu.metrics import BLEU

        correct, total = (counts[picked, :n].sum(axis=0).tolist() for counts in (self.correct_NK, self.total_NK))
        if not total[-1]:
            return float("nan")
        words, reference_words = (int(counts[picked].sum()) for counts in (self.words_N, self.reference_words_N))
        found = BLEU.compute_bleu(correct, total, words, reference_words, smooth_method="exp", max_ngram_order=n)
        return float(found.score)


def bleu_counts(texts: Sequence[str], references: Sequence[str | None]) -> BleuCounts:
    """The counts of every reply."""
    from sacrebleu.metrics import BLEU

    # Of the score of a sentence only the counts are taken, which do not depend on the effective order.
    metric = BLEU(max_ngram_order=ORDERS, effective_order=True)
    counts = np.zeros((len(texts), 2 * ORDERS + 2), dtype=np.int64)
    for n, (text, reference) in enumerate(zip(texts, references, strict=True)):
        if reference is not None:
            score = metric.sentence_score(text, [reference])
            counts[n] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return BleuCounts(counts[:, :ORDERS], counts[:, ORDERS : 2 * ORDERS], counts[:, -2], counts[:, -1])


def _pairs(texts: Sequence[str], references: Sequence[str | None]) -> list[tuple[int, str, str]]:
    """(number, reply, reference) of those that have both."""
    return [
        (n, text, reference)
        for n, (text, reference) in enumerate(zip(texts, references, strict=True))
        if text.strip() and reference is not None and reference.strip()
    ]
