"""Which ports, directories and commands a cluster inside a SLURM job is made of. Nothing here does anything."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from ecr_ray.cluster.allocation import Host
from ecr_ray.errors import UserError

# A Unix socket's path ends at 107 bytes; this is what Ray puts behind its temporary directory.
SOCKET_PATH_BYTES = 107
_LONGEST_SOCKET = "/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
LONGEST_TEMP_DIR = SOCKET_PATH_BYTES - len(_LONGEST_SOCKET)
OBJECT_STORE_SHARE = 0.3
MIB, GIB = 2**20, 2**30
TEMP_PREFIX = "ecr-ray-"
# In the run directory: where Prometheus finds the metrics ports of all nodes (its file_sd format).
SCRAPE_TARGETS = "prometheus_targets.json"


class LayoutError(UserError):
    """Settings from which no cluster can be laid out."""


@dataclass(frozen=True)
class Ports:
    """Every port that Ray listens on at one node, bar its workers', which the system chooses."""

    gcs: int
    dashboard: int
    agent_http: int
    agent_grpc: int
    runtime_env_agent: int
    metrics: int
    node_manager: int
    object_manager: int
    client: int
    dashboard_metrics: int
    autoscaler_metrics: int

    @property
    def span(self) -> str:
        """`first-last`, for people."""
        return f"{self.gcs}-{self.autoscaler_metrics}"


BLOCK = len(fields(Ports))


def port_blocks(job_id: int, low: int, high: int) -> Iterator[Ports]:
    """Blocks of ports in [low, high), the job's own first, then the ones that follow, each once.

    The jobs of a node come with ids close to each other, so that their first choices differ.

    Raises:
        LayoutError: the range holds not even one block.
    """
    count = (high - low) // BLOCK
    if count < 1:
        raise LayoutError(f"there is no room for {BLOCK} ports between {low} and {high}: widen --ports")
    for step in range(count):
        start = low + (job_id + step) % count * BLOCK
        yield Ports(*range(start, start + BLOCK))


def parse_range(text: str) -> tuple[int, int]:
    """`20000-32000` → (20000, 32000)."""
    low, _, high = text.partition("-")
    if not (low.isdigit() and high.isdigit() and 1024 <= int(low) < int(high) <= 65536):
        raise LayoutError(f"--ports {text}: write LOW-HIGH with 1024 <= LOW < HIGH <= 65536")
    return int(low), int(high)


def temp_dir(base: str, run_id: str) -> str:
    """The node-local directory of one start of one job.

    Raises:
        LayoutError: Ray's sockets in it would have paths that are too long for Unix.
    """
    path = f"{base.rstrip('/')}/{TEMP_PREFIX}{run_id}"
    length = len(path.encode())
    if length > LONGEST_TEMP_DIR:
        raise LayoutError(
            f"Ray's sockets below {path} would have paths of {length + len(_LONGEST_SOCKET)} bytes, and Unix allows "
            f"{SOCKET_PATH_BYTES}: give a --temp-dir of at most {LONGEST_TEMP_DIR - (length - len(base))} bytes"
        )
    return path


def object_store_bytes(memory: int, shm_free: int, asked_gib: float | None) -> int:
    """Bytes for Ray's object store: what was asked for, or Ray's usual share of `memory` (bytes), within /dev/shm.

    Raises:
        LayoutError: more was asked for than /dev/shm has free.
    """
    room = int(shm_free * 0.95)
    if asked_gib is None:
        return min(room, int(memory * OBJECT_STORE_SHARE))
    asked = int(asked_gib * GIB)
    if asked > room:
        raise LayoutError(f"--object-store-gib {asked_gib:g}: /dev/shm has only {shm_free / GIB:.1f} GiB free")
    return asked


@dataclass(frozen=True)
class NodePlan:
    """What one node's `ray start` is told. `head_address` is None on the head."""

    host: Host
    ip: str
    ports: Ports
    temp_dir: str
    gpus: int
    object_store: int
    labels: dict[str, str]
    head_address: str | None = None
    dashboard_host: str = "127.0.0.1"

    def ray_start(self) -> list[str]:
        """The arguments after `ray`."""
        ports = self.ports
        if self.head_address is None:
            where = ["--head", f"--port={ports.gcs}", "--include-dashboard=true"]
            where += [f"--dashboard-host={self.dashboard_host}", f"--dashboard-port={ports.dashboard}"]
            # Not used, but Ray starts it all the same, and two of them on one node would clash.
            where += [f"--ray-client-server-port={ports.client}"]
        else:
            where = [f"--address={self.head_address}"]
        memory = []
        if self.host.memory_mib is not None:
            memory = [f"--memory={max(self.host.memory_mib * MIB - self.object_store, MIB)}"]
        return [
            "start",
            "--block",
            *where,
            f"--node-ip-address={self.ip}",
            f"--num-cpus={self.host.cpus}",
            f"--num-gpus={self.gpus}",
            *memory,
            f"--object-store-memory={self.object_store}",
            f"--labels={','.join(f'{key}={value}' for key, value in self.labels.items())}",
            f"--temp-dir={self.temp_dir}",
            f"--node-manager-port={ports.node_manager}",
            f"--object-manager-port={ports.object_manager}",
            f"--runtime-env-agent-port={ports.runtime_env_agent}",
            f"--dashboard-agent-listen-port={ports.agent_http}",
            f"--dashboard-agent-grpc-port={ports.agent_grpc}",
            f"--metrics-export-port={ports.metrics}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--disable-usage-stats",
        ]

    def ray_env(self) -> dict[str, str]:
        """Two ports for which `ray start` has no option, for its environment."""
        return {
            "DASHBOARD_METRIC_PORT": str(self.ports.dashboard_metrics),
            "AUTOSCALER_METRIC_PORT": str(self.ports.autoscaler_metrics),
        }


def labels(host: Host, run_id: str) -> dict[str, str]:
    """The labels of a node, for `label_selector=`."""
    found = {"slurm-node": host.name, "slurm-run": run_id}
    if host.role is not None:
        found["role"] = host.role
    if host.het_group is not None:
        found["het-group"] = str(host.het_group)
    return found


def srun(hosts: Sequence[Host], command: Sequence[str]) -> list[str]:
    """The `srun` that runs a command once on each of these nodes, beside whatever else the job runs there."""
    words = [
        "srun",
        f"--nodes={len(hosts)}",
        f"--nodelist={','.join(host.name for host in hosts)}",
        f"--ntasks={len(hosts)}",
        "--ntasks-per-node=1",
        # Not inherited from sbatch; all hosts of a step have the same.
        f"--cpus-per-task={hosts[0].cpus}",
        "--overlap",
        "--mem=0",
        # One node's end must not end the others: what then happens is decided here.
        "--kill-on-bad-exit=0",
        "--no-kill",
        "--wait=0",
    ]
    if hosts[0].het_group is not None:
        words.append(f"--het-group={hosts[0].het_group}")
    return [*words, *command]


def show(words: Sequence[str]) -> str:
    """A command as it would be typed."""
    return shlex.join(words)


def attach_text(cluster: dict, python: str) -> str:
    """How to reach a cluster from a shell on the submit host; `cluster` is the content of cluster.json."""
    port = cluster["dashboard"].rsplit(":", 1)[1]
    head = cluster["nodes"][0]["name"]
    return f"""\
attach from a shell:
  ssh -N -L {port}:127.0.0.1:{port} {head} &      # dashboard: http://127.0.0.1:{port}, asks for the token
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster["token_file"]}
  ray job submit --address http://127.0.0.1:{port} --submission-id NAME -- {python} jobs/score.py
or on the head node itself, as a driver:
  srun --jobid={cluster["job_id"]} --overlap --nodelist={head} --pty bash
  {python} jobs/score.py                          # connects by itself
metrics, by Prometheus on a node that reaches them:
  make watch ARGS="--targets {cluster["directory"]}/{SCRAPE_TARGETS}"
end it with:
  scancel {cluster["job_id"]}
all of this is in {json.dumps(cluster["directory"] + "/cluster.json")}"""
