"""Where models come from."""

import json

from ecr_ray import storage
from ecr_ray.data import sample
from ecr_ray.evaluation import lineage


def test_the_bundled_critic_was_taught_by_the_bundled_judge():
    assert lineage.teachers("ecr-tiny-critic") == {"ecr-tiny-critic", "ecr-tiny-judge"}


def test_behind_the_bundled_policy_are_its_base_the_critic_and_the_scores():
    rows = lineage.table([lineage.of("ecr-tiny-ppo")])
    assert {row["stage"] for row in rows} == {"sft", "score", "critic", "ppo"}
    assert rows[-1]["stage"] == "ppo" and set(rows[-1]["from"]) == {"ecr-tiny-chat", "ecr-tiny-critic"}
    assert [row["finished"] for row in rows] == sorted(row["finished"] for row in rows)


def test_what_somebody_has_where_a_bundled_models_maker_had_his_is_not_behind_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("score", "models/scores-train"):
        write_run(tmp_path / "runs" / name, "score", judges=["mine"])
    assert lineage.teachers("ecr-tiny-critic") == {"ecr-tiny-critic", "ecr-tiny-judge"}


def write_run(folder, stage, **settings):
    folder.mkdir(parents=True)
    source = str(sample.dialogues_path())
    config = {"input": "sample", "max_message_chars": 20_000, "recipes": ["dialogue"], **settings}
    run = {"stage": stage, "config": config, "inputs": [storage.digest(source)], "finished": "2026"}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "model").mkdir()
    return str(folder / "model")


def test_a_policy_that_learnt_from_the_prompts_dialogues_is_found(tmp_path):
    base = write_run(tmp_path / "sft", "sft", base="tiny:0")
    policy = write_run(tmp_path / "ppo", "ppo", base=base, critic="ecr-tiny-critic")
    rows = [json.loads(line) for line in sample.dialogues_path().read_text().splitlines()]
    by_split = {row["_split"]: row["conversationId"] for row in rows}
    found = lineage.overlap(policy, [by_split["train"], by_split["test"], by_split["train"]])
    assert found == lineage.Overlap(2, 3)


def test_a_policy_without_a_record_or_whose_data_is_gone_is_not_called_clean(tmp_path):
    assert "has no run record" in lineage.overlap(str(tmp_path), ["d"]).unknown
    policy = write_run(tmp_path / "sft", "sft", base="tiny:0", input=str(tmp_path / "gone.jsonl"))
    assert "cannot be read again" in lineage.overlap(policy, ["d"]).unknown


def test_data_that_has_changed_since_is_told(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(sample.dialogues_path().read_text())
    policy = write_run(tmp_path / "sft", "sft", base="tiny:0", input=str(path))
    assert lineage.overlap(policy, ["sample-001"]) == lineage.Overlap(1, 1)
    path.write_text("")
    assert "is not what it was" in lineage.overlap(policy, ["sample-001"]).unknown
