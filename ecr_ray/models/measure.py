"""What the bundled models are worth: `python -m ecr_ray.models.measure chat` (or judge, ppo) → evaluation.json.

Every figure has its trivial baselines beside it and a 95 % interval from resampling dialogues. cards.py makes the
model cards from these records.
"""

import argparse
from pathlib import Path

from ecr_ray import records, storage
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
    args = parser.parse_args()
    directory = args.model or tiny.HERE / f"ecr-tiny-{args.what}"
    found = MEASURES[args.what](directory, args.seed)
    record = {
        "evaluation": f"ecr-tiny-{args.what}",
        "command": ["python", "-m", "ecr_ray.models.measure", args.what],
        "seed": args.seed,
        "weights": storage.digest(next(directory / n for n in WEIGHTS if (directory / n).is_file()))["sha256"],
        "code": records.code_version(),
        "packages": records.package_versions(),
        "hardware": records.hardware(),
        **found,
    }
    storage.write_json(directory / RECORD, record)
    print(f"result: {directory / RECORD}")


if __name__ == "__main__":
    main()
