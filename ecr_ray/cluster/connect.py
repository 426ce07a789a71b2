"""The single way in which every job finds its Ray cluster."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecr_ray.cluster import logs
from ecr_ray.errors import UserError

# Ray's own logical CPUs on a small machine: every stage of a pipeline is an actor or task of its own, and on
# two CPUs the light ones would wait for ever for the engine's to come free.
MIN_LOGICAL_CPUS = 4
_GIVEN = "ECR_CLUSTER_ENVIRONMENT"


def connect() -> str:
    """Connect this process to Ray and return what it is connected to, in words.

    In this order: the cluster this process is in already; that of `RAY_ADDRESS` (set for the job by the SLURM
    bootstrap and by `ray job submit`); the one that the bootstrap keeps up in this SLURM job (a shell that was
    attached to it); else a cluster on this machine that ends with the process, its dashboard on the loopback address.

    Raises:
        UserError: the address is of a cluster that does not answer, or that does not accept our token.
    """
    if not os.environ.get("RAY_ADDRESS") and (found := slurm_cluster(os.environ)):
        # Ray looks for its token when it is imported.
        if "ray" in sys.modules:
            raise UserError(
                "`import ray` came before connect(), too early for the cluster of this SLURM job: swap them"
            )
        os.environ.update(found)
    import ray

    if ray.is_initialized():
        return "the Ray cluster this process is in"
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(**_settings(address))
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            raise UserError(
                f"cannot join the Ray cluster at {address} (RAY_ADDRESS): {str(error).splitlines()[0]}; is it up, and "
                "does RAY_AUTH_TOKEN_PATH name its token?"
            ) from error
        return f"the Ray cluster at {address}"
    # Says on every start that there is a token now, as is right.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # Ray starts its workers, and so their engines, at nice 15: on a small machine everything else goes first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Every process of Ray wakes a hundred times a second, and Ray keeps as many idle ones as CPUs: on two cores that
    # is a share of what trains.
    os.environ.setdefault("RAY_num_workers_soft_limit", "1")
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "10000")
    # What workers are to have the whole cluster is given: a worker whose environment is its own takes twice as long to
    # start, it imports Ray, changes its environment and begins again.
    os.environ.update(_environment())
    context = ray.init(
        # Not one that somebody else may have running here, nor one that left its address behind.
        address="local",
        num_cpus=max(MIN_LOGICAL_CPUS, os.cpu_count() or 1),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        **_settings("local", given=True),
    )
    # For jobs that this process starts, and that join.
    os.environ[_GIVEN] = _given(ray.get_runtime_context().gcs_address)
    return f"a Ray cluster on this machine, dashboard http://{context.dashboard_url}"


def slurm_run_directory(env: Mapping[str, str]) -> Path | None:
    """Where the bootstrap of this SLURM job keeps what belongs to its cluster; None outside a SLURM job."""
    if "SLURM_JOB_ID" not in env:
        return None
    run = f"{env['SLURM_JOB_ID']}.{env.get('SLURM_RESTART_COUNT', 0)}"
    usual = Path(env.get("SLURM_SUBMIT_DIR", "."), "runs", "slurm", run)
    return Path(env.get("ECR_RUN_DIR", usual))


def slurm_cluster(env: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment in order to join the cluster that stays up in this SLURM job, if one does."""
    directory = slurm_run_directory(env)
    if directory is None or not (directory / "cluster.json").is_file():
        return {}
    cluster = json.loads((directory / "cluster.json").read_text())
    return {
        "RAY_ADDRESS": cluster["address"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": cluster["token_file"],
        "ECR_RUN_ID": cluster["run_id"],
    }


def waiting(env: Mapping[str, str], spins: int = 10_000) -> dict[str, str]:
    """How the workers' threads that share a computation wait for each other, unless the environment says.

    They spin, by GNU's OpenMP 300,000 times, before they sleep. Where two processes compute on the same cores, each
    spins away what the other needs; 10,000 times is as fast alone, and more than twice as fast for two.
    """
    asked = {name: env[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in env}
    return asked or {"GOMP_SPINCOUNT": str(spins)}


def _environment() -> dict[str, str]:
    """What every worker has in its environment."""
    return {"PYTHONPATH": _python_path(), "HF_HUB_DISABLE_TELEMETRY": "1", **waiting(os.environ)}


def _given(address: str) -> str:
    """Says that the cluster at an address was started with what this process's workers are to have."""
    return json.dumps([address, _environment()])


def _settings(address: str, *, given: bool = False) -> dict[str, Any]:
    """What every `ray.init` here is given; `given`: the cluster has the workers' environment already."""
    import ray

    runtime_env: dict[str, Any] = {}
    if not given and os.environ.get(_GIVEN) != _given(address):
        runtime_env["env_vars"] = _environment()
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "runtime_env": runtime_env}
    if os.environ.get("ECR_RUN_ID"):
        # On a cluster logs are for machines first: JSON, each record with job, node and run.
        logs.add_run_id()
        runtime_env["worker_process_setup_hook"] = "ecr_ray.cluster.logs.add_run_id"
        settings["logging_config"] = ray.LoggingConfig(encoding="JSON", log_level="WARNING")
    return settings


def _python_path() -> str:
    """Workers find this package where the driver found it, also when it was not installed."""
    root = str(Path(__file__).resolve().parents[2])
    rest = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
    return os.pathsep.join([root, *rest])
