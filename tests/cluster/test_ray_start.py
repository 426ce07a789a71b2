"""Ray's command line loaded ahead: arguments from standard input, and nothing that `ray start` does not need."""

import json
import subprocess
import sys

import ray

COMMAND = [sys.executable, "-m", "ecr_ray.cluster.ray_start"]


def run(given: str) -> subprocess.CompletedProcess:
    return subprocess.run(COMMAND, input=given, capture_output=True, text=True, timeout=120, check=False)


def test_does_what_standard_input_says():
    done = run(json.dumps({"arguments": ["--version"], "env": {}}) + "\n")
    assert done.returncode == 0, done.stderr
    assert ray.__version__ in done.stdout


def test_ends_with_the_agent_that_has_nothing_to_start():
    assert run("").returncode == 1


def test_loads_neither_serve_nor_pandas():
    program = (
        "import sys; from ecr_ray.cluster import ray_start; ray_start.load(); "
        "print('ray.serve' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "False"]
