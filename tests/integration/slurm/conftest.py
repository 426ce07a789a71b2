"""One local SLURM for all tests here, and what they ask of it."""

import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.slurm import local_slurm
from tests.integration.slurm.local_slurm import LocalSlurm, until

SCRIPT = ROOT / "slurm_ray_start.sh"

# Prints where its tasks ran and what its cluster is made of; then does what a test asks for.
JOB = """
import os, sys, time
import ray
from ecr_ray.cluster import connect

print(connect.connect(), flush=True)

@ray.remote(num_cpus=1)
def name():
    return os.environ["SLURMD_NODENAME"]

nodes = [n for n in ray.nodes() if n["Alive"]]
on = [ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(n["NodeID"], soft=False) for n in nodes]
print("ran on:", *sorted(ray.get([name.options(scheduling_strategy=s).remote() for s in on])), flush=True)
print("resources:", {k: ray.cluster_resources().get(k) for k in ("CPU", "GPU")}, flush=True)
print("labels:", sorted((n["Labels"]["slurm-node"], n["Labels"].get("role")) for n in nodes), flush=True)
print("driver:", os.getpid(), flush=True)
"""


class Bench:
    """A directory that all nodes share, and the ways in which tests use SLURM from it."""

    def __init__(self, slurm: LocalSlurm, directory: Path) -> None:
        self.slurm = slurm
        self.directory = directory
        directory.mkdir()

    def job(self, more: str = "", name: str = "job.py") -> str:
        """Write a job file that goes on with `more`."""
        (self.directory / name).write_text(JOB + more)
        return name

    def submit(self, *words, nodes=3, sbatch=(), env=None) -> str:
        """sbatch slurm_ray_start.sh WORDS."""
        options = [f"--nodes={nodes}", "--mem=3000", "--output=slurm-%j.out", *sbatch]
        environment = {"ECR_PYTHON": sys.executable, **(env or {})}
        return self.slurm.sbatch(*options, str(SCRIPT), *map(str, words), cwd=self.directory, env=environment)

    def output(self, job_id: str) -> str:
        """What the job has printed so far."""
        file = self.directory / f"slurm-{job_id}.out"
        return file.read_text() if file.exists() else ""

    def wait_for(self, job_id: str, text: str, seconds: float = 90) -> str:
        """Wait until the job has printed something; all it has printed."""
        until(
            lambda: text in self.output(job_id) or self.slurm.job(job_id)["JobState"] in local_slurm.DONE,
            seconds,
            lambda: f"{text!r} in:\n{self.output(job_id)}",
        )
        assert text in self.output(job_id), self.output(job_id)
        return self.output(job_id)

    def finish(self, job_id: str, seconds: float = 120) -> tuple[str, int]:
        """Wait for the job's end: its state, and the exit code of the batch script."""
        found = self.slurm.wait(job_id, seconds)
        return found["JobState"], int(found["ExitCode"].split(":")[0])

    def leftovers(self) -> dict[str, list[str]]:
        """What is left on the nodes that no job should leave: processes, temporary directories, shared memory."""
        found = {}
        for name in self.slurm.names:
            left = [line for line in self.slurm.processes(name).values() if "slurmstepd" not in line]
            left += [str(p) for p in self.slurm.tmp(name).iterdir() if p.name.startswith(("ecr-ray", "ray", "pymp"))]
            left += self.slurm.enter(name, "ls", "/dev/shm").stdout.split()
            if left:
                found[name] = left
        return found

    def assert_clean(self, seconds: float = 15) -> None:
        """Nothing is left, soon after the end of the jobs."""
        end = time.monotonic() + seconds
        while self.leftovers() and time.monotonic() < end:
            time.sleep(0.2)
        assert self.leftovers() == {}


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """The daemons: three nodes of four CPUs and two GPUs that are none."""
    problem = local_slurm.missing()
    if problem:
        pytest.skip(problem)
    slurm = LocalSlurm(Path(tmp_path_factory.mktemp("slurm")), gpus=2)
    for parent in slurm.directory.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def bench(local, request):
    """A directory of the test's own. After the test no job is left running, and all nodes are back."""
    place = Bench(local, local.directory / request.node.name)
    yield place
    local.command("scancel", "--user=root", "--quiet", check=False)
    # A job ends only when all its nodes say that it has.
    for name in set(local.names) - local.up:
        local.power_on(name)
    until(lambda: not local.command("squeue", "--noheader").strip(), 60, "the end of all jobs")
    local.wait_idle()
