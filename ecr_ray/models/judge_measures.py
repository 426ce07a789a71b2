"""The judge's figures: how far its scores go with what people said of turns that it has not learnt from.

The scores come from jobs/score.py, as a user's would.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ecr_ray.critic import people
from ecr_ray.data import ratings
from ecr_ray.data.ratings import Rated
from ecr_ray.errors import UserError
from ecr_ray.models.measuring import RESAMPLES
from ecr_ray.policy import judging

UNTRAINED = "untrained twin"
_ROOT = Path(__file__).parents[2]


def measure(directory: Path, seed: int) -> dict[str, Any]:
    """All figures of the judge: of its overall score, and of each aspect by itself."""
    held_out = [turn for turn in ratings.rated_turns() if ratings.is_held_out(turn.dialogue_id)]
    name = directory.name
    scores = {name: (ours := score(held_out, str(directory)))["overall"]}
    scores |= {f"its {aspect}": ours[aspect] for aspect in judging.RUBRIC.aspects}
    scores[UNTRAINED] = score(held_out, "tiny:0")["overall"]
    found = people.against(held_out, scores, name, resamples=RESAMPLES, seed=seed)
    rows = [{**row, "measure": f"{row['measure']}, {row['head']}"} for row in found]
    return {"rows": rows, "labels": judging.LABELS, "held_out": len(held_out)}


def score(turns: Sequence[Rated], model: str) -> dict[str, np.ndarray]:
    """The judge's scores of every turn by aspect, and `overall`, (N,) each; jobs/score.py gives them.

    Raises:
        UserError: the scoring failed, or left a turn out.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lines = [
            {"turn_id": f"{turn.dialogue_id}:{n}", "context": turn.context, "response": turn.response}
            for n, turn in enumerate(turns)
        ]
        (work / "turns.jsonl").write_text("\n".join(map(json.dumps, lines)))
        judge = {"model": model, "device": "cpu", "max_model_len": 2048, "max_num_seqs": 64, "dtype": "float32"}
        settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in judge.items())
        (work / "judge.toml").write_text(f"[judges.measured]\n{settings}\n")
        words = [sys.executable, str(_ROOT / "jobs" / "score.py"), "--config", str(work / "judge.toml")]
        words += ["--judges", "measured", "--input", str(work / "turns.jsonl"), "--output", str(work / "scores")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"jobs/score.py ended with {done.returncode}: {done.stderr[-2000:]}")
        table = pq.read_table(work / "scores" / "scores.parquet").to_pylist()
    by_id = {row["turn_id"]: row for row in table}
    names = [*judging.RUBRIC.aspects, "overall"]
    return {name: np.array([by_id[line["turn_id"]][name] for line in lines]) for name in names}
