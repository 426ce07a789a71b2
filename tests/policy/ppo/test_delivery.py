"""The proof of a delivery: what it lets pass, and what it calls by its name."""

import numpy as np
import pytest
import torch

from ecr_ray.policy.ppo import delivery
from ecr_ray.policy.ppo.delivery import Delivery, PolicySyncError, Probe

TRAINER = np.array([-1.0, -2.0, -3.0])
BASE, BEFORE = TRAINER - 0.3, TRAINER - 0.1
SENT = Delivery.of({"a": torch.ones(2)}, 3)


def prove(logs, *, digest=SENT.digest, noise=1e-6, dtype="float32"):
    probe = Probe((), BASE, BEFORE, noise)
    return delivery.prove([SENT.digest, digest], [TRAINER, np.array(logs)], TRAINER, probe, SENT, dtype)


def test_an_engine_that_has_it_passes_and_the_distances_are_told():
    found = prove(TRAINER + 1e-5)
    assert found.engine == pytest.approx(1e-5)
    assert found.moved == pytest.approx(0.1) and found.moved_from_reference == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("logs", "sentence"),
    [
        (BASE, "answers like the base model"),
        (BEFORE + 1e-4, "answers like the version before"),
        (TRAINER + 5, "answers like something else"),
        (TRAINER * np.nan, "answers like something else"),
    ],
)
def test_an_engine_that_answers_like_another_policy_is_named(logs, sentence):
    with pytest.raises(PolicySyncError, match=f"rollout engine 1 loaded version 3 of the policy but {sentence}"):
        prove(logs)


def test_an_engine_that_loaded_something_else_is_named():
    with pytest.raises(PolicySyncError, match="rollout engine 1 answers with digest abc for version 3"):
        prove(TRAINER, digest="abc")


def test_a_policy_that_hardly_moved_is_not_told_from_the_one_before_by_rounding():
    probe = Probe((), TRAINER - 1e-3, TRAINER - 1e-3, noise=1e-3)
    # Nearer to the old one by chance: engine and trainer differ by as much as a step moves.
    delivery.prove([SENT.digest], [TRAINER - 8e-4], TRAINER, probe, SENT, "bfloat16")


def test_what_travels_is_a_copy_and_its_digest_is_of_the_bytes():
    weight = torch.ones(2)
    sent = Delivery.of({"a": weight}, 0)
    weight += 1
    assert sent == SENT.__class__(0, SENT.payload, SENT.digest)
    assert Delivery.of({"a": weight}, 0).digest != sent.digest == delivery.digest(sent.payload)
