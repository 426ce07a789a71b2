"""What the encoder reads: the response whole, the dialogue from its end."""

import pytest

from ecr_ray.encoders import text

CONTEXT = [{"role": "seeker", "text": "I am sad."}, {"role": "recommender", "text": "Why is that?"}]


@pytest.fixture(scope="module")
def tokenizer():
    return text.load_tokenizer(text.MINILM)


def test_short_turns_are_whole(tokenizer):
    (ids,) = text.Reader(tokenizer, 64).encode([CONTEXT], ["Watch  Heat (1995)."])
    assert tokenizer.decode(ids) == (
        "[CLS] seeker : i am sad. recommender : why is that? [SEP] watch heat ( 1995 ). [SEP]"
    )
    # As the tokenizer itself puts two texts together.
    assert ids == tokenizer("Seeker: I am sad.\nRecommender: Why is that?", "Watch Heat (1995).")["input_ids"]


def test_the_dialogue_loses_its_beginning_and_the_response_nothing(tokenizer):
    response = tokenizer("Watch Heat (1995).", add_special_tokens=False)["input_ids"]
    for length in range(len(response) + 3, len(response) + 12):
        (ids,) = text.Reader(tokenizer, length).encode([CONTEXT], ["Watch Heat (1995)."])
        assert len(ids) == length
        assert ids[-len(response) - 1 : -1] == response
        whole = tokenizer("Seeker: I am sad.\nRecommender: Why is that?", add_special_tokens=False)["input_ids"]
        kept = ids[1 : -len(response) - 2]
        assert kept == whole[len(whole) - len(kept) :]


def test_a_response_that_does_not_fit_is_not_cut(tokenizer):
    assert text.Reader(tokenizer, 8).encode([CONTEXT, []], ["word " * 9, "ok"])[0] is None
    assert text.Reader(tokenizer, 8).encode([], []) == []
    (ids,) = text.Reader(tokenizer, 8).encode([CONTEXT], ["word " * 9], longest=12)
    assert tokenizer.decode(ids) == "[CLS] [SEP] " + "word " * 9 + "[SEP]"


def test_an_encoder_that_does_not_exist_is_one_sentence():
    with pytest.raises(text.EncoderError, match="cannot load the tokenizer of --encoder /nowhere"):
        text.load_tokenizer("/nowhere")


def test_a_tokenizer_of_another_kind_is_refused():
    from ecr_ray.models import tiny

    with pytest.raises(text.EncoderError, match="is not an encoder's"):
        text.Reader(tiny.load_tokenizer(), 64).encode([[]], ["a"])
