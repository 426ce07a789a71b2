"""What is refused before any worker starts, each in one sentence."""

import dataclasses

import pytest

from ecr_ray.config import ConfigError, SftConfig
from ecr_ray.models import tiny
from ecr_ray.policy import sft, weights
from ecr_ray.policy.templates import TemplateError

SETTINGS = SftConfig()


def refused(kind, said, **changes):
    with pytest.raises(kind, match=said):
        sft.check(dataclasses.replace(SETTINGS, **changes))


@pytest.fixture
def broken(tmp_path):
    """A base model whose tokenizer was changed."""

    def make(change):
        tokenizer = tiny.load_tokenizer()
        change(tokenizer)
        tokenizer.save_pretrained(tmp_path / "base")
        return str(tmp_path / "base")

    return make


def test_a_good_configuration_gives_the_tokenizer():
    assert sft.check(SETTINGS).eos_token == "</s>"


def test_a_tokenizer_without_pad_token(broken):
    base = broken(lambda tokenizer: setattr(tokenizer, "pad_token", None))
    refused(weights.ModelError, "has no pad token: name one", base=base)
    assert sft.check(dataclasses.replace(SETTINGS, base=base, pad_token="<pad>")).pad_token == "<pad>"
    refused(weights.ModelError, "'<nope>' is not a token of", base=base, pad_token="<nope>")


def test_a_tokenizer_that_pads_with_the_end_of_turn(broken):
    base = broken(lambda tokenizer: setattr(tokenizer, "pad_token", tokenizer.eos_token))
    refused(weights.ModelError, "pads with its end-of-turn token", base=base)


def test_a_template_without_generation_markers(broken):
    base = broken(lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages[0]['content'] }}"))
    refused(TemplateError, "markers and is none of those known here", base=base)


def test_no_such_model():
    refused(weights.ModelError, "cannot load the tokenizer of --base /no/model", base="/no/model")


def test_an_adapter_that_is_none(tmp_path):
    refused(weights.ModelError, "is not a PEFT adapter", method="lora", adapter=str(tmp_path))
    refused(ConfigError, "--adapter goes with --method lora", adapter=str(tmp_path))


def test_modules_that_the_model_does_not_have():
    refused(weights.ModelError, "--lora-r 0: an adapter has a rank", method="lora", lora_r=0)
    refused(weights.ModelError, "tiny:0 has no module of that name", method="lora", lora_targets=("q_proj", "nope"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipes": ("dialog",)}, "did you mean 'dialogue'"),
        ({"batch": 6, "micro_batch": 4}, "cannot be shared by 1 worker"),
        ({"batch": 16, "workers": 3}, "make it a multiple of 3"),
        ({"save_every": 10, "eval_every": 4}, "is not a multiple of --eval-every"),
    ],
)
def test_settings_that_do_not_go_together(changes, said):
    refused(ConfigError, said, **changes)
