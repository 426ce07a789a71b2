"""The bootstrap's parts that need no SLURM; tests/integration/slurm has the rest."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ecr_ray.cluster import connect, node, slurm
from ecr_ray.cluster.control import ClusterError, check_same_versions, write_private
from tests.conftest import ROOT

ENV = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_CPUS_PER_NODE": "4(x3)"}


@pytest.mark.parametrize(
    ("words", "own", "job"),
    [
        (["a.py", "--profile", "x"], [], ["a.py", "--profile", "x"]),
        (["--on-node-loss", "fail", "jobs/a.py"], ["--on-node-loss", "fail"], ["jobs/a.py"]),
        (["--dry-run", "--", "bash", "-c", "b.py"], ["--dry-run"], ["bash", "-c", "b.py"]),
        (["--dry-run"], ["--dry-run"], []),
    ],
)
def test_where_the_job_begins(words, own, job):
    assert slurm.split_arguments(words) == (own, job)


def bootstrap(*words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "ecr_ray.cluster.slurm", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **(env or {})},
        capture_output=True,
        text=True,
    )


def test_dry_run_shows_everything_and_starts_nothing(tmp_path):
    env = {**ENV, "SLURM_SUBMIT_DIR": str(tmp_path)}
    answer = bootstrap("--roles", "train", "--dry-run", "jobs/score.py", "--limit", "3", env=env)
    assert answer.returncode == 0, answer.stderr
    for word in ("srun --nodes=2 --nodelist=n2,n3", "--head", "role=train", "jobs/score.py --limit 3", "ecr-ray-41.0"):
        assert word in answer.stdout
    assert not list(tmp_path.iterdir())


def test_outside_slurm_it_says_what_to_type():
    answer = bootstrap("jobs/score.py")
    assert answer.returncode == 1
    assert "sbatch slurm_ray_start.sh" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_nodes_with_other_versions_are_refused_by_name():
    same = {"python": "3.11.7", "ray": "2.60.0"}
    check_same_versions({"n1": same, "n2": dict(same)})
    with pytest.raises(ClusterError, match=r"n2 has ray 2\.59\.0, but n1 has ray 2\.60\.0"):
        check_same_versions({"n1": same, "n2": {**same, "ray": "2.59.0"}})
    with pytest.raises(ClusterError, match=r"n3 has vllm none, but n1 has vllm 0\.29\.0"):
        check_same_versions({"n1": {**same, "vllm": "0.29.0"}, "n3": same})


def test_a_private_file_is_never_open_to_others(tmp_path):
    old = os.umask(0)
    try:
        write_private(tmp_path / "token", "secret")
    finally:
        os.umask(old)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_whether_a_process_handles_a_signal():
    code = "import signal, time; signal.signal(signal.SIGUSR1, print); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert slurm.catches(process.pid, signal.SIGUSR1)
        assert not slurm.catches(process.pid, signal.SIGUSR2)
        process.kill()


def test_an_open_port_is_ours_only_if_a_child_of_ours_listens():
    code = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        port = int(process.stdout.readline())
        assert node.answers("127.0.0.1", port)
        assert node.listens_below(os.getpid(), port)
        assert not node.listens_below(process.pid, port)
        process.kill()
    assert not node.answers("127.0.0.1", port)
    assert not node.listens_below(2**22 - 1, port)


def test_grandchildren_do_not_escape():
    code = (
        "import subprocess, sys, time; from ecr_ray.cluster import node; node.adopt_orphans();"
        "subprocess.run(['sh', '-c', 'setsid sleep 300 & echo $!']); node.kill_descendants();"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30)
    time.sleep(0.1)
    assert not os.path.exists(f"/proc/{int(answer.stdout)}")


def test_shared_semaphores_of_killed_processes_are_removed():
    child = (
        "import multiprocessing, time; lock = multiprocessing.get_context('spawn').Lock();"
        "print(lock._semlock.name, flush=True); time.sleep(300)"
    )
    code = (
        "import subprocess, sys; from ecr_ray.cluster import node; node.adopt_orphans();"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE, text=True);"
        "print(child.stdout.readline().strip()); node.kill_descendants()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, child], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30
    )
    assert answer.stdout.startswith("/mp-")
    assert not os.path.exists(f"/dev/shm/sem.{answer.stdout.strip()[1:]}")


def test_gpus_of_a_step():
    assert node.gpus_of_step({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0"}) == 4
    assert node.gpus_of_step({"CUDA_VISIBLE_DEVICES": "0,3"}) == 2
    assert node.gpus_of_step({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}) == 0
    assert node.gpus_of_step({}) == 0


def test_the_address_of_an_interface():
    assert node.own_ipv4("lo", several=False) == "127.0.0.1"
    with pytest.raises(node.NodeError, match="--interface ib7: no such interface with IPv4 here; there are"):
        node.own_ipv4("ib7", several=False)


def test_a_temp_dir_is_emptied_and_private(tmp_path):
    path = tmp_path / "ecr-ray-1.0"
    (path / "old").mkdir(parents=True)
    with node.make_temp_dir(path):
        assert sorted(p.name for p in path.iterdir()) == ["lock", "tmp"]
        assert path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(node.NodeError, match="somebody else"):
        node.make_temp_dir(tmp_path / "link")


def test_directories_in_which_nobody_is_left_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "UNLOCKED_S", 0.0)
    code = (
        "import sys, time; from pathlib import Path; from ecr_ray.cluster import node;"
        "lock = node.make_temp_dir(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    )
    held, dead = tmp_path / "ecr-ray-1.0", tmp_path / "ecr-ray-2.0"
    (tmp_path / "other").mkdir()
    with subprocess.Popen([sys.executable, "-c", code, held], cwd=ROOT, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        node.make_temp_dir(dead).close()
        assert node.sweep(tmp_path) == [dead]
        process.kill()
    assert node.sweep(tmp_path) == [held]
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_a_directory_that_was_just_made_is_not_swept(tmp_path):
    (tmp_path / "ecr-ray-3.0").mkdir()
    assert node.sweep(tmp_path) == []


def test_a_shell_inside_the_job_finds_its_cluster(tmp_path):
    env = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path)}
    assert connect.slurm_cluster({}) == {}
    assert connect.slurm_cluster(env) == {}
    run = tmp_path / "runs" / "slurm" / "7.0"
    run.mkdir(parents=True)
    content = {"address": "10.0.0.1:20000", "token_file": str(run / "token"), "run_id": "7.0"}
    (run / "cluster.json").write_text(json.dumps(content))
    assert connect.slurm_cluster(env)["RAY_ADDRESS"] == "10.0.0.1:20000"
    assert connect.slurm_cluster({**env, "SLURM_RESTART_COUNT": "1"}) == {}
