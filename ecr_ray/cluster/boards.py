"""The Grafana boards, from what each panel shows to the JSON that Grafana reads.

`python -m ecr_ray.cluster.boards` writes them to ecr_ray/cluster/grafana/, whence they are installed or imported; a
test holds the files to what stands here, and every query against a Prometheus that has scraped a real run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ecr_ray.cluster.metrics import METRICS

DIRECTORY = Path(__file__).parent / "grafana"
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True)
class Panel:
    """One graph, or one figure (`stat`). `queries` are (PromQL, legend)."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    text: str = ""
    may_be_empty: bool = False
    """Nothing to show without a GPU, or while nothing goes wrong."""


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def of(name: str, suffix: str = "", **labels: str) -> str:
    """The PromQL selector of one of our metrics in the chosen Ray session.

    Raises:
        KeyError: there is no such metric.
    """
    return _of_ray(METRICS[name].exported + suffix, **labels)


def _of_ray(name: str, **labels: str) -> str:
    chosen = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'{name}{{SessionName=~"$session"{chosen}}}'


def rate(name: str, by: str = "", suffix: str = "", **labels: str) -> str:
    """A second's growth of a counter, summed over all processes."""
    return f"sum by ({by}) (rate({of(name, suffix, **labels)}[$__rate_interval]))"


def quantile(q: float, name: str, by: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({q}, {rate(name, f'le,{by}'.rstrip(','), '_bucket')})"


def latest(name: str, by: str = "", **labels: str) -> str:
    """A gauge's last value, the largest of several processes'. Ray shows a gauge only for a while after it was set."""
    return f"max by ({by}) (last_over_time({of(name, **labels)}[5m]))"


def _machine() -> tuple[Panel, ...]:
    """What the nodes do meanwhile; the same on every board."""
    gpu = "{{instance}} {{GpuIndex}}"
    return (
        Panel(
            "CPU by node",
            ((f"avg by (instance) ({_of_ray('ray_node_cpu_utilization')})", "{{instance}}"),),
            unit="percent",
        ),
        Panel(
            "Memory by node",
            (
                (f"sum by (instance) ({_of_ray('ray_node_mem_used')})", "{{instance}} used"),
                (f"sum by (instance) ({_of_ray('ray_node_mem_total')})", "{{instance}} total"),
            ),
            unit="bytes",
        ),
        Panel(
            "Ray's object store",
            ((f"sum by (Location) ({_of_ray('ray_object_store_memory')})", "{{Location}}"),),
            unit="bytes",
            text="SPILLED means that memory was short and objects went to disk.",
        ),
        Panel(
            "Logical CPUs in use",
            ((f"sum by (State) ({_of_ray('ray_resources', Name='CPU')})", "{{State}}"),),
        ),
        Panel(
            "GPU use",
            ((f"avg by (instance, GpuIndex) ({_of_ray('ray_node_gpus_utilization')})", gpu),),
            unit="percent",
            may_be_empty=True,
        ),
        Panel(
            "GPU memory",
            ((f"1048576 * sum by (instance, GpuIndex) ({_of_ray('ray_node_gram_used')})", gpu),),
            unit="bytes",
            may_be_empty=True,
        ),
    )


def _figure(title: str, query: str, unit: str = "short") -> Panel:
    return Panel(title, ((query, ""),), unit=unit, kind="stat")


_LEFT = f"sum({latest('ecr_score_rows_left', 'judge')})"
_JUDGED = rate("ecr_score_rows", "judge")
_FAILED = rate("ecr_score_rows", "judge", outcome="failed")
SCORING = Board(
    "scoring",
    "ecr_ray scoring",
    (
        _figure("Rows left", _LEFT),
        _figure("Rows/s", rate("ecr_score_rows")),
        _figure("Time left", f"{_LEFT} / {rate('ecr_score_rows')}", unit="s"),
        _figure("Lines in quarantine", f"sum({of('ecr_prepare_rows', kind='quarantined')}) or vector(0)"),
        Panel("Judgments/s", ((rate("ecr_score_rows", "judge, outcome"), "{{judge}} {{outcome}}"),)),
        Panel(
            "Share of judgments that fail",
            ((f"({_FAILED} or 0 * {_JUDGED}) / {_JUDGED}", "{{judge}}"),),
            unit="percentunit",
        ),
        Panel("Tokens/s by judge and kind", ((rate("ecr_score_tokens", "judge, kind"), "{{judge}} {{kind}}"),)),
        Panel(
            "Prompt tokens found in the prefix cache",
            ((latest("ecr_score_prefix_cache_hit_rate", "judge"), "{{judge}}"),),
            unit="percentunit",
            text="Turns travel in the order of their dialogues, so that each dialogue is read once.",
        ),
        Panel("Rows left by judge", ((latest("ecr_score_rows_left", "judge"), "{{judge}}"),)),
        Panel(
            "Answer tokens a row",
            ((f"{rate('ecr_score_tokens', 'judge', kind='answer')} / {_JUDGED}", "{{judge}}"),),
        ),
        *_machine(),
    ),
)  # fmt: skip
TRAINING = Board(
    "training",
    "ecr_ray training",
    (
        Panel("Loss", ((latest("ecr_train_loss", "stage, split"), "{{stage}} {{split}}"),)),
        Panel("Learning rate", ((latest("ecr_train_learning_rate", "stage"), "{{stage}}"),)),
        Panel("Gradient norm before clipping", ((latest("ecr_train_gradient_norm", "stage"), "{{stage}}"),)),
        Panel("Examples/s", ((rate("ecr_train_examples", "stage"), "{{stage}}"),)),
        Panel("Optimizer steps/s", ((rate("ecr_train_steps", "stage"), "{{stage}}"),)),
        Panel("Checkpoints", ((f"sum by (stage) ({of('ecr_train_checkpoints')})", "{{stage}}"),)),
        *_machine(),
    ),
)
PPO = Board(
    "ppo",
    "ecr_ray PPO",
    (
        Panel("Reward", ((latest("ecr_ppo_reward", "aspect"), "{{aspect}}"),)),
        Panel("KL of policy and reference", ((latest("ecr_ppo_kl"), "k3, per token"),)),
        Panel(
            "Ratio at the first minibatch",
            ((latest("ecr_ppo_first_ratio"), "ratio"),),
            text="Not 1: what was sampled is not what is trained.",
        ),
        Panel("Tokens clipped", ((latest("ecr_ppo_clip_fraction"), "share"),), unit="percentunit"),
        Panel("Explained variance of the returns", ((latest("ecr_ppo_explained_variance"), "value head"),)),
        Panel("Entropy", ((latest("ecr_ppo_entropy"), "nats per token"),)),
        Panel("Replies that did not end", ((latest("ecr_ppo_truncated_share"), "share"),), unit="percentunit"),
        Panel("Tokens a reply", ((latest("ecr_ppo_response_tokens"), "mean"),)),
        Panel("Sampled tokens/s", ((rate("ecr_ppo_rollout_tokens"), "all actors"),)),
        Panel("Updates a minute", ((f"60 * {rate('ecr_ppo_updates')}", "updates"),)),
        Panel(
            "Samples not trained on",
            ((rate("ecr_ppo_rejected_samples", "reason"), "{{reason}}"),),
            may_be_empty=True,
        ),
        Panel(
            "Time to deliver an adapter",
            tuple((quantile(q, "ecr_ppo_sync_seconds"), f"p{q * 100:.0f}") for q in (0.5, 0.95)),
            unit="s",
        ),
        *_machine(),
    ),
)
SERVING = Board(
    "serving",
    "ecr_ray serving",
    (
        Panel("Requests/s by route and code", ((rate("ecr_serve_requests", "route, code"), "{{route}} {{code}}"),)),
        Panel(
            "Time of a request",
            tuple((quantile(q, "ecr_serve_seconds", "part"), f"{{{{part}}}} p{q * 100:.0f}") for q in (0.5, 0.95)),
            unit="s",
        ),
        Panel("Requests being answered", ((f"sum(last_over_time({of('ecr_serve_in_flight')}[1m]))", "in flight"),)),
        Panel("Tokens/s", ((rate("ecr_serve_tokens", "kind"), "{{kind}}"),)),
        Panel("Requests turned away/s", ((rate("ecr_serve_refused", "reason"), "{{reason}}"),)),
        Panel(
            "Replicas by deployment",
            ((f"sum by (deployment) ({_of_ray('ray_serve_deployment_replica_healthy')})", "{{deployment}}"),),
        ),
        *_machine(),
    ),
)
BOARDS = (SCORING, TRAINING, PPO, SERVING)


def to_json(board: Board) -> str:
    """What Grafana (9 or newer) imports or is provisioned with."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(board.panels, 1):
        width, height = (6, 4) if panel.kind == "stat" else (_WIDTH, _HEIGHT)
        panels.append(_panel(panel, number, {"x": x, "y": y, "w": width, "h": height}))
        x += width
        if x >= 2 * _WIDTH:
            x, y = 0, y + height
    content = {
        "uid": f"ecr-ray-{board.name}",
        "title": board.title,
        "tags": ["ecr_ray"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_DATASOURCE, _SESSION]},
        "panels": panels,
    }
    return json.dumps(content, indent=1) + "\n"


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {"refId": chr(ord("A") + n), "datasource": source, "expr": query, "legendFormat": legend}
        for n, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }


_DATASOURCE = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
_SESSION = {
    "name": "session",
    "label": "Ray session",
    "type": "query",
    "datasource": {"type": "prometheus", "uid": "${datasource}"},
    "query": "label_values(ray_node_cpu_count, SessionName)",
    "refresh": 2,
    "includeAll": True,
    "allValue": ".*",
    "multi": False,
}


def write(directory: Path, boards: Sequence[Board] = BOARDS) -> None:
    """Write one file a board."""
    directory.mkdir(parents=True, exist_ok=True)
    for board in boards:
        (directory / f"{board.name}.json").write_text(to_json(board))


if __name__ == "__main__":
    write(DIRECTORY)
