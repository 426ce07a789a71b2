import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from ecr_ray.config import PrepareConfig
from ecr_ray.data import prepare
from ecr_ray.data.reading import InputError
from ecr_ray.records import DIALOGUE, TURN
from tests.conftest import ROOT
from tests.data.test_reading import line


def job(*arguments):
    return subprocess.run(
        [sys.executable, "jobs/prepare.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_the_job_writes_dialogues_turns_and_what_it_refused(tmp_path):
    source, out = tmp_path / "train.jsonl", tmp_path / "out"
    source.write_bytes(line() + b"{]\n" + line(conversationId=None) + line(conversationId="8"))
    done = job("--input", source, "--output", out)
    assert done.returncode == 3
    assert done.stdout.strip().splitlines()[-1] == "2 dialogues, 4 turns, 2 lines in quarantine"
    assert pq.read_table(out / "dialogues").schema.equals(DIALOGUE)
    assert pq.read_table(out / "turns").schema.equals(TURN)
    refused = [json.loads(x) for x in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [(r["line"], r["field"]) for r in refused] == [(2, "(line)"), (3, "conversationId")]
    assert refused[0]["raw"] == "{]"
    run = json.loads((out / "run.json").read_text())
    assert run["rows"] == {"dialogues": 2, "turns": 4, "quarantined": 2} and len(run["failures"]) == 2


def test_a_clean_input_exits_with_0_and_leaves_no_quarantine(tmp_path):
    done = job("--output", tmp_path / "out")
    assert done.returncode == 0 and done.stdout.strip().endswith("0 lines in quarantine")
    assert not (tmp_path / "out" / "quarantine.jsonl").exists()


def test_a_finished_artifact_is_not_replaced_unless_asked(tmp_path):
    config = PrepareConfig(output=str(tmp_path / "out"), limit=10)
    assert prepare.prepare(config).turns == 10
    with pytest.raises(InputError, match="holds a finished run of prepare"):
        prepare.prepare(config)
    again = PrepareConfig(output=str(tmp_path / "out"), limit=3, overwrite=True)
    assert prepare.prepare(again).turns == 3


def test_files_of_somebody_else_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an artifact of this stage"):
        prepare.prepare(PrepareConfig(output=str(tmp_path), overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_large_inputs_become_several_files_in_the_order_of_the_dialogues(tmp_path):
    source = tmp_path / "train.jsonl"
    source.write_bytes(b"".join(line(conversationId=str(n)) for n in range(1500)))
    prepare.write_tables(str(source), str(tmp_path / "out"), limit=None, max_message_chars=1000, number_rows=False)
    files = sorted((tmp_path / "out" / "turns").iterdir())
    assert len(files) == 6
    ids = [i for f in files for i in pq.read_table(f)["dialogue_id"].to_pylist()]
    assert ids == [str(n) for n in range(1500) for _ in range(2)]
