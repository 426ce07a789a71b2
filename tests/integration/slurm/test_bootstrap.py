"""`sbatch slurm_ray_start.sh` on real daemons, with real faults. Each test says what a user would see."""

import json
import os
import re
import signal
import time

import pytest

from tests.integration.slurm.local_slurm import until

pytestmark = pytest.mark.slow


def pid_of(bench, node, word):
    """The pid on the host of a node's process whose command line has this word."""
    found = [pid for pid, line in bench.slurm.processes(node).items() if word in line]
    assert found, (word, bench.slurm.processes(node))
    return min(found)


def test_three_nodes_run_a_job_and_give_back_its_code(bench):
    more = """
try:
    open(os.environ["RAY_AUTH_TOKEN_PATH"] + ".wrong", "w").write("0" * 64)
    import subprocess
    other = {**os.environ, "RAY_AUTH_TOKEN_PATH": os.environ["RAY_AUTH_TOKEN_PATH"] + ".wrong"}
    code = "from ecr_ray import cli; from ecr_ray.cluster import connect; cli.run(connect.connect)"
    answer = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True)
    print("stranger:", answer.returncode, answer.stderr, flush=True)
finally:
    sys.exit(9)
"""
    job = bench.submit("--roles", "train", "rollout:2", bench.job(more))
    state = bench.finish(job)
    output = bench.output(job)
    assert state == ("FAILED", 9), output
    assert "ran on: n1 n2 n3" in output
    assert "resources: {'CPU': 12.0, 'GPU': None}" in output
    assert "labels: [('n1', 'train'), ('n2', 'rollout'), ('n3', 'rollout')]" in output
    assert "cannot join the Ray cluster" in output.split("stranger:")[1]
    assert "the job ended with code 9" in output
    bench.assert_clean()
    run = bench.directory / "runs" / "slurm" / f"{job}.0"
    assert not (run / "token").exists()
    assert {p.name for p in (run / "logs").iterdir()} == {"n1", "n2", "n3"}
    journal = [json.loads(line) for line in (run / "bootstrap.jsonl").read_text().splitlines()]
    assert {entry["run_id"] for entry in journal} == {f"{job}.0"}


def test_one_node_with_gpus_and_code_0(bench):
    job = bench.submit(bench.job(), nodes=1, sbatch=["--gpus-per-node=2"])
    assert bench.finish(job) == ("COMPLETED", 0), bench.output(job)
    assert "resources: {'CPU': 4.0, 'GPU': 2.0}" in bench.output(job)
    bench.assert_clean()


@pytest.mark.long
def test_a_heterogeneous_job(bench):
    second = [":", "--nodes=1", "--cpus-per-task=1", "--ntasks-per-node=1", "--mem=2000"]
    options = ["--cpus-per-task=2", "--gpus-per-node=0", *second]
    job = bench.submit("--roles", "train", "rollout", "--", "echo", "through", nodes=1, sbatch=options)
    assert bench.finish(job) == ("COMPLETED", 0), bench.output(job)
    bench.assert_clean()


@pytest.mark.long
def test_two_jobs_on_the_same_nodes_do_not_see_each_other(bench):
    half = ["--cpus-per-task=2", "--mem=2000"]
    more = "import time; time.sleep(5); print('still', len([n for n in ray.nodes() if n['Alive']]), 'nodes')"
    jobs = [bench.submit(bench.job(more), sbatch=half) for _ in range(2)]
    for job in jobs:
        assert bench.finish(job) == ("COMPLETED", 0), bench.output(job)
        output = bench.output(job)
        assert "resources: {'CPU': 6.0, 'GPU': None}" in output
        assert "still 3 nodes" in output
    addresses = {re.search(r"the Ray cluster at (\S+)", bench.output(job))[1] for job in jobs}
    assert len(addresses) == 2
    bench.assert_clean()


def test_scancel_leaves_nothing(bench):
    job = bench.submit(bench.job("time.sleep(600)"))
    bench.wait_for(job, "driver:")
    bench.slurm.command("scancel", job)
    assert bench.finish(job)[0] == "CANCELLED"
    assert "ending on SIGTERM" in bench.output(job)
    bench.assert_clean()


def test_a_killed_raylet_is_reported_and_ends_the_job(bench):
    job = bench.submit(bench.job("time.sleep(600)"))
    bench.wait_for(job, "driver:")
    os.kill(pid_of(bench, "n2", "raylet/raylet"), signal.SIGKILL)
    began = time.monotonic()
    assert bench.finish(job) == ("FAILED", 70), bench.output(job)
    assert time.monotonic() - began < 30
    output = bench.output(job)
    assert "node n2 is lost: its Ray has ended" in output
    assert "raylet.out:" in output
    bench.assert_clean()


@pytest.mark.long
def test_continue_goes_on_without_a_lost_node(bench):
    more = "time.sleep(20); print('alive:', len([n for n in ray.nodes() if n['Alive']]))"
    job = bench.submit("--on-node-loss", "continue", bench.job(more))
    bench.wait_for(job, "driver:")
    os.kill(pid_of(bench, "n3", "raylet/raylet"), signal.SIGKILL)
    assert bench.finish(job) == ("COMPLETED", 0), bench.output(job)
    assert "going on without it" in bench.output(job)
    assert "alive: 2" in bench.output(job)
    bench.assert_clean()


@pytest.mark.long
def test_a_node_whose_power_is_cut(bench):
    job = bench.submit(bench.job("time.sleep(600)"))
    bench.wait_for(job, "driver:")
    bench.slurm.power_off("n3")
    began = time.monotonic()
    bench.wait_for(job, "node n3 is lost", 30)
    bench.wait_for(job, "down after", 30)
    assert time.monotonic() - began < 40
    for name in ("n1", "n2"):
        until(lambda name=name: not any("ray" in line for line in bench.slurm.processes(name).values()), 15, "an end")


@pytest.mark.long
@pytest.mark.parametrize(
    ("word", "code", "said"),
    [("gcs_server", 70, "node n1 is lost: its Ray has ended"), ("job.py", 137, "the job died of signal 9")],
    ids=["head", "driver"],
)
def test_a_crash_on_the_head(bench, word, code, said):
    job = bench.submit(bench.job("time.sleep(600)"), nodes=2)
    bench.wait_for(job, "driver:")
    found = [pid for pid, line in bench.slurm.processes("n1").items() if word in line and "ecr_ray.cluster" not in line]
    os.kill(min(found), signal.SIGKILL)
    assert bench.finish(job) == ("FAILED", code), bench.output(job)
    assert said in bench.output(job)
    bench.assert_clean()


@pytest.mark.long
def test_a_killed_bootstrap_takes_everything_with_it(bench):
    job = bench.submit(bench.job("time.sleep(600)"), nodes=2)
    bench.wait_for(job, "driver:")
    os.kill(pid_of(bench, "n1", "ecr_ray.cluster.slurm"), signal.SIGKILL)
    bench.finish(job)
    bench.assert_clean()


@pytest.mark.long
def test_an_agent_that_dies_before_its_ray_is_up(bench):
    job = bench.submit(bench.job())
    bench.wait_for(job, "starting Ray")
    os.kill(pid_of(bench, "n2", "ecr_ray.cluster.node"), signal.SIGKILL)
    assert bench.finish(job) == ("FAILED", 69), bench.output(job)
    assert "node n2: no sign of life for 15 s" in bench.output(job)
    # Its Ray went with it; what it could not remove any more, the next job there does.
    assert bench.leftovers() == {"n2": [str(bench.slurm.tmp("n2") / f"ecr-ray-{job}.0")]}
    job = bench.submit(bench.job())
    assert bench.finish(job) == ("COMPLETED", 0), bench.output(job)
    assert "left behind by a start that was killed" in bench.output(job)
    bench.assert_clean()


def test_a_temp_dir_too_long_for_a_socket_is_refused(bench):
    job = bench.submit("--temp-dir", "/tmp/" + "x" * 60, bench.job(), nodes=1)
    assert bench.finish(job) == ("FAILED", 1)
    assert "give a --temp-dir of at most" in bench.output(job)


def test_a_run_dir_that_is_not_shared_is_refused_by_node(bench):
    job = bench.submit("--run-dir", "/tmp/runs", bench.job())
    assert bench.finish(job) == ("FAILED", 69)
    assert re.search(r"node n[23]: /tmp/runs\S* is not there on this node: give a --run-dir", bench.output(job))
    bench.assert_clean()


def test_a_time_limit_that_is_announced_at_once_is_not_an_endless_loop(bench):
    job = bench.submit(bench.job(), nodes=1)
    bench.wait_for(job, "starting Ray")
    bench.slurm.command("scancel", "--batch", "--signal=USR1", job)
    assert bench.finish(job) == ("FAILED", 69)
    assert "before the cluster is up: ask for more --time" in bench.output(job)
    bench.assert_clean()


def test_a_missing_job_file_starts_nothing(bench):
    job = bench.submit("jobs/nothing.py", nodes=1)
    assert bench.finish(job) == ("FAILED", 1)
    assert "there is no job file jobs/nothing.py" in bench.output(job)


@pytest.mark.long
def test_busy_ports_are_passed_over(bench):
    def listening(ports):
        code = f"import socket, time; s = [socket.create_server(('', p)) for p in {list(ports)}]; time.sleep(99)"
        return bench.slurm.hold("n1", "python3", "-c", code)

    def wait_for_listener(port):
        seen = f":{port:04X} "
        until(lambda: seen in bench.slurm.enter("n1", "cat", "/proc/net/tcp").stdout, 10, "the listener")

    two_blocks = ["--ports", "20000-20022"]
    with listening([20004, 20015]):
        wait_for_listener(20015)
        job = bench.submit(*two_blocks, bench.job(), nodes=1)
        assert bench.finish(job)[1] == 69
        assert "every block of ports" in bench.output(job)
    with listening([20004]):
        wait_for_listener(20004)
        job = bench.submit(*two_blocks, bench.job(), nodes=1)
        assert bench.finish(job) == ("COMPLETED", 0), bench.output(job)
        assert "starting Ray on ports 20011-20021" in bench.output(job)
    bench.assert_clean()
