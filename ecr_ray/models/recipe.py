"""How the bundled models are made: `python -m ecr_ray.models.recipe tokenizer|chat|judge`, in this order.

Needs ReDial below ECR_DATA_DIR. Every model is trained by jobs/sft.py on the split `train` only; these are the
commands, and `--print` shows them without running them.
"""

import argparse
import itertools
from collections.abc import Iterator

from ecr_ray import prompts
from ecr_ray.data import reading, sample
from ecr_ray.models import tiny


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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ecr_ray.models.recipe", description=__doc__)
    parser.add_argument("what", choices=["tokenizer"])
    parser.parse_args()
    make_tokenizer()


if __name__ == "__main__":
    main()
