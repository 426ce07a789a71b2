"""What SLURM has given this job, read from the environment of its batch script."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ecr_ray.errors import UserError


class AllocationError(UserError):
    """The environment describes no allocation that a cluster can be built in."""


@dataclass(frozen=True)
class Host:
    """One node of the allocation. `memory_mib` and `gpus` are None where only the node itself can tell.

    `het_group` numbers the component of a heterogeneous job, None in an ordinary one.
    """

    name: str
    cpus: int
    memory_mib: int | None = None
    gpus: int | None = None
    het_group: int | None = None
    role: str | None = None


@dataclass(frozen=True)
class Allocation:
    """A job's nodes, the head first. `restarts` counts how often SLURM has started the job over."""

    job_id: int
    restarts: int
    hosts: tuple[Host, ...]

    @property
    def run_id(self) -> str:
        """Names this start of this job in logs and directories."""
        return f"{self.job_id}.{self.restarts}"

    @property
    def head(self) -> Host:
        """The node that the batch script runs on."""
        return self.hosts[0]

    def steps(self) -> list[tuple[Host, ...]]:
        """The head, and then the workers in as few groups as one `srun` each can start.

        An `srun` serves one component of a heterogeneous job and asks for the same CPUs on each of its nodes.
        """
        groups: dict[tuple[int | None, int], list[Host]] = {}
        for host in self.hosts[1:]:
            groups.setdefault((host.het_group, host.cpus), []).append(host)
        return [(self.head,), *(tuple(group) for group in groups.values())]


def from_env(env: Mapping[str, str], roles: Sequence[str] = ()) -> Allocation:
    """The allocation that SLURM's variables describe.

    Args:
        env: the environment of the batch script (or of a shell inside `salloc`).
        roles: `NAME:COUNT` each, given to the nodes in their order; further nodes have no role.

    Raises:
        AllocationError: a variable is missing or cannot be read.
    """
    try:
        job_id = int(env["SLURM_JOB_ID"])
    except KeyError:
        raise AllocationError(
            "this is not inside a SLURM job (SLURM_JOB_ID is not set): submit it with "
            "`sbatch slurm_ray_start.sh [OPTIONS] [JOB.py ARGUMENTS]`, or run it within `salloc`"
        ) from None
    except ValueError:
        raise AllocationError(f"SLURM_JOB_ID is {env['SLURM_JOB_ID']!r}, not a number") from None
    components = int(env.get("SLURM_HET_SIZE", 1))
    hosts: list[Host] = []
    for number in range(components):
        suffix = f"_HET_GROUP_{number}" if components > 1 else ""
        hosts += _component(env, suffix, number if components > 1 else None)
    given = _expand_roles(roles, len(hosts))
    hosts = [replace(host, role=role) for host, role in zip(hosts, given, strict=True)]
    return Allocation(job_id, int(env.get("SLURM_RESTART_COUNT", 0)), tuple(hosts))


def _component(env: Mapping[str, str], suffix: str, het_group: int | None) -> list[Host]:
    def value(name: str) -> str | None:
        return env.get(name + suffix) or None

    names = value("SLURM_JOB_NODELIST")
    counts = value("SLURM_JOB_CPUS_PER_NODE")
    if names is None or counts is None:
        missing = "SLURM_JOB_NODELIST" if names is None else "SLURM_JOB_CPUS_PER_NODE"
        raise AllocationError(f"SLURM has not set {missing}{suffix}: is this inside a job's batch script?")
    nodes, cpus = expand_hosts(names), expand_counts(counts)
    if len(nodes) != len(cpus):
        raise AllocationError(f"SLURM names {len(nodes)} nodes ({names}) but CPUs for {len(cpus)} ({counts})")
    per_node, per_cpu = value("SLURM_MEM_PER_NODE"), value("SLURM_MEM_PER_CPU")
    gpus = value("SLURM_GPUS_PER_NODE")
    return [
        Host(
            name,
            count,
            # 0 stands for all the memory of the node.
            memory_mib=(int(per_node) if per_node else int(per_cpu) * count if per_cpu else 0) or None,
            # `a100:4` or `4`; in other notations (per job, per task) only the node knows.
            gpus=int(gpus.split(":")[-1]) if gpus and gpus.split(":")[-1].isdigit() else None,
            het_group=het_group,
        )
        for name, count in zip(nodes, cpus, strict=True)
    ]


def expand_hosts(text: str) -> list[str]:
    """The names in SLURM's short form: `n[1-2,07],gpu1` → n1, n2, n07, gpu1.

    Raises:
        AllocationError: brackets that do not match or a range that is none.
    """
    names: list[str] = []
    for word in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        expanded = [""]
        for part in re.findall(r"\[[^\]]*\]|[^\[\]]+", word):
            ends = _expand_brackets(part[1:-1], text) if part.startswith("[") else [part]
            expanded = [start + end for start in expanded for end in ends]
        names += expanded
    if not names or text.count("[") != text.count("]"):
        raise AllocationError(f"cannot read the node list {text!r}")
    return names


def _expand_brackets(inside: str, whole: str) -> list[str]:
    found: list[str] = []
    for item in inside.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if not match:
            raise AllocationError(f"cannot read the node list {whole!r}")
        first, last = match[1], match[2] or match[1]
        found += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return found


def expand_counts(text: str) -> list[int]:
    """SLURM's run-length form: `4(x3),2` → 4, 4, 4, 2."""
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if not match:
            raise AllocationError(f"cannot read the counts {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _expand_roles(roles: Sequence[str], nodes: int) -> list[str | None]:
    given: list[str | None] = []
    for item in roles:
        name, _, count = item.partition(":")
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", name) or not (count or "1").isdigit():
            raise AllocationError(f"--roles {item}: write NAME or NAME:COUNT, as in train:2 rollout:4")
        given += [name] * int(count or 1)
    if len(given) > nodes:
        raise AllocationError(f"--roles names {len(given)} nodes, but the job has {nodes}")
    return given + [None] * (nodes - len(given))
