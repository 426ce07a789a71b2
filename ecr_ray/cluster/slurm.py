"""A job on a Ray cluster of its own inside a SLURM job. `slurm_ray_start.sh` hands over to this.

One agent (node.py) runs on every node, started by one `srun` for the head and one for all workers. The bootstrap
speaks to the agents through those sruns' pipes (control.py), so that neither a network port nor the timing of a
shared file system is trusted, and a bootstrap that is killed takes everything with it.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecr_ray import cli, config
from ecr_ray.cluster import allocation, layout
from ecr_ray.cluster.allocation import Allocation
from ecr_ray.cluster.control import Cluster, ClusterError, Journal, NodeLostError, write_private
from ecr_ray.cluster.node import adopt_orphans, end_with_parent, kill_descendants
from ecr_ray.config import ClusterConfig
from ecr_ray.errors import UserError

# As sysexits.h has it: not done, try again.
EXIT_REQUEUE = 75
DRIVER_END_S = 5.0
REQUEUE_S = 60.0


class Interrupted(Exception):
    """SLURM or a person wants this to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Run:
    """One start of one job: the cluster, the job's driver on its head, and what SLURM says meanwhile."""

    def __init__(self, given: Allocation, settings: ClusterConfig, job: Sequence[str]) -> None:
        self.given = given
        self.settings = settings
        self.job = job
        self.directory = run_directory(settings, given, os.environ)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.journal = Journal(given.run_id, self.directory / "bootstrap.jsonl")
        self.cluster = Cluster(given, settings, self.directory, self.journal)
        self._signals: asyncio.Queue[int] = asyncio.Queue()
        self._requeue = False

    async def run(self) -> int:
        """Bring the cluster up, run the job, take the cluster down; the exit code of it all."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        code = 1
        try:
            await self._up()
            code = await self._drive() if self.job else await self._stay()
        except Interrupted as reason:
            self.journal.say(f"ending on {reason}")
            code = reason.exit_code
        except UserError as error:
            self.journal.say(f"error: {error}", level="error")
            code = error.exit_code
        finally:
            await self._down(failed=code not in (0, cli.EXIT_PARTIAL))
        return await self._start_over(code) if self._requeue else code

    async def _up(self) -> None:
        started = time.monotonic()
        hosts = self.given.hosts
        self.journal.say(f"run {self.given.run_id}: Ray on {len(hosts)} node(s), head {self.given.head.name}")
        up = asyncio.create_task(self.cluster.up())
        await self._first(up)
        if not up.done():
            up.cancel()
            number = self._signals.get_nowait()
            if number == signal.SIGUSR1:
                raise ClusterError(
                    "SLURM announces the time limit before the cluster is up: ask for more --time, or for an "
                    "announcement closer to the end than --signal=B:USR1@120"
                )
            raise Interrupted(number)
        up.result()
        description = json.dumps(self.cluster.describe(), indent=1)
        write_private(self.directory / "cluster.json", description)
        self.journal.say(f"all {len(hosts)} node(s) up after {time.monotonic() - started:.1f} s")

    async def _first(self, *others: Awaitable[Any]) -> None:
        """Wait for one of these or a signal; the signal stays in the queue."""
        signals = asyncio.create_task(self._signals.get())
        await asyncio.wait([signals, *others], return_when=asyncio.FIRST_COMPLETED)
        if signals.done():
            self._signals.put_nowait(signals.result())
        signals.cancel()

    async def _stay(self) -> int:
        """Without a job: say how to attach, and keep the cluster until SLURM ends it."""
        print(layout.attach_text(self.cluster.describe(), sys.executable), flush=True)
        await self._first(self.cluster.fatal)
        if self.cluster.fatal.done():
            raise NodeLostError(self.cluster.fatal.result())
        raise Interrupted(self._signals.get_nowait())

    # --- the job ------------------------------------------------------------------------------------------

    async def _drive(self) -> int:
        """Run the job's driver; its exit code, as a shell would give it."""
        driver = await asyncio.create_subprocess_exec(
            *self._driver_command(),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._driver_env(),
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        ended = asyncio.create_task(driver.wait())
        try:
            await self._first(ended, self.cluster.fatal)
            if not ended.done() and not self.cluster.fatal.done():
                number = self._signals.get_nowait()
                if number != signal.SIGUSR1:
                    raise Interrupted(number)
                await self._preempt(driver, ended)
        finally:
            await self._end_driver(driver, ended)
        if self.cluster.fatal.done():
            raise NodeLostError(self.cluster.fatal.result())
        code = ended.result()
        self.journal.say(f"the job ended with code {code}" if code >= 0 else f"the job died of signal {-code}")
        return code if code >= 0 else 128 - code

    def _driver_command(self) -> list[str]:
        words = [sys.executable, *self.job] if self.job[0].endswith(".py") else list(self.job)
        if os.environ.get("SLURMD_NODENAME") == self.given.head.name:
            return words
        # Inside `salloc` this process is on the submit host, where there is no Ray.
        return layout.srun([self.given.head], words)

    def _driver_env(self) -> dict[str, str]:
        env = {**os.environ, **self.cluster.env, "PYTHONUNBUFFERED": "1", "ECR_RUN_DIR": str(self.directory)}
        temporary = Path(layout.temp_dir(self.settings.temp_dir, self.given.run_id)) / "tmp"
        # What the driver leaves in its temporary directory goes with the cluster's.
        return env | ({"TMPDIR": str(temporary)} if temporary.is_dir() else {})

    async def _preempt(self, driver: asyncio.subprocess.Process, ended: asyncio.Task) -> None:
        """The time limit is near: let the job save what it has, then have it started over.

        Ray is told that its nodes will go (Train hands that to the training loop). A driver that handles SIGUSR1
        gets it; any driver has `checkpoint_grace_s` to end by itself.
        """
        grace = self.settings.checkpoint_grace_s
        self.journal.say(f"SLURM says that time is nearly up: the job has {grace:.0f} s to save its state")
        self._requeue = True
        await self.cluster.drain(int(grace))
        if catches(driver.pid, signal.SIGUSR1):
            driver.send_signal(signal.SIGUSR1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._first(ended, self.cluster.fatal)
        # A job that got everything done needs no other start.
        if ended.done() and ended.result() in (0, cli.EXIT_PARTIAL):
            self._requeue = False
        elif not self._signals.empty():
            self._requeue = False
            raise Interrupted(self._signals.get_nowait())

    async def _end_driver(self, driver: asyncio.subprocess.Process, ended: asyncio.Task) -> None:
        """End the driver, if it has not ended, and all that it has started."""
        if not ended.done():
            driver.terminate()
            await asyncio.wait([ended], timeout=DRIVER_END_S)
        await asyncio.to_thread(kill_descendants, self.cluster.srun_pids())
        await ended

    # --- the end ------------------------------------------------------------------------------------------

    async def _down(self, *, failed: bool) -> None:
        started = time.monotonic()
        (self.directory / "cluster.json").unlink(missing_ok=True)
        await self.cluster.down(failed=failed)
        self.journal.say(f"down after {time.monotonic() - started:.1f} s; logs of the nodes: {self.directory}/logs")

    async def _start_over(self, code: int) -> int:
        """Ask SLURM to queue this job again; it then ends this process."""
        if self.given.restarts >= self.settings.max_requeues:
            self.journal.say(f"not requeued: this was start {self.given.restarts + 1} (--max-requeues)", level="error")
            return EXIT_REQUEUE
        self.journal.say(f"not done yet (code {code}): SLURM is asked to start the job over")
        process = await asyncio.create_subprocess_exec(
            "scontrol", "requeue", str(self.given.job_id), stderr=asyncio.subprocess.PIPE
        )
        _, answer = await process.communicate()
        if process.returncode:
            self.journal.say(f"SLURM does not requeue it: {answer.decode().strip()}; submit it again", level="error")
            return EXIT_REQUEUE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REQUEUE_S):
                await self._signals.get()
        return EXIT_REQUEUE


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def run_directory(settings: ClusterConfig, given: Allocation, env: Mapping[str, str]) -> Path:
    """Where this start of the job keeps its token, its journal and the nodes' logs."""
    return Path(env.get("SLURM_SUBMIT_DIR", ".")).joinpath(settings.run_dir, given.run_id).absolute()


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The bootstrap's own options, and the job: from the first word that ends in .py, or what follows `--`."""
    words = list(arguments)
    for number, word in enumerate(words):
        if word == "--":
            return words[:number], words[number + 1 :]
        if word.endswith(".py"):
            return words[:number], words[number:]
    return words, []


def check_job(job: Sequence[str], directory: Path) -> None:
    """Refuse a job that cannot be started, before anything is.

    Raises:
        UserError: there is no such file.
    """
    if job and job[0].endswith(".py") and not (directory / job[0]).is_file():
        raise UserError(f"there is no job file {job[0]} in {directory}")


def dry_run(given: Allocation, settings: ClusterConfig, job: Sequence[str]) -> str:
    """What would be started in this allocation, as text."""
    ports = next(layout.port_blocks(given.job_id, *layout.parse_range(settings.ports)))
    temp = layout.temp_dir(settings.temp_dir, given.run_id)
    lines = [f"run {given.run_id}, in {run_directory(settings, given, os.environ)}; on every node below {temp}", ""]
    lines.append(f"{'node':<16} {'CPUs':>5} {'memory':>10} {'GPUs':>8}  role")
    for host in given.hosts:
        memory = f"{host.memory_mib} MiB" if host.memory_mib else "all"
        gpus = "by SLURM" if host.gpus is None else host.gpus
        lines.append(f"{host.name:<16} {host.cpus:>5} {memory:>10} {gpus:>8}  {host.role or '-'}")
    lines += ["", "agents:"]
    lines += [
        f"  {layout.show(layout.srun(hosts, [sys.executable, '-m', 'ecr_ray.cluster.node']))}"
        for hosts in given.steps()
    ]
    lines += ["", "Ray, by the agents (ports: the job's first choice):"]
    for host in given.hosts:
        head = None if host == given.head else f"{given.head.name}:{ports.gcs}"
        store = layout.object_store_bytes(
            (host.memory_mib or 4096) * layout.MIB, shutil.disk_usage("/dev/shm").free, settings.object_store_gib
        )
        plan = layout.NodePlan(
            host, host.name, ports, temp, host.gpus or 0, store, layout.labels(host, given.run_id), head
        )
        lines.append(f"  {host.name}: {layout.show(['ray', *plan.ray_start()])}")
    lines += ["", f"job: {layout.show([sys.executable, *job]) if job else 'none; the cluster stays up until scancel'}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    own, job = split_arguments(sys.argv[1:] if arguments is None else arguments)
    settings = config.load(ClusterConfig, "cluster", own, prog="slurm_ray_start.sh")
    given = allocation.from_env(os.environ, settings.roles)
    layout.temp_dir(settings.temp_dir, given.run_id)
    layout.parse_range(settings.ports)
    if settings.dry_run:
        print(dry_run(given, settings, job))
        return 0
    check_job(job, Path.cwd())
    adopt_orphans()

    async def run() -> int:
        return await Run(given, settings, job).run()

    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(cli.run(main))
