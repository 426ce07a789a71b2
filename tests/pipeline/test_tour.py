"""What the README shows of a pipeline is what its stages said."""

import json

from ecr_ray.pipeline import tour
from ecr_ray.pipeline.stages import STAGES

LOG = """$ python jobs/sft.py --profile tiny
sft with                    (further settings left out here)
  input                 sample
on the Ray cluster at 127.0.0.1:6379
sft:  50%|█████     | 4/8 [00:20<00:20,  5.13s/step, loss=7.867]\rsft: 100%|██████████| 8/8 [00:24<00:00, 3.00s/step]
183 answers, 8,799 of 22,437 tokens learnt

held-out loss 7.684 -> 7.398 nats a token
result: runs/pipeline/sft
8 steps, 0 input lines in quarantine
"""


def test_progress_and_settings_are_left_out():
    said = tour.last_lines(LOG, 4)
    assert said[0].startswith("183 answers") and said[-1].startswith("8 steps") and len(said) == 4
    assert tour.last_lines(LOG, 2) == said[-2:]
    assert len(tour.last_lines(LOG, 99)) == 4


def test_every_stage_is_on_the_tour(tmp_path):
    (tmp_path / "logs").mkdir()
    for stage in STAGES:
        (tmp_path / "logs" / f"{stage.name}.log").write_text(LOG)
    stages = {stage.name: {"seconds": 61.0} for stage in STAGES}
    (tmp_path / "run.json").write_text(json.dumps({"stages": stages, "hardware": {"cores": 2, "cpu": "some"}}))
    text = tour.text(tmp_path)
    assert [line for line in text.splitlines() if line.endswith(", 1:01")] == [f"{s.name}, 1:01" for s in STAGES]
    assert text.endswith("all of it: 8:08 min on 2 cores (some)\n")
