"""Prometheus and Grafana over a running Ray cluster, with the machine's own packages and without internet.

`python -m ecr_ray.cluster.watch` writes their configuration, starts those of the two that are installed, and ends
them with itself. Ray lists its metrics ports in a file; Prometheus follows that file, so nodes may come and go.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ecr_ray import cli
from ecr_ray.cluster import boards, connect, layout
from ecr_ray.errors import UserError

RAY_TARGETS = Path("/tmp/ray/prom_metrics_service_discovery.json")
GRAFANA_HOMES = ("/usr/share/grafana", "/opt/grafana", "/usr/local/share/grafana")
END_S = 10.0


@dataclass(frozen=True)
class WatchConfig:
    """Bring up Prometheus and Grafana with this project's boards over a running Ray cluster, until Ctrl-C.

    Both come from the machine's packages (Debian: prometheus; Grafana's own repository: grafana); whichever is
    missing is left out, and its configuration is written all the same.
    """

    targets: str | None = None
    """Ray's list of metrics ports. By default that of the cluster of this SLURM job or of RUNS/slurm/*/, else that
    of the Ray on this machine."""
    directory: str = "runs/watch"
    """Configuration, boards and data go here."""
    prometheus_port: int = 9090
    """Prometheus listens here, on the loopback address."""
    grafana_port: int = 3000
    """Grafana listens here, on the loopback address."""
    interval_s: int = 5
    """Seconds between two looks at every node."""
    write_only: bool = False
    """Write the configuration and stop."""


def find_targets(given: str | None, env: Mapping[str, str], ray: Path = RAY_TARGETS) -> Path:
    """The file in which the metrics ports of the cluster stand.

    Raises:
        UserError: there is none, or several could be meant.
    """
    if given:
        if not Path(given).is_file():
            raise UserError(f"--targets {given}: there is no such file")
        return Path(given).absolute()
    here = connect.slurm_run_directory(env)
    if here is not None and (here / layout.SCRAPE_TARGETS).is_file():
        return (here / layout.SCRAPE_TARGETS).absolute()
    # Only a cluster that is up has a cluster.json.
    runs = sorted(path for path in Path("runs/slurm").glob(f"*/{layout.SCRAPE_TARGETS}") if _is_up(path.parent))
    if len(runs) > 1:
        raise UserError(f"several clusters are up: choose one with --targets {' or '.join(map(str, runs))}")
    if runs:
        return runs[0].absolute()
    if ray.is_file():
        return ray
    raise UserError("no running Ray cluster found: start one, or name its list of metrics ports with --targets")


def _is_up(directory: Path) -> bool:
    return (directory / "cluster.json").is_file()


def write(config: WatchConfig, targets: Path) -> None:
    """Write prometheus.yml, grafana.ini, Grafana's provisioning and the boards into `config.directory`."""
    root = Path(config.directory).absolute()
    provisioning = root / "grafana" / "provisioning"
    for directory in (provisioning / "datasources", provisioning / "dashboards"):
        directory.mkdir(parents=True, exist_ok=True)
    boards.write(root / "grafana" / "boards")
    # JSON is YAML, and needs no quoting rules of its own.
    (root / "prometheus.yml").write_text(json.dumps(prometheus_config(targets, config.interval_s), indent=1) + "\n")
    source = {
        "name": "ecr_ray",
        "uid": "ecr-ray",
        "type": "prometheus",
        "url": f"http://127.0.0.1:{config.prometheus_port}",
        "isDefault": True,
        "jsonData": {"timeInterval": f"{config.interval_s}s"},
    }
    provider = {"name": "ecr_ray", "folder": "ecr_ray", "type": "file", "options": {"path": f"{root}/grafana/boards"}}
    for kind, key, value in (("datasources", "datasources", source), ("dashboards", "providers", provider)):
        content = {"apiVersion": 1, key: [value]}
        (provisioning / kind / "ecr_ray.yaml").write_text(json.dumps(content, indent=1) + "\n")
    (root / "grafana.ini").write_text(_grafana_ini(config, root))


def prometheus_config(targets: Path, interval_s: int) -> dict:
    """A Prometheus configuration that follows Ray's list of metrics ports."""
    interval = f"{interval_s}s"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(targets)]}]}],
    }


def _grafana_ini(config: WatchConfig, root: Path) -> str:
    return f"""\
[server]
http_addr = 127.0.0.1
http_port = {config.grafana_port}
[paths]
data = {root}/grafana/data
logs = {root}/grafana/logs
plugins = {root}/grafana/plugins
provisioning = {root}/grafana/provisioning
[auth.anonymous]
enabled = true
org_role = Viewer
[analytics]
reporting_enabled = false
check_for_updates = false
check_for_plugin_updates = false
"""


def prometheus_command(config: WatchConfig) -> list[str] | None:
    """How Prometheus is started, or None where it is not installed."""
    program = shutil.which("prometheus")
    root = Path(config.directory).absolute()
    return program and [
        program,
        f"--config.file={root}/prometheus.yml",
        f"--storage.tsdb.path={root}/prometheus",
        f"--web.listen-address=127.0.0.1:{config.prometheus_port}",
        "--log.level=warn",
    ]


def grafana_command(config: WatchConfig) -> list[str] | None:
    """How Grafana is started, or None where it is not installed."""
    home = next((home for home in GRAFANA_HOMES if Path(home).is_dir()), None)
    program = [shutil.which("grafana"), "server"] if shutil.which("grafana") else [shutil.which("grafana-server")]
    if home is None or program[0] is None:
        return None
    return [*program, f"--homepath={home}", f"--config={Path(config.directory).absolute()}/grafana.ini"]


@contextlib.contextmanager
def running(commands: Mapping[str, list[str]], logs: Path) -> Iterator[dict[str, subprocess.Popen]]:
    """Start these programs, and end them at the end of the block."""
    started: dict[str, subprocess.Popen] = {}
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("ab") as log:
                started[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        yield started
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> int:
    """Write the configuration, start what is installed, wait for Ctrl-C."""
    import tyro

    config = tyro.cli(WatchConfig, prog="make watch")
    targets = find_targets(config.targets, os.environ)
    write(config, targets)
    print(f"following {targets}\nconfiguration in {config.directory}")
    found = {"prometheus": prometheus_command(config), "grafana": grafana_command(config)}
    for name, command in found.items():
        port = getattr(config, f"{name}_port")
        print(f"{name}: http://127.0.0.1:{port}" if command else f"{name}: {MISSING[name]}", flush=True)
    if config.write_only or not any(found.values()):
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running({name: command for name, command in found.items() if command}, Path(config.directory)) as started:
        while all(process.poll() is None for process in started.values()):
            time.sleep(0.5)
    name = next(name for name, process in started.items() if process.returncode)
    raise UserError(f"{name} has ended by itself: {Path(config.directory)}/{name}.log says why")


MISSING = {
    "prometheus": "not installed (Debian: apt-get install prometheus); start one with --config.file=.../prometheus.yml",
    "grafana": "not installed; import grafana/boards/*.json into the one you have, or start it with grafana.ini",
}

if __name__ == "__main__":
    sys.exit(cli.run(main))
