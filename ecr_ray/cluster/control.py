"""The nodes of a SLURM job as its bootstrap sees them: agents started, told, heard, watched and ended."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from ecr_ray.cluster import layout
from ecr_ray.cluster.allocation import Allocation, Host
from ecr_ray.config import ClusterConfig
from ecr_ray.errors import UserError

# Beside the exit codes of the job itself; as sysexits.h numbers them.
EXIT_NO_CLUSTER, EXIT_NODE_LOST = 69, 70
SRUN_END_S = 5.0


class ClusterError(UserError):
    """No cluster came up."""

    exit_code = EXIT_NO_CLUSTER


class NodeLostError(UserError):
    """A node went away under a running cluster."""

    exit_code = EXIT_NODE_LOST


class Journal:
    """What happens, for people on standard output and as JSON lines in the run directory."""

    def __init__(self, run_id: str, path: Path) -> None:
        self._run_id = run_id
        self._file = path.open("a")

    def say(self, text: str, node: str | None = None, level: str = "info") -> None:
        """Write one line to both."""
        now = time.time()
        clock = time.strftime("%H:%M:%S", time.localtime(now))
        where = f" {node}" if node else ""
        print(f"[{clock}{where}] {text}", flush=True)
        entry = {"time": round(now, 3), "run_id": self._run_id, "node": node, "level": level, "message": text}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


class Cluster:
    """The nodes of one job as the bootstrap sees them."""

    def __init__(self, given: Allocation, settings: ClusterConfig, directory: Path, journal: Journal) -> None:
        self.given = given
        self.settings = settings
        self.directory = directory
        self.journal = journal
        self.address = self.dashboard = ""
        self.token_file = directory / "token"
        self.lost: dict[str, str] = {}
        self.fatal: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._steps: list[asyncio.subprocess.Process] = []
        self._tasks: list[asyncio.Task] = []
        self._facts: dict[str, dict[str, Any]] = {}
        self._members: dict[str, tuple[str, str]] = {}
        self._joined: set[str] = set()
        self._gone: set[str] = set()
        self._heard: dict[str, float] = {}
        self._changed = asyncio.Condition()
        self._ended = 0
        self._is_up = self._stopping = False

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to be part of this cluster."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            # Half a minute of draining would outlast the time that SLURM gives.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray would start a Python worker a CPU when the first driver comes: on a node of a hundred CPUs a hundred
            # imports from the shared file system, for workers that our few, long-lived actors have no use for.
            "RAY_prestart_worker_first_driver": "0",
            "ECR_RUN_ID": self.given.run_id,
            **({"RAY_ADDRESS": self.address} if self.address else {}),
        }

    # --- up -----------------------------------------------------------------------------------------------

    async def up(self) -> None:
        """Start an agent on every node, compare them, start Ray, and wait until every node is a member.

        Raises:
            ClusterError: naming the node and what is wrong with it.
        """
        canary = secrets.token_hex(8)
        write_private(self.token_file, secrets.token_hex(32))
        (self.directory / "nodes").mkdir(exist_ok=True)
        (self.directory / "canary").write_text(canary)
        async with self._deadline("answer srun", lambda: self._facts):
            for hosts in self.given.steps():
                await self._start_step(hosts, canary)
            await self._until(lambda: len(self._facts) == len(self.given.hosts))
        check_same_versions({name: facts["versions"] for name, facts in self._facts.items()})
        self._check_written(canary)
        self._tasks.append(asyncio.create_task(self._watch_silence()))
        async with self._deadline("join", lambda: self._joined):
            head = self.given.head.name
            self._tell({"do": "head", "seconds": self.settings.start_timeout_s}, [head])
            # Not before: Ray on a worker that finds no registered head sleeps two seconds between two looks.
            await self._until(lambda: head in self._joined)
            workers = [host.name for host in self.given.hosts[1:]]
            self._tell({"do": "join", "address": self.address, "seconds": self.settings.start_timeout_s}, workers)
            await self._until(lambda: len(self._joined) == len(self.given.hosts))
        self._is_up = True

    @contextlib.asynccontextmanager
    async def _deadline(self, what: str, there: Callable[[], Collection[str]]) -> AsyncIterator[None]:
        """The body ends in time, or ClusterError names the nodes that it waits for."""
        seconds = self.settings.start_timeout_s
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            late = [host.name for host in self.given.hosts if host.name not in there()]
            raise ClusterError(f"{', '.join(late)} did not {what} within {seconds:.0f} s (--start-timeout-s)") from None

    async def _until(self, true: Callable[[], object]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.fatal.done() or true())
        if self.fatal.done():
            raise ClusterError(self.fatal.result())

    async def _start_step(self, hosts: Sequence[Host], canary: str) -> None:
        words = layout.srun(hosts, [sys.executable, "-m", "ecr_ray.cluster.node"])
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=2**20,
                env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
                # Ctrl-C at a terminal is for us to handle.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ClusterError("srun is not in PATH on this node: is this a SLURM job?") from None
        self._steps.append(process)
        heard = [
            asyncio.create_task(self._hear(process.stdout, hosts)),
            asyncio.create_task(self._hear_errors(process.stderr, hosts)),
        ]
        self._tasks += [*heard, asyncio.create_task(self._await_step(process, heard, hosts))]
        process.stdin.write((json.dumps(self._order(canary)) + "\n").encode())

    def _order(self, canary: str) -> dict[str, Any]:
        settings = self.settings
        return {
            "job_id": self.given.job_id,
            "run_id": self.given.run_id,
            "hosts": {host.name: asdict(host) for host in self.given.hosts},
            "run_dir": str(self.directory),
            "canary": canary,
            "temp_dir": layout.temp_dir(settings.temp_dir, self.given.run_id),
            "token_file": str(self.token_file),
            "interface": settings.interface,
            "ports": layout.parse_range(settings.ports),
            "object_store_gib": settings.object_store_gib,
            "dashboard_host": settings.dashboard_host,
            "env": self.env,
        }

    def _check_written(self, canary: str) -> None:
        for host in self.given.hosts:
            marker = self.directory / "nodes" / host.name
            if not marker.is_file() or marker.read_text() != canary:
                raise ClusterError(
                    f"{self.directory} of {host.name} is not the one of {self.given.head.name}, although both have "
                    "one: give a --run-dir on a file system that all nodes share"
                )

    # --- hearing and telling ------------------------------------------------------------------------------

    def _tell(self, command: Mapping[str, Any], to: Sequence[str]) -> None:
        line = (json.dumps({**command, "to": list(to)}) + "\n").encode()
        for process in self._steps:
            if process.returncode is None and not process.stdin.is_closing():
                process.stdin.write(line)

    async def _hear(self, stream: asyncio.StreamReader, hosts: Sequence[Host]) -> None:
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip()
            try:
                event = json.loads(text)
                node, kind = event.pop("node"), event.pop("event")
            except (ValueError, KeyError, AttributeError, TypeError):
                if text:
                    self.journal.say(text, ",".join(host.name for host in hosts))
                continue
            self._heard[node] = time.monotonic()
            async with self._changed:
                self._take(node, kind, event)
                self._changed.notify_all()

    def _take(self, node: str, kind: str, event: dict[str, Any]) -> None:
        if kind == "hello":
            self._facts[node] = event
        elif kind == "head":
            self.address, self.dashboard = event["address"], event["dashboard"]
        elif kind == "joined":
            self._joined.add(node)
            self.journal.say("joined", node)
        elif kind == "member":
            self._members[event["ip"]] = (event["state"], event["node_id"])
            self._take_member(event["ip"], event["state"])
        elif kind == "failed":
            self._lose(node, event["reason"])
        elif kind == "gone":
            self._gone.add(node)
            if not event["clean"]:
                self.journal.say("its temporary directory could not be removed", node, "error")
        elif kind in ("log", "note"):
            self.journal.say(event["text"], node, "error" if kind == "log" else "info")
        elif kind == "drained":
            if event["code"]:
                self.journal.say(f"Ray could not be told that the node will go (code {event['code']})", node, "error")
        elif kind == "ray":
            self.journal.say(f"starting Ray on ports {event['ports']}", node)

    def _take_member(self, ip: str, state: str) -> None:
        name = next((name for name, facts in self._facts.items() if facts["ip"] == ip), None)
        if name is not None and state == "DEAD":
            self._lose(name, "Ray counts it as dead")

    async def _hear_errors(self, stream: asyncio.StreamReader, hosts: Sequence[Host]) -> None:
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip()
            if text and not (self._stopping and text.startswith(("srun:", "slurmstepd"))):
                self.journal.say(text, ",".join(host.name for host in hosts), "error")

    async def _await_step(
        self, process: asyncio.subprocess.Process, heard: Sequence[asyncio.Task], hosts: Sequence[Host]
    ) -> None:
        # What its nodes still had to say comes first.
        await asyncio.gather(*heard)
        code = await process.wait()
        async with self._changed:
            self._ended += 1
            for host in hosts:
                if host.name not in self._gone:
                    self._lose(host.name, f"its srun ended with code {code}")
            self._changed.notify_all()

    async def _watch_silence(self) -> None:
        """A node whose power fails says nothing: after a while that means that it is gone."""
        allowed = self.settings.silence_timeout_s
        while True:
            await asyncio.sleep(allowed / 10)
            now = time.monotonic()
            async with self._changed:
                for host in self.given.hosts:
                    if now - self._heard[host.name] > allowed:
                        self._lose(host.name, f"no sign of life for {allowed:.0f} s")
                self._changed.notify_all()

    def _lose(self, node: str, reason: str) -> None:
        """Note that a node is out, and whether that ends everything."""
        if self._stopping or node in self.lost:
            return
        self.lost[node] = reason
        carry_on = self._is_up and self.settings.on_node_loss == "continue" and node != self.given.head.name
        text = f"node {node} is lost: {reason}" if self._is_up else f"node {node}: {reason}"
        self.journal.say(text + ("; going on without it (--on-node-loss continue)" if carry_on else ""), node, "error")
        if not carry_on and not self.fatal.done():
            self.fatal.set_result(text)

    def srun_pids(self) -> set[int]:
        """The processes of ours that hold the agents."""
        found: set[int] = set()
        for process in self._steps:
            with contextlib.suppress(psutil.Error):
                srun = psutil.Process(process.pid)
                # srun forks a helper that looks after it.
                found |= {srun.pid, *(child.pid for child in srun.children(recursive=True))}
        return found

    # --- down ---------------------------------------------------------------------------------------------

    async def drain(self, seconds: int) -> None:
        """Tell Ray on every node that the node will be gone in so many seconds."""
        ids = {ip: node_id for ip, (_, node_id) in self._members.items()}
        names = [host.name for host in self.given.hosts if host.name not in self.lost]
        self._tell({"do": "drain", "address": self.address, "node_ids": ids, "seconds": seconds}, names)

    async def down(self, *, failed: bool) -> None:
        """End Ray on every node and the agents with it; `failed` has them show what their logs say."""
        self._stopping = True
        self._tell({"do": "stop", "failed": failed}, [host.name for host in self.given.hosts])
        for process in self._steps:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.close()
        expected = {host.name for host in self.given.hosts} - set(self.lost)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.stop_timeout_s), self._changed:
                await self._changed.wait_for(lambda: expected <= self._gone or self._ended == len(self._steps))
        for node in sorted(expected - self._gone):
            self.journal.say("did not say that it has tidied up", node, "error")
        await self._end_steps()
        self.token_file.unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()

    async def _end_steps(self) -> None:
        """Let the sruns end; those that hang on a node that is no more are ended."""
        for send in (None, signal.SIGTERM, signal.SIGKILL):
            left = [process for process in self._steps if process.returncode is None]
            for process in left if send else []:
                process.send_signal(send)
            # A node that is gone keeps its srun waiting for minutes.
            patience = 0.5 if self.lost else SRUN_END_S
            if left:
                await asyncio.wait([asyncio.create_task(process.wait()) for process in left], timeout=patience)

    def describe(self) -> dict[str, Any]:
        """What cluster.json says: all that a job or a person needs in order to join."""
        nodes = [
            {**asdict(host), "ip": self._facts[host.name]["ip"], "gpus": self._facts[host.name]["gpus"]}
            for host in self.given.hosts
        ]
        return {
            "run_id": self.given.run_id,
            "job_id": self.given.job_id,
            "address": self.address,
            "dashboard": f"http://{self.dashboard}",
            "token_file": str(self.token_file),
            "directory": str(self.directory),
            "versions": self._facts[self.given.head.name]["versions"],
            "nodes": nodes,
        }


def check_same_versions(found: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse nodes that would run something else than the first.

    Raises:
        ClusterError: naming the node, the package and both versions.
    """
    (first, expected), *others = found.items()
    for node, versions in others:
        for name in sorted({*expected, *versions}):
            ours, theirs = expected.get(name, "none"), versions.get(name, "none")
            if ours != theirs:
                raise ClusterError(
                    f"{node} has {name} {theirs}, but {first} has {name} {ours}: use one environment on a file system "
                    "that all nodes share, or install the same versions everywhere"
                )


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read, not even for a moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
