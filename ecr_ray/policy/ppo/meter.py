"""What Prometheus is told of PPO (the metrics of ecr_ray/cluster/metrics.py)."""

from collections.abc import Mapping

from ecr_ray.cluster import metrics
from ecr_ray.policy.ppo.rewards import NO_END

# Metric → key of a step's entry.
_GAUGES = {
    "ecr_ppo_kl": "kl_per_token",
    "ecr_ppo_first_ratio": "first_ratio",
    "ecr_ppo_clip_fraction": "clip_fraction",
    "ecr_ppo_explained_variance": "explained_variance",
    "ecr_ppo_entropy": "entropy",
    "ecr_ppo_response_tokens": "tokens",
    "ecr_ppo_truncated_share": NO_END,
}


class Meter:
    """Counts what the first worker does, in steps of `batch` answers."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._training = metrics.Training("ppo")
        self._gauges = {key: metrics.instrument(name) for name, key in _GAUGES.items()}
        self._reward = metrics.instrument("ecr_ppo_reward")
        self._updates = metrics.instrument("ecr_ppo_updates")
        self._tokens = metrics.instrument("ecr_ppo_rollout_tokens")
        self._sync = metrics.instrument("ecr_ppo_sync_seconds")
        self._rejected = metrics.instrument("ecr_ppo_rejected_samples")

    def stepped(self, entry: Mapping[str, float]) -> None:
        """A line of the curve."""
        for key, gauge in self._gauges.items():
            gauge.set(entry[key])
        for aspect, key in (("total", "reward"), ("opinion", "opinion")):
            self._reward.set(entry[key], tags={"aspect": aspect})
        self._updates.inc()
        self._tokens.inc(entry["all_tokens"])
        self._sync.observe(entry["seconds_sync"])
        self._training.stepped(self._batch)
        self._training.looked(
            train=entry["policy_loss"], learning_rate=entry["learning_rate"], gradient_norm=entry["gradient_norm"]
        )

    def rejected(self, count: int) -> None:
        """Samples that were too old."""
        self._rejected.inc(count, tags={"reason": "stale"})

    def saved(self) -> None:
        """A checkpoint."""
        self._training.saved()
