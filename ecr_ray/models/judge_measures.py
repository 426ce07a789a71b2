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

from ecr_ray import prompts
from ecr_ray.critic import people
from ecr_ray.data import ratings
from ecr_ray.data.ratings import Rated
from ecr_ray.errors import UserError
from ecr_ray.models.measuring import RESAMPLES
from ecr_ray.policy import judging

UNTRAINED = "untrained twin"
_ROOT = Path(__file__).parents[2]


def measure(directory: Path, seed: int) -> dict[str, Any]:
    """All figures of a bundled judge, or of one made like it: of its overall score, and of each aspect by itself."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "judge.toml"
        config.write_text(_table(directory.name, str(directory)))
        found = against_people(directory.name, str(config), judging.RUBRIC.name, seed)
    return found | {"labels": judging.LABELS}


def against_people(judge: str, config: str | None, rubric: str, seed: int) -> dict[str, Any]:
    """How far any judge goes with every kind of rating, beside baselines.

    Args:
        judge: its name; `config` is the file that defines it, if it is not one of those known by name.

    Returns:
        `rows` as of people.against.

    Raises:
        UserError: the scoring failed, or left a turn out.
    """
    held_out = [turn for turn in ratings.rated_turns() if ratings.is_held_out(turn.dialogue_id)]
    with tempfile.TemporaryDirectory() as folder:
        random = Path(folder) / "judge.toml"
        random.write_text(_table("random", "tiny:0"))
        scores = {judge: (ours := score(held_out, judge, config, rubric))["overall"]}
        scores |= {f"its {aspect}": ours[aspect] for aspect in prompts.RUBRICS[rubric].aspects}
        scores[UNTRAINED] = score(held_out, "random", str(random), rubric)["overall"]
    found = people.against(held_out, scores, judge, resamples=RESAMPLES, seed=seed)
    rows = [{**row, "measure": f"{row['measure']}, {row['head']}"} for row in found]
    return {"rows": rows, "held_out": len(held_out)}


def score(turns: Sequence[Rated], judge: str, config: str | None, rubric: str) -> dict[str, np.ndarray]:
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
        words = [sys.executable, str(_ROOT / "jobs" / "score.py"), "--judges", judge, "--rubric", rubric]
        words += ["--config", config] if config else []
        words += ["--max-failure-rate", "0", "--input", str(work / "turns.jsonl"), "--output", str(work / "scores")]
        # Its progress is shown as it comes.
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise UserError(f"jobs/score.py ended with {done.returncode}: {done.stdout[-2000:]}")
        table = pq.read_table(work / "scores" / "scores.parquet").to_pylist()
    by_id = {row["turn_id"]: row for row in table}
    names = [*prompts.RUBRICS[rubric].aspects, "overall"]
    return {name: np.array([by_id[line["turn_id"]][name] for line in lines]) for name in names}


def _table(name: str, model: str) -> str:
    """A judge's table in a config file."""
    judge = {"model": model, "device": "cpu", "max_model_len": 2048, "max_num_seqs": 64, "dtype": "float32"}
    return (
        "\n".join([f"[judges.{json.dumps(name)}]", *(f"{key} = {json.dumps(value)}" for key, value in judge.items())])
        + "\n"
    )
