"""The critic's losses by hand, and that a step's loss is the same however it is cut."""

import math

import pytest
import torch

from ecr_ray.encoders import losses


def test_what_the_heads_say_is_bounded():
    mean, log_variance = losses.squash(torch.tensor([[-100.0, 100.0, -100.0, 100.0], [0.0] * 4]))
    assert mean.tolist() == [[0, 1], [0.5, 0.5]]
    assert log_variance[0].tolist() == pytest.approx(list(losses.LOG_VARIANCE))
    assert math.exp(losses.LOG_VARIANCE[1]) == pytest.approx(0.25, rel=1e-3)


def test_beta_nll_by_hand():
    # Variance .04, error .01: ½ (.25 + ln .04) · .2.
    mean, target = torch.tensor([[0.4]]), torch.tensor([[0.5]])
    log_variance = torch.tensor([[math.log(0.04)]])
    found = losses.regression(mean, log_variance, target, "beta-nll")
    assert found.item() == pytest.approx(0.5 * (0.25 + math.log(0.04)) * 0.2, rel=1e-5)


def test_with_mse_the_mean_feels_the_squared_error_alone():
    mean = torch.tensor([[0.4]], requires_grad=True)
    log_variance = torch.tensor([[math.log(0.04)]], requires_grad=True)
    losses.regression(mean, log_variance, torch.tensor([[0.5]]), "mse").sum().backward()
    assert mean.grad.item() == pytest.approx(-0.2)
    # The variance is larger than the squared error, so it wants to go down.
    assert log_variance.grad.item() > 0


@pytest.mark.parametrize("kind", ["mse", "beta-nll"])
def test_the_doubt_that_is_learnt_is_the_spread_of_the_targets(kind):
    torch.manual_seed(0)
    target = (0.5 + 0.1 * torch.randn(4000)).clamp(0, 1)[:, None]
    raw = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(400):
        mean, log_variance = losses.squash(raw.expand(len(target), 2))
        loss = losses.regression(mean, log_variance, target, kind).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean, log_variance = losses.squash(raw)
    assert mean.item() == pytest.approx(0.5, abs=0.01)
    assert math.exp(log_variance.item() / 2) == pytest.approx(0.1, abs=0.01)


def test_the_parts_of_a_step_add_up_however_it_is_cut():
    torch.manual_seed(1)
    loss, weight = torch.rand(12, 3), torch.rand(12, 3)
    weight[:, 1] = 0  # a head that nobody knows
    loss[3, 1] = float("nan")
    total, heads = weight.sum(0), torch.tensor([1.0, 1.0, 2.0])
    whole = losses.weighted(loss, weight, total, heads)
    parts = sum(losses.weighted(loss[a : a + 4], weight[a : a + 4], total, heads) for a in (0, 4, 8))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    by_hand = (loss[:, 0] * weight[:, 0]).sum() / total[0] + 2 * (loss[:, 2] * weight[:, 2]).sum() / total[2]
    assert whole.item() == pytest.approx(by_hand.item() / 4, rel=1e-6)


def test_pairwise_by_hand():
    score, target = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.9, 0.1, 0.12])
    weight = torch.ones(3)
    # Pairs further apart than the margin: (0, 1) and (0, 2).
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert losses.pairwise(score, target, weight, 0.05).item() == pytest.approx(expected, rel=1e-5)
    assert losses.pairwise(score, target, torch.tensor([0.0, 1.0, 1.0]), 0.05).item() == 0
