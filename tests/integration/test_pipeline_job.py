"""The pipeline through its front door: every stage on real Ray, by one command; and what a crash, a damaged result and
a stage that fails do to it."""

import json
import signal

import psutil
import pyarrow.parquet as pq
import pytest

from tests.integration.conftest import SHORT
from tests.integration.jobs import finish, job, until

pytestmark = pytest.mark.slow
CHEAP = ["--only", "prepare", "annotate", "recommender"]
QUICK = SHORT.replace("log_every = 1\n", "epochs = 2\n")
ALL = ["prepare", "annotate", "score", "critic", "sft", "ppo", "recommender", "evaluate"]


def start(*arguments):
    return job("pipeline", *arguments)


def plans(printed):
    """Stage → what the plan said of it."""
    lines = printed.split("plan\n", 1)[1].splitlines()[:8]
    return {line.split()[0]: line.split("  ")[-1].strip() for line in lines}


def began(directory, stage):
    """When a result was made; a second one is another."""
    return json.loads((directory / stage / "run.json").read_text())["finished"], (
        directory / stage / "run.json"
    ).stat().st_mtime_ns


def test_every_stage_reads_what_the_one_before_it_wrote(pipeline):
    out, printed = pipeline.out, pipeline.printed
    record = json.loads((out / "run.json").read_text())
    assert list(record["stages"]) == ALL and list(record["timings_s"]) == ALL
    runs = {name: json.loads((out / name / "run.json").read_text()) for name in ALL}

    def digests(stage):
        return {file["path"]: file["sha256"] for file in runs[stage]["inputs"]}

    parts = {str(out / "annotate" / kind / "part-00000.parquet") for kind in ("dialogues", "turns")}
    dialogues, turns = sorted(parts)
    assert list(digests("annotate")) == [str(out / "prepare" / "dialogues" / "part-00000.parquet")]
    assert list(digests("score")) == [turns] and list(digests("sft")) == [dialogues]
    assert list(digests("recommender")) == [dialogues] and turns in digests("evaluate")
    assert str(out / "score" / "targets.parquet") in digests("critic")
    critic = next(file for file in runs["critic"]["model"] if file["path"].endswith(".safetensors"))
    assert critic["sha256"] in digests("ppo").values() and turns in digests("ppo")
    assert runs["ppo"]["config"]["base"] == str(out / "sft" / "model")
    # Annotated messages are what makes a turn one with emotions; in the sample only the seeker's have labels.
    message = pq.read_table(dialogues)["messages"].to_pylist()[0]
    assert any(m["emotions"] for m in message if m["role"] == "recommender")
    # Lineage: what a stage read is what lies there.
    for stage in record["stages"].values():
        assert stage["reads"] == {name: record["stages"][name]["run"]["sha256"] for name in stage["reads"]}
    for name in ALL:
        assert f"] {name}: done after" in printed
        assert (out / "logs" / f"{name}.log").stat().st_size > 100


def test_it_ends_in_the_report(pipeline):
    out = pipeline.out
    page = (out / "evaluate" / "report.html").read_text()
    assert page.count('role="img"') == page.count("<figure>") >= 3
    run = json.loads((out / "evaluate" / "run.json").read_text())
    assert {figure["system"] for figure in run["figures"]} >= {"human", "sft", "best-of-8", "ppo"}
    # The lineage goes from the report back to the dialogues.
    assert {row["stage"] for row in run["lineage"]} >= {"annotate", "score", "critic", "sft", "ppo"}


def test_the_policy_at_the_end_is_one_that_can_be_served(pipeline):
    out = pipeline.out
    adapter = json.loads((out / "ppo" / "model" / "adapter_config.json").read_text())
    assert adapter["peft_type"] == "LORA"
    # On top of what the pipeline fine-tuned.
    base = adapter["base_model_name_or_path"]
    assert base is None or base == str(out / "sft" / "model")
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(base or out / "ppo" / "base")


def test_a_second_run_does_nothing(pipeline):
    out, short = pipeline.out, pipeline.settings
    before = {name: began(out, name) for name in [*ALL, "."]}
    printed = finish(start("--config", short, "--output", out))
    found = plans(printed)
    assert {found[name] for name in ALL} == {"up to date"}
    assert {name: began(out, name) for name in [*ALL, "."]} == before


def test_what_would_follow_from_forcing_and_from_damage_is_said_before(pipeline):
    out, short = pipeline.out, pipeline.settings
    words = ["--config", short, "--output", out, "--plan-only"]
    forced = plans(finish(start(*words, "--force", "score")))
    again = {"score", "critic", "ppo", "evaluate"}
    assert {name for name in ALL if forced[name].startswith("will run")} == again
    weights = next((out / "sft" / "model").glob("*.safetensors"))
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        damaged = plans(finish(start(*words)))
    finally:
        weights.write_bytes(kept)
    assert damaged["sft"] == f"will run: model/{weights.name} has changed"
    assert damaged["ppo"] == "will run: sft will have another result"
    assert {name for name in ALL if damaged[name] != "up to date"} == {"sft", "ppo", "evaluate"}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    file = tmp_path_factory.mktemp("settings") / "quick.toml"
    file.write_text(QUICK)
    return file


@pytest.fixture(scope="module")
def cheap(cluster, short, tmp_path_factory):
    out = tmp_path_factory.mktemp("pipeline") / "cheap"
    finish(start("--config", short, "--output", out, *CHEAP))
    return out


@pytest.mark.long
def test_a_damaged_stage_runs_again_and_those_after_it(cheap, short):
    before = {name: began(cheap, name) for name in CHEAP[1:]}
    (cheap / "annotate" / "run.json").write_text('{"stage": "anno')
    printed = finish(start("--config", short, "--output", cheap, *CHEAP))
    found = plans(printed)
    assert found["prepare"] == "up to date" and found["annotate"] == "will run: run.json is damaged"
    assert found["recommender"] == "will run: annotate will have another result"
    changed = {name for name in CHEAP[1:] if began(cheap, name) != before[name]}
    assert changed == {"annotate", "recommender"}
    assert json.loads((cheap / "run.json").read_text())["stages"]["recommender"]["exit_code"] == 0


@pytest.mark.long
def test_a_stage_that_fails_leaves_the_others_whole_and_says_how_to_go_on(cheap, short, tmp_path):
    before = {name: began(cheap, name) for name in ("prepare", "annotate")}
    broken = tmp_path / "broken.toml"
    broken.write_text(QUICK.replace("[evaluate]", "batch = 4000\nmicro_batch = 4000\n[evaluate]"))
    words = ["--output", cheap, *CHEAP]
    said = finish(start("--config", broken, *words), code=1)
    assert "recommender cannot run: other settings (" in said and "batch 16, now 4000" in said
    said = finish(start("--config", broken, *words, "--overwrite"), code=1)
    assert f"error: recommender ended with exit code 1; its output is in {cheap}/logs/recommender.log" in said
    assert f"this goes on from here: python jobs/pipeline.py --config {broken}" in said
    assert "fewer than one batch" in (cheap / "logs" / "recommender.log").read_text()
    assert {name: began(cheap, name) for name in before} == before
    assert not (cheap / "run.json").exists() and not (cheap / "recommender" / "run.json").exists()
    # With the mistake mended it begins again, because it may.
    found = plans(finish(start("--config", short, *words, "--overwrite", "--plan-only")))
    assert found["annotate"] == "up to date" and found["recommender"].startswith("will run: other settings")


@pytest.mark.long
def test_a_pipeline_that_is_killed_goes_on_with_the_same_command(cheap, tmp_path):
    file = tmp_path / "longer.toml"
    file.write_text(QUICK.replace("epochs = 2", "epochs = 14\nsave_every = 4\neval_every = 4"))
    words = ["--config", file, "--output", cheap, *CHEAP, "--force", "annotate", "--overwrite"]
    process = start(*words)
    checkpoints = cheap / "recommender" / ".work" / "network-1" / "checkpoints"
    until(lambda: list(checkpoints.glob("checkpoint-*/complete.json")), process)
    (stage,) = [p for p in psutil.Process(process.pid).children() if "train_recommender" in " ".join(p.cmdline())]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert psutil.wait_procs([stage], timeout=10)[1] == [] and not (cheap / "recommender" / "run.json").exists()
    made = began(cheap, "annotate")
    found = plans(finish(start(*words)))
    assert found["annotate"] == "up to date" and found["recommender"] == "unfinished: goes on"
    # It was forced once.
    assert began(cheap, "annotate") == made
    curve = pq.read_table(cheap / "recommender" / "curve.parquet")["step"].to_pylist()
    assert curve == sorted(curve) and curve[-1] > 40


@pytest.mark.long
def test_it_passes_on_that_time_is_nearly_up(cheap, tmp_path):
    file = tmp_path / "long.toml"
    file.write_text(QUICK.replace("epochs = 2", "epochs = 400\nsave_every = 4\neval_every = 4"))
    process = start("--config", file, "--output", cheap, *CHEAP, "--overwrite")
    checkpoints = cheap / "recommender" / ".work" / "network-1" / "checkpoints"
    until(lambda: list(checkpoints.glob("checkpoint-*/complete.json")), process)
    process.send_signal(signal.SIGUSR1)
    said = finish(process, code=75)
    assert "recommender was stopped before the time limit; this goes on from here: python jobs/pipeline.py" in said
    assert plans(finish(start("--config", file, "--output", cheap, *CHEAP, "--plan-only")))["recommender"] == (
        "unfinished: goes on"
    )
