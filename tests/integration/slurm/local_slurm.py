"""A real SLURM of several nodes on this machine, thrown away afterwards. Needs root and Debian's packages.

Every node is one slurmd in namespaces of its own: its own address, host name, process table, /tmp and /dev/shm.
Whatever lies below the cluster's directory (and the checkout) is shared by all nodes, like a home directory is.
Ending a node's first process ends everything on it at once: a power cut.

    sudo python -m tests.integration.slurm.local_slurm up      # prints what to export; Ctrl-C ends it
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2", "util-linux")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "ip", "unshare", "nsenter", "mount")
NETWORK = "10.98.7"
BRIDGE = "ecrslurm"
CONTROLLER = f"{NETWORK}.254"
DONE = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "PREEMPTED",
    "DEADLINE",
}


def missing() -> str | None:
    """Why there can be no local SLURM here, or None."""
    if os.geteuid() != 0:
        return "a local SLURM needs root (namespaces, a bridge)"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"a local SLURM needs {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}"
    return None


class LocalSlurm:
    """slurmctld and munged beside `nodes` slurmds. `cpus`, `memory_mb` and `gpus` are what each node claims."""

    def __init__(self, directory: Path, *, nodes: int = 3, cpus: int = 4, memory_mb: int = 6000, gpus: int = 0) -> None:
        self.directory = directory.resolve()
        self.names = [f"n{i}" for i in range(1, nodes + 1)]
        self.cpus, self.memory_mb, self.gpus = cpus, memory_mb, gpus
        self.host = os.uname().nodename.split(".")[0]
        self._daemons: list[subprocess.Popen] = []
        self._nodes: dict[str, subprocess.Popen] = {}

    @property
    def env(self) -> dict[str, str]:
        """The environment in which sbatch, srun and the others talk to this SLURM."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    @property
    def up(self) -> set[str]:
        """The nodes that have power."""
        return set(self._nodes)

    # --- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up and return when all nodes are idle.

        Raises:
            RuntimeError: another local SLURM is running on this machine.
        """
        self._lock = open("/run/lock/ecr-local-slurm", "w")  # noqa: SIM115 (held as long as this lives)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("another local SLURM is running on this machine") from None
        for name in ("log", "state", "munge", "dev"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        self._write_configuration()
        self._network()
        munge = self.directory / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        munge.chmod(0o711)
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            *(f"--{what}-file={munge / what}" for what in ("key", "pid", "log", "seed")),
            f"--socket={munge / 'socket'}",
        )
        until(lambda: (munge / "socket").exists(), 10, "munged")
        self._daemon("slurmctld", "-D", "-c")
        for name in self.names:
            self.power_on(name)
        self.wait_idle()

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until every node takes jobs and has none."""
        until(lambda: self.states() == {"idle": len(self.names)}, seconds, "all nodes idle")

    def states(self) -> dict[str, int]:
        """How many nodes are in which state."""
        answer = self.command("sinfo", "-h", "-N", "-o", "%T", check=False).split()
        return {state: answer.count(state) for state in set(answer)}

    def stop(self) -> None:
        """End every process that was started here, and the network."""
        for name in list(self._nodes):
            self.power_off(name)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._remove_network()
        self._lock.close()

    def power_on(self, name: str) -> None:
        """Start a node."""
        run("ip", "netns", "exec", f"ecr-{name}", "ip", "link", "set", "eth0", "up")
        inside = [sys.executable, str(Path(__file__)), "node", name, str(self.directory)]
        inside += [str(path) for path in self._shared()]
        namespaces = ["unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.directory / "log" / f"{name}.out").open("ab") as log:
            self._nodes[name] = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/ecr-{name}", *namespaces, *inside],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._clean_env(),
            )

    def power_off(self, name: str) -> None:
        """Cut a node's power: the line goes dead first, so that nobody is told."""
        run("ip", "netns", "exec", f"ecr-{name}", "ip", "link", "set", "eth0", "down", check=False)
        process = self._nodes.pop(name)
        process.kill()
        process.wait()

    # --- use ----------------------------------------------------------------------------------------------

    def command(self, *words: str, check: bool = True, cwd: Path | None = None, env: dict | None = None) -> str:
        """Run a SLURM command on the submit host and return what it prints."""
        environment = {**self._clean_env(), **(env or {})}
        answer = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=cwd, timeout=60)
        if check and answer.returncode:
            raise RuntimeError(f"{' '.join(words)}: {answer.stderr or answer.stdout}")
        return answer.stdout

    def sbatch(self, *words: str, cwd: Path, env: dict | None = None) -> str:
        """Submit a job and return its id."""
        return self.command("sbatch", "--parsable", *words, cwd=cwd, env=env).strip().split(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        text = self.command("scontrol", "show", "job", "-o", job_id)
        return dict(re.findall(r"(\w[\w:]*)=(\S*)", text.splitlines()[0]))

    def wait(self, job_id: str, seconds: float) -> dict[str, str]:
        """Wait until a job has ended, its nodes are released, and return what SLURM says of it.

        `sbatch --wait` would ask only every so often and add half a minute.
        """
        until(lambda: self.job(job_id)["JobState"] in DONE, seconds, lambda: f"the end of job: {self.job(job_id)}")
        return self.job(job_id)

    def processes(self, name: str) -> dict[int, str]:
        """The command lines of a node's processes (by their pid on the host), but for its slurmd and init."""
        first = self._first_pid(name)
        space = os.readlink(f"/proc/{first}/ns/pid")
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "ns/pid") != space or int(entry.name) == first:
                    continue
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                comm = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if line and comm != "slurmd":
                found[int(entry.name)] = line
        return found

    def tmp(self, name: str) -> Path:
        """A node's own /tmp, seen from the host."""
        return self.directory / "nodes" / name / "tmp"

    def enter(self, name: str, *words: str, timeout: float = 60) -> subprocess.CompletedProcess:
        """Run a command on a node, as somebody logged in there would."""
        return subprocess.run(
            ["nsenter", "-t", str(self._first_pid(name)), "-a", *words],
            capture_output=True,
            text=True,
            env=self._clean_env(),
            timeout=timeout,
        )

    @contextlib.contextmanager
    def hold(self, name: str, *words: str) -> Iterator[None]:
        """Have something running on a node meanwhile."""
        command = ["nsenter", "-t", str(self._first_pid(name)), "-a", *words]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=self._clean_env())
        try:
            yield
        finally:
            # nsenter has forked, in order to be in the node's process table.
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.wait()

    # --- parts --------------------------------------------------------------------------------------------

    def _first_pid(self, name: str) -> int:
        outer = self._nodes[name].pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _clean_env(self) -> dict[str, str]:
        """No SLURM or Ray variables of whoever started the tests."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "RAY_", "ECR_"))}
        return {**kept, **self.env}

    def _daemon(self, *words: str) -> None:
        with (self.directory / "log" / f"{words[0]}.out").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=self._clean_env(),
                )
            )

    def _shared(self) -> list[Path]:
        """Directories below /tmp that every node must see although it has a /tmp of its own."""
        wanted = {self.directory, ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
        below = sorted(path for path in wanted if path.is_relative_to("/tmp"))
        return [path for path in below if not any(path != other and path.is_relative_to(other) for other in below)]

    def _network(self) -> None:
        self._remove_network()  # of one that was killed
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{CONTROLLER}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # Where bridged traffic is shown to the firewall, a container host's rules would drop it.
        firewall = Path(f"/sys/class/net/{BRIDGE}/bridge/nf_call_iptables")
        if firewall.exists():
            firewall.write_text("0")
        for number, name in enumerate(self.names, 1):
            space = f"ecr-{name}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", f"ecrv{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", f"ecrv{number}", "master", BRIDGE, "up")
            inside = ("ip", "netns", "exec", space, "ip")
            run(*inside, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            run(*inside, "link", "set", "lo", "up")

    def _remove_network(self) -> None:
        for number, name in enumerate(self.names, 1):
            # Removing a namespace takes effect some time later, removing a cable at once.
            run("ip", "link", "del", f"ecrv{number}", check=False)
            run("ip", "netns", "del", f"ecr-{name}", check=False)
        run("ip", "link", "del", BRIDGE, check=False)

    def _write_configuration(self) -> None:
        d = self.directory
        addresses = {self.host: CONTROLLER} | {n: f"{NETWORK}.{i}" for i, n in enumerate(self.names, 1)}
        (d / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
        )
        # There is no name server behind the bridge, and asking one takes ten seconds.
        (d / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
        gpus = self._make_gpus()
        (d / "cgroup.conf").write_text("CgroupAutomount=no\nCgroupPlugin=cgroup/v1\n")
        settings = {
            "ClusterName": "ecr",
            "SlurmctldHost": f"{self.host}({CONTROLLER})",
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            # A credential that lives for two minutes keeps a requeued job waiting as long.
            "AuthInfo": f"socket={d}/munge/socket,cred_expire=5",
            "SlurmctldPort": 16861,
            "SlurmdPort": 16862,
            "SlurmctldPidFile": d / "slurmctld.pid",
            "SlurmdPidFile": d / "nodes/%n/slurmd.pid",
            "SlurmctldLogFile": d / "log/slurmctld.log",
            "SlurmdLogFile": d / "log/slurmd.%n.log",
            "StateSaveLocation": d / "state",
            "SlurmdSpoolDir": d / "nodes/%n/spool",
            # Tracks by parent, and so forgets daemons: what we leave behind is really left behind.
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SwitchType": "switch/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU_Memory",
            "DefMemPerCPU": self.memory_mb // self.cpus,
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1,requeue_delay=1",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "KillWait": 10,
            "MinJobAge": 3600,
            "SlurmdTimeout": 60,
            "MessageTimeout": 10,
            "CompleteWait": 0,
        }
        if self.gpus:
            settings["GresTypes"] = "gpu"
        lines = [f"{key}={value}" for key, value in settings.items()]
        for number, name in enumerate(self.names, 1):
            size = f"CPUs={self.cpus} RealMemory={self.memory_mb} {gpus}"
            lines.append(f"NodeName={name} NodeHostname={name} NodeAddr={NETWORK}.{number} {size} State=UNKNOWN")
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP")
        (d / "slurm.conf").write_text("\n".join(lines) + "\n")
        for name in self.names:
            (d / "nodes" / name / "spool").mkdir(parents=True, exist_ok=True)

    def _make_gpus(self) -> str:
        """Devices that stand for GPUs, and their configuration; what a node's line says of them."""
        if not self.gpus:
            return ""
        for number in range(self.gpus):  # slurmd takes nothing but devices
            device = self.directory / "dev" / f"gpu{number}"
            device.unlink(missing_ok=True)  # of an earlier one that was killed
            os.mknod(device, 0o20666, os.makedev(1, 3))
        files = f"{self.directory}/dev/gpu[0-{self.gpus - 1}]"
        (self.directory / "gres.conf").write_text(
            f"NodeName=n[1-{len(self.names)}] Name=gpu File={files} Flags=nvidia_gpu_env\n"
        )
        return f"Gres=gpu:{self.gpus}"


def run(*words: str, check: bool = True) -> bool:
    """Run a command that prints nothing of interest; whether it went well."""
    answer = subprocess.run(words, capture_output=True, text=True)
    if check and answer.returncode:
        raise RuntimeError(f"{' '.join(words)}: {answer.stderr}")
    return answer.returncode == 0


def until(true, seconds: float, what) -> None:
    """Wait until `true()`; raise TimeoutError naming `what` (text, or something that makes it) after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what() if callable(what) else what}")
        time.sleep(0.1)


def be_a_node(name: str, directory: Path, shared: list[Path]) -> None:
    """What a node's first process does: a file system view of its own, slurmd, and burying orphans."""
    own = directory / "nodes" / name / "tmp"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    own.chmod(0o1777)
    run("mount", "--make-rprivate", "/")
    for path in shared:
        (own / path.relative_to("/tmp")).mkdir(parents=True)
        run("mount", "--bind", str(path), str(own / path.relative_to("/tmp")))
    run("mount", "--bind", str(directory / "hosts"), "/etc/hosts")
    run("mount", "--bind", str(directory / "nsswitch.conf"), "/etc/nsswitch.conf")
    run("mount", "--rbind", str(own), "/tmp")
    run("mount", "-t", "tmpfs", "-o", "size=1g,mode=1777", "tmpfs", "/dev/shm")
    run("hostname", name)
    os.chdir("/")
    env = {k: os.environ[k] for k in ("PATH", "LANG", "SLURM_CONF") if k in os.environ}
    slurmd = subprocess.Popen(["slurmd", "-D", "-N", name], env=env)
    signal.signal(signal.SIGTERM, lambda *_: slurmd.terminate())
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def main() -> int:
    """The command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring it up and keep it until Ctrl-C")
    up.add_argument("--directory", type=Path, default=Path("/tmp/ecr-slurm"))
    up.add_argument("--nodes", type=int, default=3)
    up.add_argument("--cpus", type=int, default=4)
    up.add_argument("--gpus", type=int, default=0)
    node = commands.add_parser("node")
    node.add_argument("name")
    node.add_argument("directory", type=Path)
    node.add_argument("shared", type=Path, nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "node":
        be_a_node(arguments.name, arguments.directory, arguments.shared)
        return 0
    if problem := missing():
        print(problem, file=sys.stderr)
        return 1
    slurm = LocalSlurm(arguments.directory, nodes=arguments.nodes, cpus=arguments.cpus, gpus=arguments.gpus)
    slurm.start()
    print(f"{json.dumps(slurm.states())}\nexport SLURM_CONF={slurm.env['SLURM_CONF']}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        slurm.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
