"""Answers drawn in this process, against what transformers says of them."""

import pytest
import torch

from ecr_ray import prompts
from ecr_ray.models import tiny
from ecr_ray.policy import sampling
from ecr_ray.policy.sampling import Sampling

SAID = ("Hi!", "I am looking for a scary film, something like Saw (2004).", "Thanks, bye!", "Do you know Heat (1995)?")


@pytest.fixture(scope="module")
def chat():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = tiny.resolve_model("ecr-tiny-chat")
    model = AutoModelForCausalLM.from_pretrained(where, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(where)
    asked = [
        tokenizer.apply_chat_template(
            prompts.policy_messages([{"role": "seeker", "text": text}]), add_generation_prompt=True
        )["input_ids"]
        for text in SAID
    ]
    return model, tokenizer, asked


def draw(chat, asked, seeds, **how):
    model, tokenizer, _ = chat
    return sampling.generate(model, asked, seeds, Sampling(**how), tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_the_likeliest_answer_is_transformers_own(chat):
    model, tokenizer, asked = chat
    found = draw(chat, asked, [0] * 4, max_tokens=30, temperature=0.0, rows=3)
    for prompt, sample in zip(asked, found, strict=True):
        ids = torch.tensor([prompt])
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False)
        assert sample.ids == wanted[0, len(prompt) :].tolist()
        assert sample.ended == (sample.ids[-1] == tokenizer.eos_token_id)


def test_log_probs_are_the_models_own_at_the_temperature(chat):
    model, _, asked = chat
    found = draw(chat, asked, [1, 2, 3, 4], max_tokens=24, temperature=0.7)
    for prompt, sample in zip(asked, found, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + sample.ids])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.log_softmax(logits / 0.7, -1)[range(len(sample.ids)), sample.ids]
        assert torch.allclose(torch.tensor(sample.log_probs), wanted, atol=2e-4)


def test_an_answer_depends_on_its_prompt_and_seed_alone(chat):
    _, tokenizer, asked = chat
    together = draw(chat, asked * 4, range(16), max_tokens=40, rows=16)
    alone = [draw(chat, [asked[n % 4]], [n], max_tokens=40)[0] for n in range(16)]
    # But for rounding: a number drawn just at the border of two tokens may fall on either side.
    assert sum(a.ids == b.ids for a, b in zip(together, alone, strict=True)) >= 14
    assert len({tuple(sample.ids) for sample in together}) > 8
    # The end closes an answer, is part of it, and comes once.
    ended = [sample for sample in together if sample.ended]
    assert ended and all(sample.ids.count(tokenizer.eos_token_id) == 1 for sample in ended)
    assert all(len(sample.ids) == 40 for sample in together if not sample.ended)
    assert all(len(sample.ids) == len(sample.log_probs) for sample in together)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    weights = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).expand(20_000, 4)
    drawn = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(sampling._inverse(weights, drawn), minlength=4) / 20_000
    assert torch.allclose(shares, weights[0], atol=0.015) and shares[1] == 0
    assert sampling._inverse(weights[:2], torch.tensor([0.0, 1.0])).tolist() == [0, 3]


def test_top_p_leaves_the_tail_out(chat):
    likeliest = draw(chat, chat[2], [5] * 4, max_tokens=20, temperature=0.0)
    narrow = draw(chat, chat[2], [5] * 4, max_tokens=20, top_p=1e-6)
    assert [sample.ids for sample in narrow] == [sample.ids for sample in likeliest]


def test_a_filler_that_is_the_end_is_refused(chat):
    with pytest.raises(ValueError, match="padding could not be told from an end"):
        sampling.generate(chat[0], [[1]], [0], Sampling(4), 2, 2)
