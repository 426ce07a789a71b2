"""How fast a policy is fine-tuned, against TRL's SFTTrainer run directly on the same rows, settings and model.

Every arm is a process of its own with all cores. Tokens/s are counted from the end of the first step on; the time to
the first step is from the process's start and holds everything: imports, Ray, the model, the optimizer.
"""

import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecr_ray import benchmarks
from ecr_ray.config import SftConfig, load
from ecr_ray.models import tiny
from ecr_ray.policy import sft, sft_worker

MODULE = "ecr_ray.benchmarks.sft"
STEPS = 8
# A run of its own is not evaluated: that is the same work in both.
_CHANGES = {"max_steps": STEPS, "log_every": 1, "eval_every": 10_000, "save_every": 10_000, "valid_share": 0.0}


def run(rounds: int) -> list[dict[str, Any]]:
    """All rows of the record. With ReDial's train split where it is, else with the embedded sample."""
    real = bool(os.environ.get("ECR_DATA_DIR"))
    settings = dataclasses.replace(
        load(SftConfig, "sft", []), input="redial:train" if real else "sample", limit=1500 if real else None, **_CHANGES
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sft.prepare(settings, sft.check(settings), work)
        (work / "settings.json").write_text(json.dumps(asdict(settings)))
        arms = {
            name: lambda name=name: benchmarks.run_arm(MODULE, name, folder)
            for name in ("ours", "ours-2-workers", "plain")
        }
        found = benchmarks.in_turn(arms, rounds)

    def each(arm: str, key: str = "tokens_per_s") -> list[float]:
        return [result[key] for result in found[arm]]

    what = "ReDial train dialogues" if real else "dialogues of the embedded sample"
    work_text = f"{STEPS} steps of {settings.batch} x {settings.max_length} tokens, {what}, {settings.base}"
    peer = "TRL `SFTTrainer`, run directly"
    return [
        benchmarks.row(peer, "tokens/s, one worker, ZeRO-1", each("ours"), each("plain"), work_text),
        benchmarks.row(peer, "tokens/s, two workers, ZeRO-1", each("ours-2-workers"), each("plain"), work_text),
        benchmarks.row(
            peer, "from the start to the end of the first step, s",
            each("ours", "first_step_s"), each("plain", "first_step_s"), work_text,
        ),
    ]  # fmt: skip


def main(arm: str, folder: str) -> dict[str, Any]:
    """Run one arm in this process."""
    began = time.time()
    work = Path(folder)
    settings = SftConfig(**json.loads((work / "settings.json").read_text()))
    (work / sft_worker.CURVE).unlink(missing_ok=True)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    (work / "done.json").unlink(missing_ok=True)
    if arm == "plain":
        _plain(settings, work)
    else:
        from ecr_ray.cluster import connect

        connect.connect()
        workers = 2 if arm == "ours-2-workers" else 1
        shutil.rmtree(work / "ray", ignore_errors=True)
        sft.train(dataclasses.replace(settings, workers=workers), sft.check(settings), work)
    lines = [json.loads(line) for line in (work / sft_worker.CURVE).read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    first, last = steps[0], steps[-1]
    return {
        "tokens_per_s": (last["num_tokens"] - first["num_tokens"]) / (last["at"] - first["at"]),
        "first_step_s": first["at"] - began,
        "loss": last["loss"],
    }


def _plain(settings: SftConfig, work: Path) -> None:
    """The trainer as its documentation runs it: no Ray, no DeepSpeed."""
    from datasets import Dataset
    from trl import SFTTrainer

    without = dataclasses.replace(settings, zero_stage=0)
    trainer = SFTTrainer(
        model=sft_worker.load_model(tiny.resolve_model(settings.base), settings, None),
        args=sft_worker.arguments(without, work, "cpu", 1, has_valid=False),
        train_dataset=Dataset.from_parquet(str(work / "train.parquet"), cache_dir=str(work / "cache")),
        processing_class=sft.check(settings),
        callbacks=[benchmarks.step_times(work / sft_worker.CURVE)],
    )
    trainer.train()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
