"""Real jobs on the cluster: scoring over three nodes, started over by SLURM on the way; a cluster to attach to; many
jobs in a row, some of them cancelled."""

import json
import os
import random
import re
import sys
import time
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ecr_ray.policy import sft_worker
from tests.conftest import ROOT, turn, write_turns
from tests.integration.slurm.local_slurm import DONE, until
from tests.integration.test_pipeline_job import ALL, SHORT

pytestmark = pytest.mark.slow
# Twenty take five minutes.
MANY = int(os.environ.get("ECR_MANY_JOBS", "5"))

ENGINES = """
[judges.ecr-tiny-judge]
engines = 3
cpus_per_engine = 3   # of a node's four: one engine a node
"""


@pytest.mark.long
def test_scoring_over_three_nodes_is_started_over_and_ends_with_every_row_once(bench):
    config, out = bench.directory / "engines.toml", bench.directory / "score"
    config.write_text(ENGINES)
    write_turns(bench.directory / "turns.jsonl", 1500)
    # Relative, as one types it; the workers' working directory is another.
    words = ["--config", config.name, "--input", "turns.jsonl", "--output", out.name, "--batch-size", "64"]
    env = {"ECR_CACHE_DIR": str(bench.directory / "cache")}  # where all nodes see the model
    job = bench.submit(ROOT / "jobs/score.py", *words, env=env)

    def parts():
        return len(list((out / ".work" / "ecr-tiny-judge").glob("ok-*")))

    until(lambda: parts() >= 3 or bench.slurm.job(job)["JobState"] in DONE, 240, lambda: bench.output(job))
    engines = {
        n: [line for line in bench.slurm.processes(n).values() if "EngineCore" in line] for n in bench.slurm.names
    }
    assert all(engines.values()), engines
    # What SLURM does on its own, so long before the time limit as --signal says.
    bench.slurm.command("scancel", "--batch", "--signal=USR1", job)
    bench.wait_for(job, "SLURM is asked to start the job over", 90)
    at_stop = parts()
    assert 0 < at_stop < 1500 / 64
    assert bench.finish(job, 300) == ("COMPLETED", 0), bench.output(job)
    output = bench.output(job)
    assert bench.slurm.job(job)["Restarts"] == "1"
    assert "stopped before the time limit; the same command goes on from here" in output
    assert f"run {job}.1: Ray on 3 node(s)" in output
    assert "going on with the unfinished run in score" in output
    assert "1,500 turns, 1,500 scores, 0 failed" in output
    assert "could not be told" not in output
    ids = pq.read_table(out / "scores.parquet")["turn_id"].to_pylist()
    assert sorted(ids) == sorted(turn(n)["turn_id"] for n in range(1500))
    bench.assert_clean()


@pytest.mark.long
def test_fine_tuning_saves_when_told_that_time_is_up_and_goes_on(bench):
    out, steps = bench.directory / "sft", 40
    work, curve = out / ".work", out / ".work" / sft_worker.CURVE
    # One worker a node, and no checkpoint but the one for which there is just time.
    words = f"--output {out.name} --workers 2 --cpus-per-worker 3 --threads-per-worker 1 --zero-stage 2 --batch 4 "
    words += f"--max-steps {steps} --eval-every 1000 --save-every 1000 --log-every 1"
    env = {"ECR_CACHE_DIR": str(bench.directory / "cache")}
    job = bench.submit(ROOT / "jobs/sft.py", *words.split(), nodes=2, env=env)

    def begun():
        return curve.exists() and len(curve.read_text().splitlines()) >= 3

    until(lambda: begun() or bench.slurm.job(job)["JobState"] in DONE, 240, lambda: bench.output(job))
    bench.slurm.command("scancel", "--batch", "--signal=USR1", job)
    bench.wait_for(job, "SLURM is asked to start the job over", 90)
    saved = sft_worker.step_of(sft_worker.latest_checkpoint(work))
    assert 3 <= saved < steps
    assert bench.finish(job, 300) == ("COMPLETED", 0), bench.output(job)
    assert bench.slurm.job(job)["Restarts"] == "1"
    rows = pq.read_table(out / "curve.parquet").to_pylist()
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, steps + 1))
    # The clock of the curve starts anew with every start.
    again = next(b["step"] for a, b in pairwise(rows) if b["seconds"] < a["seconds"])
    assert again == saved + 1
    bench.assert_clean()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_pipeline_over_three_nodes(bench):
    config, out = bench.directory / "short.toml", bench.directory / "pipeline"
    config.write_text(SHORT)
    env = {"ECR_CACHE_DIR": str(bench.directory / "cache")}
    job = bench.submit(ROOT / "jobs/pipeline.py", "--config", config.name, "--output", out.name, env=env)
    assert bench.finish(job, 1500) == ("COMPLETED", 0), bench.output(job)
    output = bench.output(job)
    assert f"run {job}.0: Ray on 3 node(s)" in output and "] evaluate: done after" in output
    assert list(json.loads((out / "run.json").read_text())["stages"]) == ALL
    assert (out / "evaluate" / "report.html").stat().st_size > 50_000
    bench.assert_clean()


def test_a_cluster_to_attach_to(bench):
    job = bench.submit("--roles", "train", nodes=1)
    output = bench.wait_for(job, "end it with:")
    cluster = json.loads((bench.directory / "runs" / "slurm" / f"{job}.0" / "cluster.json").read_text())
    assert os.stat(cluster["token_file"]).st_mode & 0o777 == 0o600
    token = Path(cluster["token_file"]).read_text()
    assert token not in output
    assert not any(token in line for line in bench.slurm.processes("n1").values())
    ray = os.path.join(os.path.dirname(sys.executable), "ray")

    def submit(token_file, number):
        # Through the tunnel that the output tells of, the dashboard would be on the submit host.
        return bench.slurm.enter(
            "n1", "env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={token_file}", ray, "job", "submit",
            f"--address={cluster['dashboard']}", "--submission-id=once", "--",
            "sh", "-c", f"echo number {number} >> {bench.directory}/ran",
        )  # fmt: skip

    wrong = bench.directory / "wrong"
    wrong.write_text("0" * 64)
    assert submit(wrong, 0).returncode != 0
    first, second = submit(cluster["token_file"], 1), submit(cluster["token_file"], 2)
    assert first.returncode == 0, first.stdout + first.stderr
    assert second.returncode != 0
    assert "once already exists" in second.stdout + second.stderr
    assert (bench.directory / "ran").read_text() == "number 1\n"

    # A shell inside the job needs no address.
    code = "from ecr_ray.cluster import connect; print(connect.connect())"
    inside = ["srun", f"--jobid={job}", "--overlap", "--mem=0", "-n1", sys.executable, "-c", code]
    found = bench.slurm.command(*inside, cwd=bench.directory)
    assert f"the Ray cluster at {cluster['address']}" in found
    targets = json.loads((bench.directory / "runs" / "slurm" / f"{job}.0" / "prometheus_targets.json").read_text())
    assert cluster["nodes"][0]["ip"] in str(targets)

    bench.slurm.command("scancel", job)
    assert bench.finish(job)[0] == "CANCELLED"
    assert not os.path.exists(cluster["token_file"])
    bench.assert_clean()


@pytest.mark.long
def test_many_jobs_in_a_row_some_cancelled_and_one_out_of_time_leave_nothing(bench):
    chance = random.Random(3)
    # Nobody tells this one that its minute is nearly over.
    forever = bench.job("time.sleep(600)", "forever.py")
    endless = bench.submit(forever, nodes=1, sbatch=["--cpus-per-task=2", "--time=1", "--signal=B:URG@1"])
    bench.job("print('worked', flush=True)")
    waiting = [
        bench.submit("job.py", nodes=chance.choice([1, 2]), sbatch=["--cpus-per-task=2", "--mem=2000"])
        for _ in range(MANY)
    ]
    doomed = {job: chance.uniform(0, 12) for job in waiting if chance.random() < 0.5}
    end = time.monotonic() + 600
    while waiting and time.monotonic() < end:
        for job in list(waiting):
            found = bench.slurm.job(job)
            if found["JobState"] in DONE:
                waiting.remove(job)
            elif job in doomed and found["JobState"] == "RUNNING" and seconds(found["RunTime"]) >= doomed[job]:
                bench.slurm.command("scancel", job)
                doomed.pop(job)
        time.sleep(0.2)
    assert not waiting
    states = {job.name: bench.output(re.search(r"\d+", job.name)[0]) for job in bench.directory.glob("slurm-*.out")}
    worked = [name for name, output in states.items() if "worked" in output]
    cancelled = [name for name, output in states.items() if "ending on SIGTERM" in output]
    assert len(worked) >= MANY // 3, states
    assert cancelled
    assert bench.finish(endless)[0] == "TIMEOUT"
    assert "driver:" in bench.output(endless)
    assert "ending on SIGTERM" in bench.output(endless)
    bench.assert_clean()
    for name in bench.slurm.names:
        assert not bench.slurm.enter(name, "sh", "-c", "cat /proc/net/unix | grep -i ray").stdout


def seconds(clock):
    hours, minutes, rest = clock.split("-")[-1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + int(rest)


@pytest.mark.long
def test_an_endpoint_in_an_allocation_answers_and_leaves_nothing(bench):
    # Relative, as one types it; the replicas' working directory is another.
    words = ["--open", "--output", "serve", "--port", "8123"]
    job = bench.submit(ROOT / "jobs/serve.py", *words, nodes=2)
    bench.wait_for(job, "ready: http://127.0.0.1:8123", 240)
    body = json.dumps({"messages": [{"role": "user", "content": "I loved Alien (1979). Something as scary?"}]})
    url = "http://127.0.0.1:8123/v1/recommend"
    ask = "import httpx, json, sys; print(httpx.post(sys.argv[1], json=json.loads(sys.argv[2]), timeout=60).text)"
    found = bench.slurm.enter("n1", sys.executable, "-c", ask, url, body)
    answer = json.loads(found.stdout)
    assert answer["reply"] and any("Alien (1979)" in film["reason"] for film in answer["recommendations"])
    bench.slurm.command("scancel", job)
    assert bench.finish(job)[0] == "CANCELLED"
    bench.assert_clean()
