"""What the bundled models are worth: `python -m ecr_ray.models.measure chat` (or judge, ppo) → evaluation.json.

Every figure has its trivial baselines beside it and a 95 % interval from resampling dialogues. cards.py makes the
model cards from these records.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecr_ray import prompts, records, storage
from ecr_ray.config import load_judges
from ecr_ray.models import chat_measures, judge_measures, ppo_measures, tiny

RECORD = "evaluation.json"
MEASURES = {
    "chat": chat_measures.measure,
    **dict.fromkeys(("judge", "judge-a", "judge-b"), judge_measures.measure),
    "ppo": ppo_measures.measure,
}
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ecr_ray.models.measure", description=__doc__)
    parser.add_argument("what", choices=list(MEASURES))
    parser.add_argument("--model", type=Path, help="directory; by default the bundled one")
    parser.add_argument("--seed", type=int, default=0)
    named = parser.add_argument_group("any judge against people's ratings (with `judge`)")
    named.add_argument("--judge", help="its name, as in jobs/score.py --judges")
    named.add_argument("--config", help="the .toml file whose table [judges.NAME] defines it")
    named.add_argument("--rubric", choices=list(prompts.RUBRICS), default="ecr")
    named.add_argument("--record", type=Path, help="file for the figures (default: runs/people-JUDGE.json)")
    args = parser.parse_args()
    if args.judge:
        _measure_named(args)
        return
    directory = args.model or tiny.HERE / f"ecr-tiny-{args.what}"
    found = MEASURES[args.what](directory, args.seed)
    command = ["python", "-m", "ecr_ray.models.measure", args.what]
    _write(directory / RECORD, f"ecr-tiny-{args.what}", command, args.seed, directory, found)


def _measure_named(args: argparse.Namespace) -> None:
    """How far a judge that somebody brought goes with people."""
    judge = load_judges("tiny", args.config).get(args.judge)
    if args.what != "judge" or judge is None:
        raise SystemExit(f"there is no judge {args.judge!r}: --judge goes with `judge`, and with --config where it is")
    found = judge_measures.against_people(args.judge, args.config, args.rubric, args.seed)
    command = ["python", "-m", "ecr_ray.models.measure", *sys.argv[1:]]
    target = args.record or Path("runs") / f"people-{args.judge}.json"
    model = Path(tiny.resolve_model(judge.model))
    _write(target, args.judge, command, args.seed, model, found | {"rubric": args.rubric})


def _write(target: Path, name: str, command: list[str], seed: int, model: Path, found: Mapping[str, Any]) -> None:
    weights = next((model / n for n in WEIGHTS if (model / n).is_file()), None)
    record = {
        "evaluation": name,
        "command": command,
        "seed": seed,
        "weights": storage.digest(weights)["sha256"] if weights else None,
        "code": records.code_version(),
        "packages": records.package_versions(),
        "hardware": records.hardware(),
        **found,
    }
    storage.write_json(target, record)
    print(f"result: {target}")


if __name__ == "__main__":
    main()
