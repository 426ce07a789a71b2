"""What heads are trained on: weighted, bounded regression with an uncertainty of its own, or labels. Pure functions.

Shapes: B rows, K heads. A target that is not known has weight 0, and its value does not matter.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Kind = Literal["beta-nll", "mse", "bce"]
# exp of these are variances between 1e-4 and 0.25, the largest that values in 0-1 can have.
LOG_VARIANCE = (-9.2, -1.386)
BETA = 0.5


def squash(raw_B2K: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """What the heads say, in training and inference alike: means in 0–1 and log-variances within LOG_VARIANCE.

    Args:
        raw_B2K: (B, 2K): K unbounded means, then K unbounded log-variances.

    Returns:
        (B, K) each. The bound of the log-variance is smooth, so that a gradient always leads back.
    """
    import torch

    mean, spread = raw_B2K.float().chunk(2, dim=-1)
    low, high = LOG_VARIANCE
    return torch.sigmoid(mean), low + (high - low) * torch.sigmoid(spread)


def regression(
    mean_BK: "torch.Tensor", log_variance_BK: "torch.Tensor", target_BK: "torch.Tensor", kind: Kind
) -> "torch.Tensor":
    """The loss of every target, (B, K).

    `beta-nll`: Gaussian negative log-likelihood, each times its variance to the power of ½ without gradient, so that
    hard rows are not given up (Seitzer, Tavakoli, Antic, Martius, ICLR 2022). `mse`: squared error, and beside it
    the likelihood of the residuals for the variance alone, so that the critic knows its doubt in either case. `bce`:
    cross-entropy of labels that are there or not; the mean is a probability, and there is no doubt of its own.
    """
    if kind == "bce":
        import torch

        # float32's next number below 1 keeps the logarithm finite; what is that sure has no gradient left to lose.
        sure = mean_BK.clamp(1e-7, 1 - 1e-7)
        return torch.nn.functional.binary_cross_entropy(sure, target_BK, reduction="none")
    variance = log_variance_BK.exp()
    error = (target_BK - mean_BK) ** 2
    if kind == "beta-nll":
        return 0.5 * (error / variance + log_variance_BK) * variance.detach() ** BETA
    return error + 0.5 * (error.detach() / variance + log_variance_BK) * variance.detach()


def weighted(
    loss_BK: "torch.Tensor", weight_BK: "torch.Tensor", total_K: "torch.Tensor", head_K: "torch.Tensor"
) -> "torch.Tensor":
    """The part of a step's loss that these rows give.

    Args:
        loss_BK: the loss of every target.
        weight_BK: of every target; 0 where it is not known.
        total_K: the sum of the weights over the *whole* step, so that the parts of all micro-batches and workers add
            up to the same number however the step is cut.
        head_K: how much each head counts.
    """
    import torch

    known = torch.where(weight_BK > 0, loss_BK, 0.0)
    parts_K = (known * weight_BK).sum(0) / total_K.clamp_min(1e-8)
    return (parts_K * head_K).sum() / head_K.sum()


def pairwise(
    score_BK: "torch.Tensor", target_BK: "torch.Tensor", weight_BK: "torch.Tensor", margin: float
) -> "torch.Tensor":
    """Mean logistic loss over the pairs of rows whose targets differ by more than `margin`: the higher one should score
    higher (Burges et al., RankNet, ICML 2005). 0 where there is no such pair.

    Args:
        score_BK: what orders the rows: the unbounded means.
    """
    import torch

    known = weight_BK > 0
    higher = (target_BK[:, None] - target_BK[None]) > margin
    counted = higher & known[:, None] & known[None]
    difference = score_BK[:, None] - score_BK[None]
    losses = torch.nn.functional.softplus(-difference)
    return (losses * counted).sum() / counted.sum().clamp_min(1)
