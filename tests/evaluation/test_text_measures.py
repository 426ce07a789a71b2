import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from ecr_ray.evaluation import text_measures

REPLIES = [
    "Have you seen Heat (1995)? I think you would love it.",
    "I am so sorry to hear that you feel sad today.",
    "",
    "You might like The Matrix, it is a great movie!",
    "Goodbye",
]
PEOPLE = [
    "Have you ever seen Heat (1995)? You would love it.",
    "I'm sorry that you feel sad. A comedy might help you today.",
    "Hello there, what movies do you like?",
    None,
    "Goodbye",
]
words = st.lists(st.sampled_from(["a", "b", "c", "dd", "ee", "f", "!"]), min_size=1, max_size=12).map(" ".join)


# --- variety ----------------------------------------------------------------------------------------------


def test_distinct_by_hand():
    assert text_measures.distinct_corpus(["a b a b"], 1) == 0.5
    assert text_measures.distinct_corpus(["a b a b"], 2) == pytest.approx(2 / 3)
    # Case does not count, punctuation is a token: a b ! a c, of which a is twice.
    assert text_measures.distinct_corpus(["A b!", "a c"], 1) == pytest.approx(4 / 5)
    assert math.isnan(text_measures.distinct_corpus(["a"], 2))
    assert text_measures.distinct_each(["a b a b", "a", ""], 2) == pytest.approx([2 / 3, np.nan, np.nan], nan_ok=True)


def test_the_papers_distinct_by_hand():
    # a, b, !, c over two replies that say something: more than one.
    assert text_measures.distinct_per_sentence(["A b!", "a c", " "], 1) == 2.0
    assert text_measures.distinct_per_sentence(["A b!", "a c", " "], 2) == 1.5
    assert text_measures.distinct_per_sentence(["a"], 2) == 0
    assert math.isnan(text_measures.distinct_per_sentence([""], 1))


@given(st.lists(words, min_size=1, max_size=6), st.integers(1, 4))
def test_distinct_is_a_share(texts, n):
    each = text_measures.distinct_each(texts, n)
    assert np.all(np.isnan(each) | ((each > 0) & (each <= 1)))
    corpus = text_measures.distinct_corpus(texts, n)
    assert math.isnan(corpus) == np.isnan(each).all()
    assert math.isnan(corpus) or 0 < corpus <= 1


def test_the_most_frequent_reply():
    assert text_measures.share_equal(["yes", "no ", "no", "maybe", "", ""]) == 0.5
    assert math.isnan(text_measures.share_equal(["", " "]))


def test_the_most_frequent_phrases():
    texts = [
        "I hope you feel better soon, I hope you feel better soon!",
        "Well: i hope you... feel better",
        "You'll love it",
        "",
    ]
    found = text_measures.most_common_phrases(texts, n=5, top=2)
    # Twice in one reply counts once; the empty reply is none of three.
    assert found == [("i hope you feel better", 2 / 3), ("hope you feel better soon", 1 / 3)]
    assert text_measures.most_common_phrases(texts, n=3)[-1] == ("you'll love it", 1 / 3)
    assert text_measures.most_common_phrases(["a b"], n=5) == []


# --- reply by reply ---------------------------------------------------------------------------------------


def test_repetition_and_words_by_hand():
    # Of a b c a b c the sequences are abc bca cab abc: one of four came before.
    texts = ["a b c A b c", "two words", "", " \n"]
    assert text_measures.repetition_each(texts) == pytest.approx([0.25, 0.0, np.nan, np.nan], nan_ok=True)
    assert text_measures.words_each(texts) == pytest.approx([6, 2, np.nan, np.nan], nan_ok=True)


def test_rouge_l_by_hand():
    # the cat the mat of 6 and 5 tokens: 2 · 4 / 11.
    found = text_measures.rouge_l_each(
        ["The cat sat on the mat", "same", "one", "", "no", "no"], ["the cat is the mat", "Same", "two", "x", None, " "]
    )
    assert found == pytest.approx([8 / 11, 1, 0, np.nan, np.nan, np.nan], nan_ok=True)


def slow_common_subsequence(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


@given(st.text("abc", max_size=20), st.text("abc", max_size=20))
def test_the_common_subsequence_is_that_of_the_table(a, b):
    assert text_measures.common_subsequence(a, b) == slow_common_subsequence(a, b)


@given(words, words)
def test_rouge_l_is_a_share_and_symmetric(a, b):
    there, back = (text_measures.rouge_l_each([x], [y])[0] for x, y in ((a, b), (b, a)))
    assert there == back and 0 <= there <= 1
    assert text_measures.rouge_l_each([a], [a])[0] == 1


def test_chrf_is_sacrebleus():
    chrf, metric = text_measures.chrf_each(REPLIES, PEOPLE), CHRF()
    assert np.isnan(chrf).tolist() == [False, False, True, True, False]
    for n in (0, 1, 4):
        assert chrf[n] == metric.sentence_score(REPLIES[n], [PEOPLE[n]]).score
    assert chrf[4] == pytest.approx(100)
    assert str(metric.get_signature()).rpartition("|version")[0] in text_measures.chrf_each.__doc__


# --- BLEU of many -----------------------------------------------------------------------------------------


def test_bleu_by_hand():
    # the cat sat | the cat is here: 2 of 3 words, 1 of 2 pairs, brevity e^(1 − 4/3).
    short = math.exp(1 - 4 / 3)
    assert text_measures.bleu(["the cat sat"], ["the cat is here"], 1) == pytest.approx(100 * short * 2 / 3)
    assert text_measures.bleu(["the cat sat"], ["the cat is here"], 2) == pytest.approx(100 * short * math.sqrt(1 / 3))
    # It has no four words, so nothing can be said of them.
    assert math.isnan(text_measures.bleu(["the cat sat"], ["the cat is here"], 4))
    assert math.isnan(text_measures.bleu(["the cat sat"], [None], 1))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_bleu_is_sacrebleus_of_the_corpus(n):
    kept = [k for k, reference in enumerate(PEOPLE) if reference is not None]
    metric = BLEU(max_ngram_order=n)
    wanted = metric.corpus_score([REPLIES[k] for k in kept], [[PEOPLE[k] for k in kept]])
    assert text_measures.bleu(REPLIES, PEOPLE, n) == pytest.approx(wanted.score, abs=1e-12)
    signature = str(metric.get_signature()).rpartition("|version")[0]
    assert signature in text_measures.BleuCounts.score.__doc__


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 4))
def test_bleu_of_picked_replies_is_sacrebleus_of_them(data, n):
    pairs = data.draw(st.lists(st.tuples(words, words), min_size=2, max_size=6))
    texts, references = map(list, zip(*pairs, strict=True))
    picked = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=8))
    found = text_measures.bleu_counts(texts, references).score(np.array(picked), n)
    wanted = BLEU(max_ngram_order=n).corpus_score([texts[k] for k in picked], [[references[k] for k in picked]])
    if wanted.totals[-1]:
        assert found == pytest.approx(wanted.score, abs=1e-9)
    else:
        assert math.isnan(found)
