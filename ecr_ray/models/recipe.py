"""How the bundled models are made: `python -m ecr_ray.models.recipe NAME`, NAME as `--help` lists them.

Needs ReDial (`emotion` GoEmotions, `recommender` the DBpedia graph) below ECR_DATA_DIR; made in this order. Every model
is trained by the project's jobs on the split `train` only; `--print` shows the commands without running them. What a
run leaves in runs/models is picked up again when the same is run once more.
"""

import argparse
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ecr_ray import prompts
from ecr_ray.data import reading, sample
from ecr_ray.models import tiny
from ecr_ray.policy import judging
from ecr_ray.recommender.model import PARTS

RUNS = Path("runs/models")
# Split → turns: as many as two cores train on in a quarter of an hour.
_SCORED = {"train": 28_000, "valid": 2_000, "test": 3_500}
_REDIAL = "--input redial:train --valid-input redial:valid --bf16 --seed 0 --eval-every 400 --save-every 400"
_ANNOTATED = (
    f"{name} {RUNS}/emotions-{split}"
    for name, split in zip(("--input", "--valid-input", "--test-input"), _SCORED, strict=True)
)
_RECOMMENDER = (
    f"jobs/train_recommender.py {' '.join(_ANNOTATED)} --learning-rate 1.5e-3 --dropout 0.5 "
    "--eval-every 50 --save-every 200 --seed 0"
)
_JUDGE = (
    "jobs/sft.py --recipes judge --base ecr-tiny-chat --bf16 --seed {seed} --eval-every {look} --save-every {look} "
    "--epochs 1 --learning-rate 5e-4 --save-dtype float16"
)
# From scratch the whole of every dialogue is learnt, then only how to answer.
STEPS = {
    "chat": {
        "language": f"jobs/sft.py {_REDIAL} --base tiny:0 --learn all --epochs 4 --learning-rate 1.5e-3",
        "chat": f"jobs/sft.py {_REDIAL} --base {RUNS}/language/model --epochs 1 --learning-rate 3e-4 "
        "--save-dtype float16",
    },
    # Several people rated a turn, and each view is an example: one pass over them sees every turn three times.
    "judge": {
        "judge": _JUDGE.format(seed=0, look=200),
    },
    # Two that no critic learnt from, and that have no rating in common: what evaluations ask.
    "judge-a": {
        "judge-a": f"{_JUDGE.format(seed=1, look=80)} --max-steps 320 --rated-dialogues first-half",
    },
    "judge-b": {
        "judge-b": f"{_JUDGE.format(seed=2, look=80)} --max-steps 320 --rated-dialogues second-half",
    },
    # The reaction and what it answers are near each other: short texts say more of it than whole dialogues.
    "reader": {
        "reader": "jobs/train_critic.py --learn reactions --bf16 --seed 0 --train-layers 3 --max-length 48 "
        "--epochs 1.5 --learning-rate 3e-4 --eval-every 40 --save-every 120",
    },
    "critic": {
        **{
            f"scores-{split}": f"jobs/score.py --input redial:{split} --limit {count}"
            for split, count in _SCORED.items()
        },
        "critic": f"jobs/train_critic.py --targets {' '.join(str(RUNS / f'scores-{split}') for split in _SCORED)} "
        "--reader ecr-tiny-reader --bf16 --seed 0 --train-layers 3 --max-length 72 --epochs 1 --learning-rate 2e-4 "
        "--eval-every 200 --save-every 200",
    },
    # Three weights of the KL; the last one is kept.
    "ppo": {
        f"ppo-{beta}": "jobs/ppo.py --input redial:train --valid-input redial:valid --limit 10000 --titles redial "
        f"--bf16 --seed 0 --steps 60 --batch 64 --minibatch 32 --eval-every 15 --eval-prompts 200 --beta {beta} "
        "--save-dtype float16"
        for beta in ("0.05", "0.1", "0.2")
    },
    "emotion": {
        "emotion": "jobs/train_emotion.py --bf16 --seed 0 --epochs 2 --eval-every 300 --save-every 600",
    },
    # What the published figures are about, with every part left out once; then the one over the embedded films.
    "recommender": {
        **{f"emotions-{split}": f"jobs/annotate.py --input redial:{split}" for split in _SCORED},
        "recommender-redial": f"{_RECOMMENDER} --catalogue redial --width 192 --members 3 "
        "--batch 256 --micro-batch 256 --epochs 5 "
        f"--without weights --ablate {' '.join(PARTS)}",
        "recommender": f"{_RECOMMENDER} --catalogue sample --width 64 --batch 64 --micro-batch 64 "
        "--epochs 8 --without weights",
    },
}


def corpus() -> Iterator[str]:
    """What the tokenizer learns from: ReDial's train split, the embedded sample, the prompts around them."""
    for row in reading.read(reading.find("redial:train"), max_message_chars=20_000, number_rows=False):
        if isinstance(row, reading.Row):
            yield from (message["text"] for message in row.value["messages"])
    rubrics = (prompts.rubric_text(rubric) for rubric in prompts.RUBRICS.values())
    yield from itertools.chain(sample.texts(), rubrics, [prompts.POLICY_SYSTEM])


def make_tokenizer() -> None:
    """Learn the tokenizer and put it into the package."""
    tiny.build_tokenizer(corpus()).save_pretrained(tiny.TOKENIZER)
    print(f"result: {tiny.TOKENIZER}")


def commands(model: str) -> list[list[str]]:
    """The command lines that train a model, in order."""
    return [[*shlex.split(words), "--output", str(RUNS / name)] for name, words in STEPS[model].items()]


def train(model: str) -> None:
    """Run them, and put the last one's model and run record into the package."""
    for words in commands(model):
        # 3: done, but some input lines are in quarantine, as ReDial's are.
        if (code := subprocess.run([sys.executable, *words], check=False).returncode) not in (0, 3):
            sys.exit(code)
    bundle(model, RUNS, tiny.HERE / f"ecr-tiny-{model}")


def bundle(model: str, runs: Path, target: Path) -> None:
    """Put the last step's model and every step's run record into the package."""
    last = list(STEPS[model])[-1]
    shutil.copytree(runs / last / "model", target, dirs_exist_ok=True)
    for step in STEPS[model]:
        text = (runs / step / "run.json").read_text()
        # Where the files lay on the machine that trained it says nothing to others.
        for place, name in ((os.environ["ECR_DATA_DIR"], "$ECR_DATA_DIR"), (str(Path.cwd()), ".")):
            text = text.replace(place, name)
        (target / ("run.json" if step == last else f"run-{step}.json")).write_text(text)
    if model.startswith("judge"):
        judging.write_marker(target)
    print(f"result: {target}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ecr_ray.models.recipe", description=__doc__)
    parser.add_argument("what", choices=["tokenizer", *STEPS])
    parser.add_argument("--print", action="store_true", help="show the commands only")
    args = parser.parse_args()
    if args.what == "tokenizer":
        make_tokenizer()
    elif args.print:
        print("\n".join(shlex.join(["python", *words]) for words in commands(args.what)))
    else:
        train(args.what)


if __name__ == "__main__":
    main()
