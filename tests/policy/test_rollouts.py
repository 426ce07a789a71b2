"""Rollout actors: shared out, killed, started again, and never asked for what they do not hold."""

import os
import signal
import time

import numpy as np
import pytest
import torch

from ecr_ray.models import tiny
from ecr_ray.policy import engines, rollouts, weights
from ecr_ray.policy.engines import EngineError, EngineSettings
from ecr_ray.policy.ppo import networks
from ecr_ray.policy.ppo.delivery import Delivery
from ecr_ray.policy.ppo.networks import LoraShape
from ecr_ray.policy.rollouts import Pool
from ecr_ray.policy.sampling import Sampling

pytestmark = pytest.mark.slow
LORA = LoraShape(4, 8, ("q_proj",))
PROMPTS, SEEDS, HOW = [[1, 300 + n] for n in range(6)], list(range(6)), Sampling(8)


@pytest.fixture(scope="module")
def settings():
    tokenizer = weights.load_tokenizer("ecr-tiny-chat", None)
    ids = tokenizer.eos_token_id, tokenizer.pad_token_id
    return EngineSettings("transformers", tiny.resolve_model("ecr-tiny-chat"), *ids, lora=LORA)


@pytest.fixture(scope="module")
def sent(settings):
    torch.manual_seed(0)
    built = networks.build(settings.base, LORA).policy
    learnt = {name: p + 0.1 * torch.randn_like(p) for name, p in built.named_parameters() if p.requires_grad}
    return Delivery.of({name: p.detach() for name, p in learnt.items()}, 5)


def start(settings, count, **changes):
    given = {"cpus": 0.5, "gpus": 0.0, "role": None, "deadline_s": 120.0, "max_failures": 2} | changes
    return Pool.start(settings, count, **given)


def answers(pool):
    return pool.end(pool.begin(PROMPTS, SEEDS, HOW))


def same(found, wanted):
    """But for rounding: other neighbours in a batch."""
    assert found.versions == wanted.versions == [5] * len(PROMPTS)
    for a, b in zip(found.samples, wanted.samples, strict=True):
        assert a.ids == b.ids and np.allclose(a.log_probs, b.log_probs, atol=1e-4)


def test_shared_out_and_killed_they_give_what_one_engine_gives(cluster, settings, sent):
    alone = rollouts.Local(engines.make(settings))
    alone.load(sent)
    wanted = answers(alone)
    pool = start(settings, 2)
    assert pool.load(sent) == [sent.digest] * 2
    same(answers(pool), wanted)
    # Killed between two questions, and in the middle of one.
    os.kill(pool.processes()[0], signal.SIGKILL)
    same(answers(pool), wanted)
    process = pool.processes()[1]
    begun = pool.begin(PROMPTS, SEEDS, HOW)
    os.kill(process, signal.SIGKILL)
    same(pool.end(begun), wanted)
    rows = [(prompt, sample.ids) for prompt, sample in zip(PROMPTS, wanted.samples, strict=True)]
    assert [logs.shape for logs in pool.log_probs(rows)] == [(sum(len(s.ids) for s in wanted.samples),)] * 2
    pool.close()


def test_one_that_keeps_dying_is_given_up(cluster, settings, sent):
    pool = start(settings, 1, max_failures=1)
    pool.load(sent)
    for _ in range(2):
        process = pool.processes()[0]
        os.kill(process, signal.SIGKILL)
        time.sleep(0.2)
        try:
            answers(pool)
        except EngineError as error:
            assert "rollout actor 0 died more than 1 time(s) (--max-failures)" in str(error)
            break
    else:
        pytest.fail("two deaths were forgiven")


def test_one_that_does_not_answer_is_given_up(cluster, settings, sent):
    pool = start(settings, 1, deadline_s=60.0)
    pool.load(sent)
    pool._deadline_s = 2.0
    process = pool.processes()[0]
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(EngineError, match=r"rollout actor 0 did not answer within 2 s \(--deadline-s\)"):
            answers(pool)
    finally:
        os.kill(process, signal.SIGKILL)


def test_a_role_that_no_node_has_is_said(cluster, settings):
    with pytest.raises(EngineError, match=r"did not answer within 4 s .* on nodes with the label role=rollout"):
        start(settings, 1, role="rollout", deadline_s=4.0)


def test_a_base_model_that_is_not_there_is_said_and_not_waited_for(cluster, settings):
    from dataclasses import replace

    with pytest.raises(EngineError, match="rollout actor 0"):
        start(replace(settings, base="/nowhere/at/all"), 1)
