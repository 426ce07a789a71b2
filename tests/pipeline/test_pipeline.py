"""The pipeline's plan by hand, its notes on real results of the first stage, and jobs as processes; no Ray."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ecr_ray import config
from ecr_ray.config import ConfigError, PipelineConfig
from ecr_ray.pipeline import notes, plan, run, running, stages
from ecr_ray.pipeline.plan import Found, Needs, PlanError
from tests.conftest import ROOT

# a → b → d, a → c → d
NEEDS = [Needs("a", resumes=False), Needs("b", ("a",)), Needs("c", ("a",)), Needs("d", ("b", "c"))]
ALL = ("a", "b", "c", "d")
DONE = {
    "a": Found("complete", record="a1"),
    "b": Found("complete", record="b1", reads={"a": "a1"}),
    "c": Found("complete", record="c1", reads={"a": "a1"}),
    "d": Found("complete", record="d1", reads={"b": "b1", "c": "c1"}),
}


def actions(found, chosen=ALL, force=(), **more):
    return {step.stage: step.action for step in plan.decide(NEEDS, found, chosen, force, **more)}


def why(found, stage, chosen=ALL, **more):
    return {step.stage: step.why for step in plan.decide(NEEDS, found, chosen, **more)}[stage]


def test_where_nothing_is_everything_runs():
    assert set(actions(dict.fromkeys(ALL, Found())).values()) == {"run"}


def test_what_is_whole_and_of_these_inputs_is_left_alone():
    assert set(actions(DONE).values()) == {"skip"}


def test_a_forced_stage_takes_those_with_it_that_read_it_and_no_others():
    assert actions(DONE, force=("b",)) == {"a": "skip", "b": "run", "c": "skip", "d": "run"}
    assert why(DONE, "d", force=("b", "c")) == "b and c will have another result"


def test_a_result_that_was_made_again_is_noticed_by_its_digest():
    found = DONE | {"c": dataclasses.replace(DONE["c"], record="c2")}
    assert actions(found) == {"a": "skip", "b": "skip", "c": "skip", "d": "run"}
    assert why(found, "d") == "c has another result since"


def test_a_damaged_result_is_made_again():
    found = DONE | {"b": Found("damaged", "run.json is damaged", reads={"a": "a1"})}
    assert actions(found) == {"a": "skip", "b": "run", "c": "skip", "d": "run"}
    assert why(found, "b") == "run.json is damaged"


def test_an_unfinished_stage_goes_on_only_with_what_it_was_begun_with():
    unfinished = DONE | {"d": Found("unfinished", reads={"b": "b1", "c": "c1"})}
    assert actions(unfinished)["d"] == "go on"
    assert actions(unfinished | {"c": dataclasses.replace(DONE["c"], record="c2")})["d"] == "run"
    assert actions(unfinished, force=("d",))["d"] == "run"
    # Its upstream is about to be made again: what it has is of the old one.
    assert actions(unfinished, force=("c",))["d"] == "run"


def test_a_stage_whose_end_nobody_saw_is_asked_again():
    found = DONE | {"d": dataclasses.replace(DONE["d"], closed=False)}
    assert actions(found)["d"] == "go on"
    # The first one cannot be asked.
    assert actions(DONE | {"a": Found("complete", record="a1", closed=False)})["a"] == "run"


def test_an_unfinished_stage_begins_again_with_other_settings_only_when_it_may():
    found = DONE | {"d": Found("unfinished", reads={"b": "b1", "c": "c1"}, other="other settings (workers 1, now 2)")}
    assert actions(found)["d"] == "go on" and why(found, "d") == "other settings (workers 1, now 2)"
    assert actions(found, overwrite=True)["d"] == "run"


def test_other_settings_are_refused_until_they_may_replace():
    found = DONE | {"b": dataclasses.replace(DONE["b"], other="other settings (steps 4, now 5)")}
    assert actions(found) == {"a": "skip", "b": "refuse", "c": "skip", "d": "refuse"}
    assert why(found, "b") == "other settings (steps 4, now 5); --overwrite replaces it"
    assert actions(found, overwrite=True) == {"a": "skip", "b": "run", "c": "skip", "d": "run"}
    assert actions(found, force=("b",))["b"] == "run"
    # It is made again anyway.
    assert actions(found, force=("a",))["b"] == "run"


def test_what_somebody_else_made_is_never_touched():
    found = DONE | {"b": Found("foreign", "x was not made by this pipeline")}
    assert actions(found, force=("a", "b"), overwrite=True)["b"] == "refuse"


def test_only_what_is_asked_for_runs_and_it_must_have_what_it_reads():
    nothing = dict.fromkeys(ALL, Found())
    assert actions(DONE, ("d",), ("d",)) == {"a": "leave", "b": "leave", "c": "leave", "d": "run"}
    assert actions(nothing, ("a", "b")) == {"a": "run", "b": "run", "c": "leave", "d": "leave"}
    assert actions(nothing, ("d",))["d"] == "refuse"
    assert why(nothing, "d", ("d",)) == "it reads b, which has no result and is not asked for"
    # An upstream of other settings that is not asked for is taken as it is.
    assert actions(DONE | {"b": dataclasses.replace(DONE["b"], other="other settings")}, ("d",))["d"] == "skip"


@pytest.mark.parametrize(
    ("first", "last", "only", "chosen"),
    [
        (None, None, (), ALL),
        ("b", None, (), ("b", "c", "d")),
        (None, "b", (), ("a", "b")),
        ("b", "c", (), ("b", "c")),
        (None, None, ("d", "a"), ("a", "d")),
        ("b", None, ("a", "c"), ("c",)),
    ],
)
def test_stages_are_selected_in_their_order(first, last, only, chosen):
    assert plan.select(ALL, first, last, only, ()) == chosen


def test_a_selection_without_a_stage_and_a_forced_stage_outside_are_refused():
    with pytest.raises(ConfigError, match="leave no stage"):
        plan.select(ALL, "d", "a", (), ())
    with pytest.raises(ConfigError, match="--force a, but"):
        plan.select(ALL, "b", None, (), ("a",))


# --- what the stages are told ------------------------------------------------------------------------------------


def by_name(name):
    return next(stage for stage in stages.STAGES if stage.name == name)


def test_the_stages_are_those_of_the_command_line_and_each_stands_after_what_it_reads():
    names = [stage.name for stage in stages.STAGES]
    assert tuple(names) == config.PipelineStage.__args__
    for number, stage in enumerate(stages.STAGES):
        assert set(stage.reads) <= set(names[:number])


@pytest.mark.parametrize("profile", ["tiny", "node", "cluster"])
def test_every_stage_reads_where_the_others_write(profile):
    settings = config.load(PipelineConfig, "pipeline", ["--profile", profile, "--output", "o/"])
    loaded = {stage.name: stages.load(settings, stage) for stage in stages.STAGES}
    assert {stage.output for stage in loaded.values()} == {f"o/{name}" for name in loaded}
    assert loaded["annotate"].input == "o/prepare"
    assert {loaded[name].input for name in ("score", "ppo", "recommender", "evaluate")} == {"o/annotate"}
    assert loaded["sft"].input == "o/annotate/dialogues"
    assert loaded["critic"].targets == ("o/score",)
    assert (loaded["ppo"].base, loaded["ppo"].critic) == ("o/sft/model", "o/critic")
    evaluate = loaded["evaluate"]
    assert evaluate.systems[1:] == ("sft=o/sft/model", "best-of-8=best-of-8:o/sft/model", "ppo=o/ppo/model")
    assert (evaluate.critic, evaluate.recommender) == ("o/critic", "o/recommender/model")


def test_what_a_pipeline_tells_a_stage_gives_way_to_the_users_own_table(tmp_path):
    profile, own = tmp_path / "profile.toml", tmp_path / "own.toml"
    profile.write_text("[sft]\nseed = 1\n[pipeline.stages.sft]\nseed = 2\nepochs = 5.0\npacking = false\n")
    own.write_text('[sft]\nepochs = 7.0\ninput = "elsewhere"\n')
    alone = config.load(PipelineConfig, "pipeline", ["--profile", str(profile)])
    loaded = stages.load(alone, by_name("sft"))
    assert (loaded.seed, loaded.epochs, loaded.packing) == (2, 5.0, False)
    both = config.load(PipelineConfig, "pipeline", ["--profile", str(profile), "--config", str(own)])
    loaded = stages.load(both, by_name("sft"))
    assert (loaded.seed, loaded.epochs, loaded.input) == (2, 7.0, "runs/pipeline/annotate/dialogues")
    assert stages.not_used(both) == ["[sft] input"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[pipeline.stages.sft]\nepoch = 1.0", r"unknown key 'epoch'; did you mean 'epochs'"),
        ("[sft]\nepoch = 1.0", r"table \[sft\]: unknown key 'epoch'"),
        ("[sft]\noverwrite = true", r"\[sft\] overwrite: in a pipeline"),
    ],
)
def test_a_wrong_setting_of_any_stage_is_known_before_the_first_starts(tmp_path, table, said):
    file = tmp_path / "own.toml"
    file.write_text(table)
    words = ["--config", str(file), "--output", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match=said):
        run.make(config.load(PipelineConfig, "pipeline", words))


# --- on real results of the first stage --------------------------------------------------------------------------


def pipeline(*words, code=0, env=None):
    done = subprocess.run(
        [sys.executable, "jobs/pipeline.py", "--until", "prepare", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    place = tmp_path_factory.mktemp("pipeline") / "out"
    pipeline("--output", place)
    return place


def planned(out, *words):
    settings = config.load(PipelineConfig, "pipeline", ["--output", str(out), "--until", "prepare", *words])
    step = run.make(settings)[0]
    return step.action, step.why


def test_a_finished_stage_is_up_to_date_and_the_record_names_it(out):
    assert planned(out) == ("skip", "")
    record = json.loads((out / "run.json").read_text())
    assert record["stage"] == "pipeline" and list(record["stages"]) == ["prepare"]
    stage = record["stages"]["prepare"]
    assert stage["exit_code"] == 0 and stage["directory"] == str(out / "prepare")
    settings = PipelineConfig(output=str(out))
    assert stage["run"]["sha256"] == notes.record_of(settings, "prepare")
    assert "66 dialogues" in (out / "logs" / "prepare.log").read_text()
    before = (out / "run.json").stat().st_mtime_ns
    assert "up to date" in pipeline("--output", out)
    # Nothing was done: nothing is written.
    assert (out / "run.json").stat().st_mtime_ns == before


def test_other_settings_name_what_has_changed(out, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[prepare]\nlimit = 20\n")
    action, said = planned(out, "--config", str(file))
    assert (action, said) == ("refuse", "other settings (limit None, now 20); --overwrite replaces it")
    assert planned(out, "--config", str(file), "--overwrite")[0] == "run"


def test_a_result_that_changed_behind_its_back_is_noticed(out):
    part = out / "prepare" / "turns" / "part-00000.parquet"
    whole = part.read_bytes()
    # Touched, not changed: the digest decides.
    os.utime(part)
    assert planned(out) == ("skip", "")
    part.write_bytes(whole[:-1] + b"!")
    assert planned(out) == ("run", "turns/part-00000.parquet has changed")
    part.unlink()
    assert planned(out) == ("run", "turns/part-00000.parquet is missing")
    part.write_bytes(whole)
    record = out / "prepare" / "run.json"
    kept = record.read_bytes()
    record.write_bytes(kept[:50])
    assert planned(out) == ("run", "run.json is damaged")
    record.unlink()
    assert planned(out) == ("run", "run.json is missing")
    record.write_bytes(kept)
    assert planned(out) == ("skip", "")


def test_the_same_forced_command_after_a_crash_does_not_force_twice(out):
    settings = PipelineConfig(output=str(out), until="prepare", force=("prepare",))
    assert notes.forced(settings) == ("prepare",)
    notes.write_forced(settings, ["prepare"])
    assert notes.forced(settings) == () and planned(out, "--force", "prepare") == ("skip", "")
    # Another command means it anew, and so does this one once it has come to its end.
    assert notes.forced(dataclasses.replace(settings, force=("prepare", "sft"))) == ("prepare", "sft")
    assert "complete: prepare" in pipeline("--output", out, "--force", "prepare")
    assert planned(out, "--force", "prepare") == ("run", "forced")


def test_two_pipelines_do_not_write_to_one_place(out):
    with run.alone(PipelineConfig(output=str(out))):
        assert "another pipeline is running" in pipeline("--output", out, code=1)


def test_quarantine_is_passed_on_also_where_nothing_is_left_to_do(tmp_path):
    file = tmp_path / "mine.jsonl"
    good = (ROOT / "ecr_ray/data/sample/dialogues.jsonl").read_text().splitlines()[0]
    file.write_text(f"{good}\nno dialogue\n")
    words = ["--output", tmp_path / "out", "--input", file]
    assert "(something in quarantine" in pipeline(*words, code=3)
    assert "up to date" in pipeline(*words, code=3)


def test_a_stage_that_fails_says_where_and_how_to_go_on(tmp_path):
    file = tmp_path / "broken.zip"
    file.write_bytes(b"no zip")
    words = ["--output", tmp_path / "out", "--input", file]
    said = pipeline(*words, code=1)
    assert f"error: prepare ended with exit code 1; its output is in {tmp_path}/out/logs/prepare.log" in said
    assert f"this goes on from here: python jobs/pipeline.py --until prepare --output {tmp_path}/out" in said
    assert "is not a readable zip file" in (tmp_path / "out" / "logs" / "prepare.log").read_text()
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "s3://bucket/x"], "it must be a directory, not a URI"),
        (["--output", ROOT / "jobs"], "jobs exists and is not a pipeline's"),
        (["--output", ROOT / "Makefile"], "cannot be written to: Not a directory"),
        (["--input", "nowhere"], "there is no file or directory 'nowhere'"),
        (["--only", "sft"], "leave no stage"),
        (["--from", "sft", "--until", "sft"], "sft cannot run: it reads annotate, which has no result"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, said, tmp_path):
    found = pipeline("--output", tmp_path / "out", *words, code=1)
    assert said in found and "Traceback" not in found


# --- a job as a process ------------------------------------------------------------------------------------------

JOB = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
print("ready", flush=True)
print("a warning", file=sys.stderr, flush=True)
time.sleep({seconds})
"""


def job(tmp_path, seconds):
    file = tmp_path / "job.py"
    file.write_text(JOB.format(seconds=seconds))
    return [sys.executable, str(file)]


def until_ready(log):
    deadline = time.monotonic() + 30
    while not (log.exists() and "ready" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_the_log_has_all_that_a_job_says(tmp_path, capfd):
    with running.Relay() as relay:
        assert running.run(job(tmp_path, 0), tmp_path / "logs" / "job.log", {}, relay) == 0
    text = (tmp_path / "logs" / "job.log").read_text()
    # Two writers share the file: their lines may meet.
    assert "ready" in text and "a warning" in text
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("ready\n", "a warning\n") and relay.stopped() is None


@pytest.mark.parametrize(
    ("number", "code", "own"), [(signal.SIGUSR1, 75, 75), (signal.SIGTERM, 143, 143), (signal.SIGINT, 1, 130)]
)
def test_signals_are_passed_on_and_the_jobs_exit_code_comes_back(tmp_path, number, code, own):
    log = tmp_path / "job.log"

    def send():
        until_ready(log)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with running.Relay() as relay:
        threading.Thread(target=send).start()
        found = running.run(job(tmp_path, 60), log, {}, relay)
    # Python's own end by KeyboardInterrupt is that of the signal.
    assert found == (130 if number == signal.SIGINT else code)
    assert relay.stopped() == own and signal.getsignal(number) == before


def test_a_job_ends_with_a_pipeline_that_is_killed(tmp_path):
    log = tmp_path / "job.log"
    code = (
        "import sys; from pathlib import Path; from ecr_ray.pipeline import running\n"
        f"running.run({job(tmp_path, 60)!r}, Path({str(log)!r}), {{}}, running.Relay())"
    )
    pipeline = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until_ready(log)
    (child,) = psutil.Process(pipeline.pid).children()
    pipeline.kill()
    pipeline.wait()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_who_is_too_late_does_not_start(tmp_path):
    from ecr_ray.pipeline import child

    started = tmp_path / "started"
    words = [sys.executable, child.__file__, "1", sys.executable, "-c", f"open({str(started)!r}, 'w')"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and "is gone" in done.stderr and not started.exists()


def test_a_plan_is_shown_and_nothing_starts(tmp_path):
    out = tmp_path / "out"
    settings = config.load(PipelineConfig, "pipeline", ["--output", str(out), "--plan-only"])
    lines = "\n".join(run.lines(settings, run.make(settings)))
    for stage in stages.STAGES:
        assert str(Path(out, stage.name)) in lines
    assert lines.count("will run") == len(stages.STAGES) and not out.exists()
    with pytest.raises(PlanError, match="sft cannot run: because"):
        run.check([plan.Step("prepare", "run"), plan.Step("sft", "refuse", "because")])
