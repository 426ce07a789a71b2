"""Every metric that a stage exports through Ray, in one table; nothing else makes one.

Ray scrapes drivers and actors alike and serves the values on each node's metrics port. `python -m
ecr_ray.benchmarks.figures` puts the table into the README; the boards (boards.py) show all of it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ecr_ray.config import nearest

if TYPE_CHECKING:
    from ray.util import metrics

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class Metric:
    """One metric; `tags` are its Prometheus labels beside Ray's own (node, session, ...)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name by which Prometheus knows it; a histogram's series end in _bucket, _sum and _count."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


_ALL = (
    Metric("ecr_prepare_rows", "counter", "What was read: dialogues, turns, quarantined lines", ("kind",)),
    Metric("ecr_score_rows", "counter", "Judgments by outcome (ok, failed)", ("judge", "outcome")),
    Metric("ecr_score_rows_left", "gauge", "Turns without a judgment yet", ("judge",)),
    Metric("ecr_score_tokens", "counter", "Tokens by kind (prompt, answer)", ("judge", "kind")),
    Metric("ecr_score_prefix_cache_hit_rate", "gauge", "Share of prompt tokens found in the prefix cache", ("judge",)),
    # Training: the stage is critic, sft, recommender, emotion or ppo's learner.
    Metric("ecr_train_steps", "counter", "Optimizer steps", ("stage",)),
    Metric("ecr_train_examples", "counter", "Examples seen, over all workers", ("stage",)),
    Metric("ecr_train_loss", "gauge", "Loss by split (train, valid)", ("stage", "split")),
    Metric("ecr_train_learning_rate", "gauge", "Learning rate", ("stage",)),
    Metric("ecr_train_gradient_norm", "gauge", "Gradient norm before clipping", ("stage",)),
    Metric("ecr_train_checkpoints", "counter", "Checkpoints written", ("stage",)),
    # PPO.
    Metric("ecr_ppo_updates", "counter", "Policy updates"),
    Metric("ecr_ppo_reward", "gauge", "Mean reward of the last batch: opinion of the judge, total", ("aspect",)),
    Metric("ecr_ppo_kl", "gauge", "KL of policy and reference per token (k3)"),
    Metric("ecr_ppo_first_ratio", "gauge", "Probability ratio at the first minibatch; 1 if all is well"),
    Metric("ecr_ppo_clip_fraction", "gauge", "Share of tokens whose ratio was clipped"),
    Metric("ecr_ppo_explained_variance", "gauge", "Of the returns, by the value head"),
    Metric("ecr_ppo_entropy", "gauge", "Of the policy per token, nats"),
    Metric("ecr_ppo_truncated_share", "gauge", "Share of replies that did not end by themselves"),
    Metric("ecr_ppo_response_tokens", "gauge", "Mean length of replies"),
    Metric("ecr_ppo_rollout_tokens", "counter", "Tokens sampled by the rollout actors"),
    Metric("ecr_ppo_rejected_samples", "counter", "Samples not trained on, by reason", ("reason",)),
    Metric("ecr_ppo_sync_seconds", "histogram", "From an update to the proof that every actor has it", (), _SECONDS),
    # Serving.
    Metric("ecr_serve_requests", "counter", "Answered requests by route and status code", ("route", "code")),
    Metric("ecr_serve_seconds", "histogram", "Time by part (recommender, policy, critic, all)", ("part",), _SECONDS),
    Metric("ecr_serve_in_flight", "gauge", "Requests being answered"),
    Metric("ecr_serve_tokens", "counter", "Tokens by kind (prompt, answer)", ("kind",)),
    Metric("ecr_serve_refused", "counter", "Requests turned away, by reason", ("reason",)),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ALL}


def instrument(name: str, **tags: str) -> "metrics.Counter | metrics.Gauge | metrics.Histogram":
    """The Ray metric of this name, with some of its tags already set.

    Raises:
        KeyError: there is no such metric, or it has no such tag; Ray itself would drop it without a word.
    """
    from ray.util import metrics

    if name not in METRICS:
        raise KeyError(f"no metric {name!r}{nearest(name, list(METRICS))}")
    metric = METRICS[name]
    for tag in tags:
        if tag not in metric.tags:
            raise KeyError(f"metric {name} has no tag {tag!r}{nearest(tag, list(metric.tags))}")
    if metric.kind == "histogram":
        made = metrics.Histogram(name, metric.text, boundaries=list(metric.boundaries), tag_keys=metric.tags)
    else:
        made = (metrics.Counter if metric.kind == "counter" else metrics.Gauge)(name, metric.text, tag_keys=metric.tags)
    made.set_default_tags(tags)
    return made


class Training:
    """What the first worker of a training stage tells Prometheus of it."""

    def __init__(self, stage: str) -> None:
        self._steps = instrument("ecr_train_steps", stage=stage)
        self._examples = instrument("ecr_train_examples", stage=stage)
        self._checkpoints = instrument("ecr_train_checkpoints", stage=stage)
        self._loss = instrument("ecr_train_loss", stage=stage)
        self._gauges = {
            "learning_rate": instrument("ecr_train_learning_rate", stage=stage),
            "gradient_norm": instrument("ecr_train_gradient_norm", stage=stage),
        }

    def stepped(self, examples: int) -> None:
        """One optimizer step, over so many examples of all workers together."""
        self._steps.inc()
        self._examples.inc(examples)

    def saved(self) -> None:
        """A checkpoint."""
        self._checkpoints.inc()

    def looked(self, *, train: float | None = None, valid: float | None = None, **gauges: float | None) -> None:
        """The losses of a look at the run, `learning_rate` and `gradient_norm`; None is what this look did not take.

        Raises:
            KeyError: another name.
        """
        for split, value in (("train", train), ("valid", valid)):
            if value is not None:
                self._loss.set(value, tags={"split": split})
        for name, value in gauges.items():
            if value is not None:
                self._gauges[name].set(value)


def table() -> str:
    """All of them as a Markdown table."""
    lines = ["| metric, as exported | kind | labels | what |", "|---|---|---|---|"]
    for metric in METRICS.values():
        tags = ", ".join(f"`{tag}`" for tag in metric.tags)
        lines.append(f"| `{metric.exported}` | {metric.kind} | {tags} | {metric.text} |")
    return "\n".join(lines)
