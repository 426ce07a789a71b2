"""Join the Ray cluster that is there, or start one on this machine."""

import logging
import os
from pathlib import Path

# Ray's own logical CPUs on a small machine: every stage of a pipeline is an actor or task of its own, and on
# two CPUs the light ones would wait for ever for the engine's to come free.
MIN_LOGICAL_CPUS = 4


def connect() -> str:
    """Connect this process to Ray and return what it is connected to, in words.

    Joins the cluster of `RAY_ADDRESS` (set by `ray job submit` and by the SLURM bootstrap); without it, starts
    one on this machine that ends with the process, its dashboard on the loopback address.
    """
    import ray

    runtime_env = {"env_vars": {"PYTHONPATH": _python_path(), "HF_HUB_DISABLE_TELEMETRY": "1"}}
    if ray.is_initialized():
        return "the Ray cluster this process is in"
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=runtime_env, log_to_driver=False, logging_level=logging.WARNING)
        return f"the Ray cluster at {os.environ['RAY_ADDRESS']}"
    # Ray starts its workers, and so their engines, at nice 15: on a small machine everything else goes first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    context = ray.init(
        num_cpus=max(MIN_LOGICAL_CPUS, os.cpu_count() or 1),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.WARNING,
        runtime_env=runtime_env,
    )
    return f"a Ray cluster on this machine, dashboard http://{context.dashboard_url}"


def _python_path() -> str:
    """Workers find this package where the driver found it, also when it was not installed."""
    root = str(Path(__file__).resolve().parents[2])
    rest = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
    return os.pathsep.join([root, *rest])
