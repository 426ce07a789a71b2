"""How fast a Ray cluster comes up and goes down inside a SLURM job, against what Ray's documentation has people do.

Runs on the SLURM that `sbatch` finds, three nodes of four CPUs each. Every arm is a batch job of its own, with the
same probe as its driver, and each clock starts with the first line of the batch script.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ecr_ray import benchmarks
from ecr_ray.errors import UserError

ROOT = Path(__file__).parents[2]
NODES, CPUS, MEMORY_MIB = 3, 4, 3000
LIMIT_S = 300
# A job whose node has died must have ended, non-zero, within this time.
ALLOWED_S = 30.0

# Waits until every node is a member and has run a task; `die` then kills the Ray of the last one.
PROBE = """
import json, os, signal, sys, time
import psutil, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

ray.init(logging_level="ERROR")
said = {}
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.05)

@ray.remote(num_cpus=1)
def touch():
    return os.uname().nodename

@ray.remote(num_cpus=1)
def die():
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "raylet":
            process.send_signal(signal.SIGKILL)

nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
names = ray.get([touch.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes])
assert len(set(names)) == int(sys.argv[2]), names
said["ready"] = time.time()
if sys.argv[3] == "die":
    here = ray.get_runtime_context().get_node_id()
    said["death"] = time.time()
    die.options(scheduling_strategy=On(next(n for n in nodes if n != here), soft=False)).remote()
said["driver_end"] = time.time()
with open(sys.argv[1], "w") as file:
    json.dump(said, file)
if "death" in said:
    time.sleep(120)
"""

# The documented ways, as short as they can be written. Ray's own token check is off in them: on a home directory
# that the nodes share it keeps the workers out.
_HEAD = """
export PATH={bin}:$PATH
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
ip=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | tr ' ' '\\n' | grep -v '^127' | head -n 1)
export RAY_ADDRESS=$ip:6379
"""
SCRIPTS = {
    "ours": "exec bash {root}/slurm_ray_start.sh {probe}",
    # Since Ray 2.49.
    "symmetric-run": _HEAD
    + 'srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" ray symmetric-run --address "$RAY_ADDRESS"'
    + ' --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus=0 -- {python} -u {probe}',
    # Before; still what most people copy.
    "sleeps": _HEAD
    + """
start() { srun --nodes=1 --ntasks=1 -w "$1" ray start "${@:2}" --num-cpus "$SLURM_CPUS_PER_TASK" --block & }
start "${nodes[0]}" --head --node-ip-address="$ip" --port=6379
sleep 10
for node in "${nodes[@]:1}"; do
  start "$node" --address "$RAY_ADDRESS"
  sleep 5
done
{python} -u {probe}""",
}


def run(rounds: int) -> list[dict[str, Any]]:
    """All rows of the record.

    Raises:
        UserError: there is no SLURM here.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no sbatch here: run this on a SLURM cluster, or bring up a local one with "
            "`python -m tests.integration.slurm.local_slurm up` (as root, Debian's packages)"
        )
    folder = ROOT / "runs" / "benchmark-cluster"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "probe.py").write_text(PROBE)
    arms = {name: lambda name=name: _submit(folder, name, "live") for name in SCRIPTS}
    arms["ours, a death"] = lambda: _submit(folder, "ours", "die")
    return _rows(benchmarks.in_turn(arms, rounds))


def _rows(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    def each(arm: str, key: str) -> list[float]:
        return [result[key] for result in found[arm]]

    peers = {
        "symmetric-run": "Ray's documentation: `ray symmetric-run`",
        "sleeps": "Ray's documentation before 2.49: `srun`, `sleep`",
    }
    work = f"a SLURM job on {NODES} nodes of {CPUS} CPUs"
    measures = {"up_s": "from the batch script's start until every node has run a task, s", "down_s": "from the "
                "driver's end to the job's, s"}  # fmt: skip
    rows = [
        benchmarks.row(peers[arm], measures[key], each("ours", key), each(arm, key), work)
        for key in measures
        for arm in peers
    ]
    death = each("ours, a death", "death_s")
    limit = [ALLOWED_S] * len(death)
    return [
        *rows,
        benchmarks.row("the limit", "from a worker's death to the job's non-zero end, s", death, limit, work),
    ]


def _submit(folder: Path, arm: str, what: str) -> dict[str, Any]:
    """Run one job to its end; its times in seconds.

    Raises:
        RuntimeError: it did not do what it should; the message has its output.
    """
    name = f"{arm}-{what}-{time.monotonic_ns()}"
    said, begun = folder / f"{name}.json", folder / f"{name}.begun"
    script = f"#!/bin/bash\ndate +%s.%N > {begun}\n{SCRIPTS[arm]}\n"
    # Not str.format: the shell has braces of its own.
    for word, meaning in {
        "{root}": str(ROOT),
        "{bin}": str(Path(sys.executable).parent),
        "{python}": sys.executable,
        "{probe}": f"{folder}/probe.py {said} {NODES} {what}",
    }.items():
        script = script.replace(word, meaning)
    file = folder / f"{name}.sh"
    file.write_text(script)
    output = folder / f"{name}.out"
    options = [f"--nodes={NODES}", "--ntasks-per-node=1", f"--cpus-per-task={CPUS}", f"--mem={MEMORY_MIB}"]
    env = "ALL,ECR_PYTHON=" + sys.executable + ("" if arm == "ours" else ",RAY_AUTH_MODE=disabled")
    job = _command("sbatch", "--parsable", *options, "--no-kill", f"--export={env}", f"--output={output}", str(file))
    state, ended = _wait(job.split(";")[0])
    if not said.is_file() or (state == "COMPLETED") != (what == "live"):
        raise RuntimeError(f"{arm} ended as {state}:\n{output.read_text()[-4000:]}")
    times = json.loads(said.read_text())
    result = {"up_s": times["ready"] - float(begun.read_text())}
    return result | ({"death_s": ended - times["death"]} if what == "die" else {"down_s": ended - times["driver_end"]})


def _wait(job: str) -> tuple[str, float]:
    """The state in which a job ended, and when that was seen (SLURM itself notes only whole seconds)."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        state = _command("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")
        if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            return state, time.time()
        time.sleep(0.05)
    _command("scancel", job)
    raise RuntimeError(f"job {job} did not end within {LIMIT_S} s")


def _command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
