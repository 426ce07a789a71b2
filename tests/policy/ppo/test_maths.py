"""PPO's arithmetic against numbers worked out by hand, and against TRL's.

TRL's are from trl 1.12.0, `trl/experimental/ppo/ppo_trainer.py`: its masked_whiten and masked_mean, and the lines of
`PPOTrainer.train` from `lastgaelam = 0` and from `vf_losses1` on, run by hand on the tensors below in float32.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.policy.ppo import maths as ppo

REWARDS = torch.tensor([[0.1, -0.2, 0.0, 1.0], [0.0, 0.3, -0.1, 0.5]])
VALUES = torch.tensor([[0.2, 0.1, 0.4, 0.3], [-0.1, 0.2, 0.0, 0.6]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
ADVANTAGES = torch.tensor(
    [[0.6049124598503113, 0.6367499828338623, 0.5649999380111694, 0.699999988079071],
     [0.7605124711990356, 0.484749972820282, 0.4049999713897705, -0.10000002384185791]]
)  # fmt: skip
WHITE = torch.tensor(
    [[0.09065354615449905, 0.35146719217300415, -0.23631064593791962, 0.8696125149726868],
     [1.365332007408142, -0.8937199711799622, -1.547033667564392, 0.0]]
)  # fmt: skip


def test_gae_is_trls():
    advantages, returns = ppo.gae(REWARDS, VALUES, torch.ones_like(REWARDS), 1.0, 0.95)
    assert torch.allclose(advantages, ADVANTAGES) and torch.allclose(returns, ADVANTAGES + VALUES)


def test_gae_by_hand_ends_with_the_response():
    # delta of the last token: 1 - .4; before it: 0 + .4 - .2 + .5 * .6. The token that is none changes nothing.
    rewards, values = torch.tensor([[0.0, 1.0, 7.0]]), torch.tensor([[0.2, 0.4, 9.0]])
    advantages, returns = ppo.gae(rewards, values, torch.tensor([[1, 1, 0]]), 1.0, 0.5)
    assert advantages[0].tolist() == pytest.approx([0.5, 0.6, 0.0])
    assert returns[0].tolist() == pytest.approx([0.7, 1.0, 0.0])


def test_whitening_is_trls():
    assert torch.allclose(ppo.whiten(ADVANTAGES, MASK), WHITE, atol=1e-5)
    kept = [[0.6844999194145203, 0.945313572883606, 0.357535719871521, 1.4634588956832886],
            [1.9591784477233887, -0.29987359046936035, -0.9531872868537903, 0.0]]  # fmt: skip
    assert torch.allclose(ppo.whiten(ADVANTAGES, MASK, center=False), torch.tensor(kept), atol=1e-5)


@given(st.integers(0, 2**31))
def test_what_is_no_token_does_not_count(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    mask = (torch.rand(4, 5, generator=generator) < 0.7).long()
    other = torch.where(mask > 0, values, torch.full_like(values, 1e6))
    assert torch.allclose(ppo.whiten(values, mask), ppo.whiten(other, mask))
    white = ppo.whiten(values, mask)[mask > 0]
    if len(white) > 1:
        assert float(white.mean()) == pytest.approx(0, abs=1e-6) and float(white.std()) == pytest.approx(1, abs=1e-3)


NEW = torch.tensor([[-1.0, -2.2, -0.3, -0.9], [-0.5, -1.9, -3.0, -0.2]])
OLD = torch.tensor([[-1.2, -2.0, -0.3, -1.5], [-0.5, -1.2, -3.4, -0.4]])


def test_the_clipped_losses_are_trls():
    loss, clipped = ppo.policy_loss(NEW, OLD, WHITE, 0.2)
    assert float(ppo.mean(loss, MASK)) == pytest.approx(0.06482594460248947, abs=1e-6)
    assert float(ppo.mean(clipped, MASK)) == pytest.approx(3 / 7)
    values = torch.tensor([[0.5, 0.0, 0.45, 0.9], [0.3, 0.1, -0.3, 0.0]])
    loss, clipped = ppo.value_loss(values, VALUES, ADVANTAGES + VALUES, 0.2)
    assert float(ppo.mean(loss, MASK)) == pytest.approx(0.16965080797672272, abs=1e-6)
    assert float(ppo.mean(clipped, MASK)) == pytest.approx(3 / 7)


def test_a_clipped_token_has_no_gradient_and_a_fresh_one_has_its_advantage():
    log = torch.tensor([[math.log(1.3), math.log(1.3), 0.0]], requires_grad=True)
    loss, _ = ppo.policy_loss(log, torch.zeros(1, 3), torch.tensor([[1.0, -1.0, 2.0]]), 0.2)
    loss.sum().backward()
    # Already likelier by more than the clip: nothing more to gain, all to lose.
    assert log.grad[0].tolist() == pytest.approx([0.0, 1.3, -2.0])


def test_log_probs_and_entropy_at_a_temperature():
    logits, ids = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]]), torch.tensor([1, 2])
    log, entropy = ppo.token_log_probs(logits, ids, 0.7)
    assert log.tolist() == pytest.approx([-1.6886898279190063, -0.21077808737754822], abs=1e-6)
    assert entropy.tolist() == pytest.approx([0.650572657585144, 0.6180198192596436], abs=1e-6)


def test_kl_estimators():
    log, reference = torch.tensor([-0.5, -2.5]), torch.tensor([-1.0, -2.0])
    assert ppo.k1(log, reference).tolist() == [0.5, -0.5]
    assert ppo.k3(log, reference).tolist() == pytest.approx([0.10653066635131836, 0.14872121810913086])
    # Both are unbiased: in the mean over the policy they are the KL.
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    kl = float((p * (p / q).log()).sum())
    assert float((p * ppo.k1(p.log(), q.log())).sum()) == pytest.approx(kl)
    assert float((p * ppo.k3(p.log(), q.log())).sum()) == pytest.approx(kl)


def test_a_broken_sample_cannot_make_an_infinite_loss():
    loss, _ = ppo.policy_loss(torch.tensor([[0.0]]), torch.tensor([[-1e4]]), torch.tensor([[-1.0]]), 0.2)
    assert torch.isfinite(loss).all() and torch.isfinite(ppo.k3(torch.tensor(-1e4), torch.tensor(0.0)))


def test_rewards_by_hand():
    kl = torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0], [4.0, 4.0, 4.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    found = ppo.token_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, 0.1)
    assert found.tolist() == [pytest.approx([-0.1, 9.8, 0]), pytest.approx([-0.1, -0.1, 19.9]), [0, 0, 0]]


def test_importance_weights_are_cut():
    weights = ppo.truncated_weights(torch.tensor([math.log(4), math.log(0.5)]), torch.zeros(2), 2.0)
    assert weights.tolist() == pytest.approx([2.0, 0.5])


def test_explained_variance():
    mask, returns = torch.ones(1, 3), torch.tensor([[1.0, 2.0, 3.0]])
    assert float(ppo.explained_variance(returns, returns, mask)) == 1
    assert float(ppo.explained_variance(torch.full((1, 3), 2.0), returns, mask)) == 0
    assert math.isnan(float(ppo.explained_variance(returns, torch.ones(1, 3), mask)))


def test_beta_follows_its_target():
    beta = ppo.Beta(0.1, target=2.0, horizon=1000)
    beta.update(2.0, 100)
    assert beta.value == pytest.approx(0.1)
    beta.update(20.0, 100)  # The error is cut to a fifth.
    assert beta.value == pytest.approx(0.1 * 1.02)
    beta.update(0.0, 100)
    assert beta.value == pytest.approx(0.1 * 1.02 * 0.98)
    fixed = ppo.Beta(0.1, target=None, horizon=1000)
    fixed.update(50.0, 100)
    assert fixed.value == 0.1
