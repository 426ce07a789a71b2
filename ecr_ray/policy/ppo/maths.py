"""The arithmetic of PPO on texts. Pure functions on tensors, the same on one worker and on many.

Shapes: B responses, T their positions (padded on the right), V tokens of the vocabulary. `mask_BT` is 1 for a
response's own tokens, its end of turn included. Every worker has the figures of the *whole* batch (they are small), so
that means are over all of it however the models' work is shared out; the losses are of each token, in any shape.

Sources: Schulman et al. 2017 (PPO), 2016 (GAE), http://joschu.net/blog/kl-approx.html (k1, k3); details as in "The N+
Implementation Details of RLHF with PPO" (Huang et al. 2024).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A log-ratio beyond this is a broken sample, and its exponential would be infinite.
LOG_RATIO = 20.0


def token_log_probs(
    logits_NV: "torch.Tensor", ids_N: "torch.Tensor", temperature: float
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Log-probability of each of N tokens, and the distribution's entropy there, (N,) each, in nats.

    Args:
        logits_NV: of the distribution that each token was drawn from.
        ids_N: the tokens.
        temperature: what the sampling divided the logits by.
    """
    import torch

    log_NV = torch.log_softmax(logits_NV.float() / temperature, dim=-1)
    entropy_N = -(log_NV.exp() * log_NV).sum(-1)
    return log_NV.gather(-1, ids_N[:, None])[:, 0], entropy_N


def k1(log_BT: "torch.Tensor", reference_BT: "torch.Tensor") -> "torch.Tensor":
    """KL(policy ‖ reference) of each token by one sample: unbiased, of either sign. It goes into the reward."""
    return log_BT - reference_BT


def k3(log_BT: "torch.Tensor", reference_BT: "torch.Tensor") -> "torch.Tensor":
    """KL(policy ‖ reference) of each token by one sample: unbiased, never negative, of less variance. For the log."""
    back_BT = (reference_BT - log_BT).clamp(-LOG_RATIO, LOG_RATIO)
    return back_BT.exp() - 1 - back_BT


def token_rewards(
    score_B: "torch.Tensor", kl_BT: "torch.Tensor", mask_BT: "torch.Tensor", beta: float
) -> "torch.Tensor":
    """−β KL at every token, and the response's score at its last one; 0 where there is none. (B, T)."""
    import torch

    rewards_BT = -beta * kl_BT * mask_BT
    last_B = mask_BT.long().sum(1) - 1
    rows = torch.arange(len(score_B), device=score_B.device)
    has = last_B >= 0
    rewards_BT[rows[has], last_B[has]] += score_B[has]
    return rewards_BT


def gae(
    rewards_BT: "torch.Tensor", values_BT: "torch.Tensor", mask_BT: "torch.Tensor", gamma: float, lam: float
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Generalized advantage estimates, and the returns that the values should have been, (B, T) each.

    After a response's last token nothing comes: its value there is 0.

    Args:
        rewards_BT: per token.
        values_BT: what was expected before each token.
        mask_BT: the responses' tokens.
        gamma: discount a token.
        lam: 1 trusts what came, 0 the next value.
    """
    import torch

    values_BT = values_BT * mask_BT
    advantages_BT = torch.zeros_like(rewards_BT)
    carried_B = torch.zeros_like(rewards_BT[:, 0])
    next_B = torch.zeros_like(carried_B)
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_B - values_BT[:, t]
        carried_B = (delta_B + gamma * lam * carried_B) * mask_BT[:, t]
        advantages_BT[:, t] = carried_B
        next_B = values_BT[:, t]
    return advantages_BT, advantages_BT + values_BT


def mean(values_BT: "torch.Tensor", mask_BT: "torch.Tensor") -> "torch.Tensor":
    """The mean over all tokens."""
    return (values_BT * mask_BT).sum() / mask_BT.sum().clamp_min(1)


def whiten(values_BT: "torch.Tensor", mask_BT: "torch.Tensor", *, center: bool = True) -> "torch.Tensor":
    """Variance 1 over all tokens, and mean 0 unless `center` is off; 0 where there is no token."""
    import torch

    values = values_BT.double()
    middle = mean(values, mask_BT)
    variance = (((values - middle) ** 2) * mask_BT).sum() / (mask_BT.sum() - 1).clamp_min(1)
    whitened = (values - middle) * torch.rsqrt(variance + 1e-8)
    return ((whitened if center else whitened + middle) * mask_BT).to(values_BT.dtype)


def ratio(log_BT: "torch.Tensor", old_BT: "torch.Tensor") -> "torch.Tensor":
    """How much likelier each token has become, (B, T)."""
    return (log_BT - old_BT).clamp(-LOG_RATIO, LOG_RATIO).exp()


def truncated_weights(old_BT: "torch.Tensor", rollout_BT: "torch.Tensor", cap: float) -> "torch.Tensor":
    """Importance weights of tokens that an older or differently computed policy drew, at most `cap`, (B, T).

    Args:
        old_BT: log-probability by the policy that learns, before this update.
        rollout_BT: log-probability by the policy that drew them.
    """
    return ratio(old_BT, rollout_BT).clamp_max(cap)


def policy_loss(
    log_BT: "torch.Tensor", old_BT: "torch.Tensor", advantages_BT: "torch.Tensor", clip: float
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """PPO's clipped loss of each token, and 1 where the clip took its gradient, (B, T) each."""
    import torch

    ratio_BT = ratio(log_BT, old_BT)
    free_BT = -advantages_BT * ratio_BT
    held_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    return torch.maximum(free_BT, held_BT), (held_BT > free_BT).float()


def value_loss(
    values_BT: "torch.Tensor", old_BT: "torch.Tensor", returns_BT: "torch.Tensor", clip: float
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Half the squared error of each value, which may not move more than `clip` at once; and where that held it."""
    import torch

    held_BT = old_BT + (values_BT - old_BT).clamp(-clip, clip)
    free, held = (values_BT - returns_BT) ** 2, (held_BT - returns_BT) ** 2
    return 0.5 * torch.maximum(free, held), (held > free).float()


def explained_variance(
    values_BT: "torch.Tensor", returns_BT: "torch.Tensor", mask_BT: "torch.Tensor"
) -> "torch.Tensor":
    """1 − Var(returns − values) / Var(returns) over all tokens; NaN where all returns are the same."""
    import torch

    def variance(of_BT: "torch.Tensor") -> "torch.Tensor":
        return mean((of_BT - mean(of_BT, mask_BT)) ** 2, mask_BT)

    spread = variance(returns_BT.double())
    unexplained = variance(returns_BT.double() - values_BT.double())
    return torch.where(spread > 0, 1 - unexplained / spread, torch.full_like(spread, float("nan")))


class Beta:
    """The weight of the KL in the reward: fixed, or steered so that the KL of a response stays near a target.

    The controller is that of Ziegler et al. 2019: each step moves it by the relative error, cut to ±0.2, in proportion
    to the episodes seen.
    """

    def __init__(self, value: float, target: float | None, horizon: int) -> None:
        self.value, self.target, self.horizon = value, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Take note of a step's mean KL of a response, in nats."""
        if self.target:
            error = min(0.2, max(-0.2, kl / self.target - 1))
            self.value *= 1 + error * episodes / self.horizon
