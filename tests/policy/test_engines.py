"""Both engines, the same questions: vLLM's real one on the CPU, and transformers in this process."""

import numpy as np
import pytest
import torch

from ecr_ray.models import tiny
from ecr_ray.policy import engines, weights
from ecr_ray.policy.engines import EngineError, EngineSettings
from ecr_ray.policy.ppo import checkpoints, networks
from ecr_ray.policy.ppo.delivery import Delivery, PolicySyncError
from ecr_ray.policy.ppo.networks import LoraShape
from ecr_ray.policy.sampling import Sampling

LORA = LoraShape(8, 16, ("q_proj", "v_proj", "down_proj"))
BASE = "ecr-tiny-chat"


@pytest.fixture(scope="module")
def tokenizer():
    return weights.load_tokenizer(BASE, None)


@pytest.fixture(scope="module")
def policies():
    """Weights of two adapters by name: one that changes nothing, one that does."""
    torch.manual_seed(0)
    built = networks.build(tiny.resolve_model(BASE), LORA).policy
    first = {name: p.detach().clone() for name, p in built.named_parameters() if p.requires_grad}
    return first, {name: t + 0.05 * torch.randn_like(t) for name, t in first.items()}


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def engine(request, tokenizer):
    settings = EngineSettings(
        request.param,
        tiny.resolve_model(BASE),
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        lora=LORA,
        max_length=256,
    )
    return engines.make(settings)


@pytest.fixture(scope="module")
def asked(tokenizer):
    from ecr_ray import prompts

    said = ("Hi!", "I am looking for a scary film, something like Saw (2004).", "Thanks, bye!", "Do you know Heat?")
    chats = [prompts.policy_messages([{"role": "seeker", "text": text}]) for text in said]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


HOW = Sampling(24, 0.8)


def test_answers_end_by_themselves_or_at_the_limit_and_their_log_probs_are_the_trainers(
    engine, asked, policies, tokenizer
):
    sent = Delivery.of(policies[1], 1)
    assert engine.load(sent) == sent.digest and engine.version == 1
    found = engine.generate(asked * 4, range(16), HOW)
    built = networks.build(tiny.resolve_model(BASE), LORA)
    built.policy.load_state_dict(policies[1], strict=False)
    for prompt, sample in zip(asked * 4, found, strict=True):
        assert sample.ended == (sample.ids[-1] == tokenizer.eos_token_id) and len(sample.ids) <= 24
        assert sample.ended or len(sample.ids) == 24
        packed = networks.Packed.of([(prompt, sample.ids)], 0, "cpu")
        with torch.no_grad():
            wanted, _ = networks.token_log_probs(built.policy, packed.ids_BL, packed.at_N, packed.tokens_N, 0.8)
        # At the temperature that they were drawn with.
        assert np.allclose(sample.log_probs, wanted, atol=2e-3)
    assert {sample.ended for sample in found} == {True, False} or all(sample.ended for sample in found)


def test_the_same_seeds_give_the_same_answers_and_others_others(engine, asked):
    first, again, other = (engine.generate(asked, seeds, HOW) for seeds in ([1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8]))
    assert [s.ids for s in first] == [s.ids for s in again] != [s.ids for s in other]


def test_more_at_once_than_an_engine_reads_in_a_step_gives_what_each_alone_does(engine, asked, policies):
    # vLLM takes some thousand tokens a step; these are 13,000, and no two begin alike.
    long = [[7 + n % 90, 5 + n // 90, *range(20, 215)] for n in range(64)]
    many = engine.generate(long, range(64), Sampling(4, 1.0))
    for n in (0, 20, 41, 63):
        (alone,) = engine.generate([long[n]], [n], Sampling(4, 1.0))
        assert alone.ids == many[n].ids and np.allclose(alone.log_probs, many[n].log_probs, atol=1e-3)


def test_a_new_version_changes_the_answers_and_the_old_one_brings_them_back(engine, asked, policies):
    rows = [(prompt, [40, 900, 17, 2]) for prompt in asked]
    said, scored = [], []
    for version, policy in ((1, policies[0]), (2, policies[1]), (3, policies[0])):
        engine.load(Delivery.of(policy, version))
        said.append([sample.ids for sample in engine.generate(asked, [9, 9, 9, 9], HOW)])
        scored.append(engine.log_probs(rows))
    assert said[0] == said[2] != said[1]
    assert scored[0].shape == (16,)
    assert np.allclose(scored[0], scored[2], atol=1e-5) and np.abs(scored[0] - scored[1]).mean() > 0.05
    plain = networks.build(tiny.resolve_model(BASE), LORA).policy
    packed = networks.Packed.of(rows, 0, "cpu")
    with torch.no_grad():
        wanted, _ = networks.token_log_probs(plain, packed.ids_BL, packed.at_N, packed.tokens_N, 1.0)
    assert np.allclose(scored[0], wanted, atol=2e-3)


def test_an_adapter_of_another_rank_is_refused(engine, policies):
    other = {
        name: tensor[:4] if ".lora_A." in name else tensor[:, :4].contiguous() for name, tensor in policies[1].items()
    }
    with pytest.raises(PolicySyncError, match=r"that was sent (has shape \(4, 256\)|is of an adapter of rank 4)"):
        engine.load(Delivery.of(other, 9))


def test_what_is_not_of_this_model_is_refused(tokenizer, policies):
    with pytest.raises(PolicySyncError, match=r"has the weight x, unlike the engine"):
        engines.check_fit({"x": torch.ones(1)}, {})
    with pytest.raises(PolicySyncError, match=r"lacks the weight x, unlike the engine"):
        engines.check_fit({}, {"x": (1,)})


@pytest.mark.slow
def test_vllm_without_an_adapter_samples_its_base_and_takes_no_weights(tokenizer, asked, policies):
    ids = tokenizer.eos_token_id, tokenizer.pad_token_id
    engine = engines.make(EngineSettings("vllm", tiny.resolve_model(BASE), *ids, max_length=256))
    for prompt, sample in zip(asked, engine.generate(asked, range(4), HOW), strict=True):
        built = networks.build(tiny.resolve_model(BASE), LORA)
        packed = networks.Packed.of([(prompt, sample.ids)], 0, "cpu")
        with torch.no_grad():
            wanted, _ = networks.token_log_probs(built.policy, packed.ids_BL, packed.at_N, packed.tokens_N, 0.8)
        assert np.allclose(sample.log_probs, wanted, atol=2e-3)
    with pytest.raises(EngineError, match="--engine vllm goes with --method lora"):
        engine.load(Delivery.of(policies[0], 1))


@pytest.mark.slow
def test_vllm_that_broke_off_begins_anew_with_the_next_policy(tokenizer, asked, policies, monkeypatch):
    ids = tokenizer.eos_token_id, tokenizer.pad_token_id
    engine = engines.make(EngineSettings("vllm", tiny.resolve_model(BASE), *ids, lora=LORA, max_length=256))
    engine.load(Delivery.of(policies[1], 3))
    said = engine.generate(asked, range(4), HOW)
    step = engine._llm.llm_engine.step
    monkeypatch.setattr(engine._llm.llm_engine, "step", lambda: step() and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.generate(asked, range(4), HOW)
    with pytest.raises(EngineError, match="has not been given a policy since"):
        engine.generate(asked, range(4), HOW)
    engine.load(Delivery.of(policies[1], 3))
    assert [sample.ids for sample in engine.generate(asked, range(4), HOW)] == [sample.ids for sample in said]


def test_a_written_adapter_is_pefts_own(tmp_path, policies):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    checkpoints.write_adapter(tmp_path, policies[1], tiny.resolve_model(BASE), LORA)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.resolve_model(BASE)), tmp_path)
    own = dict(loaded.named_parameters())
    assert all(torch.equal(own[name], tensor) for name, tensor in policies[1].items())
