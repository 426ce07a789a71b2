"""What every stage of a pipeline said at its end: `python -m ecr_ray.pipeline.tour runs/pipeline`.

README.md shows it between `<!-- pipeline -->` marks, out of `ecr_ray/benchmarks/results/pipeline.txt`.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecr_ray.benchmarks.figures import RESULTS
from ecr_ray.pipeline.stages import STAGES

# A progress bar, by tqdm or by Ray Data.
_PROGRESS = re.compile(r"\d+%\||\r|(step|row|turn|it)/s[\],]")
# The head of the settings, libraries' warnings, the planner's table.
_ASIDE = re.compile(r"^\w+ with\b|Warning|WARNING|^judge  |^cluster: |(  +[\d.]+){4}$")
MOST = 4


def text(output: Path) -> str:
    """The tour of a finished pipeline.

    Args:
        output: the pipeline's directory, with its run.json and logs/.
    """
    run = json.loads((output / "run.json").read_text())
    lines = ["$ python jobs/pipeline.py"]
    for stage in STAGES:
        lines += ["", f"{stage.name}, {_clock(run['stages'][stage.name]['seconds'])}"]
        lines += [f"  {line}" for line in last_lines((output / "logs" / f"{stage.name}.log").read_text())]
    return "\n".join([*lines, "", _whole(run)]) + "\n"


def last_lines(log: str, most: int = MOST) -> list[str]:
    """What a job said last, without progress bars and the list of its settings."""
    return list(_said(log))[-most:]


def _said(log: str) -> Iterator[str]:
    for line in log.splitlines():
        shown = line.strip() and not line.startswith(("  ", "$ ", "on a Ray", "on the Ray"))
        if shown and not _PROGRESS.search(line) and not _ASIDE.search(line):
            yield line.rstrip()


def _whole(run: Mapping[str, Any]) -> str:
    machine = run["hardware"]
    seconds = sum(stage["seconds"] for stage in run["stages"].values())
    return f"all of it: {_clock(seconds)} min on {machine['cores']} cores ({machine['cpu']})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ecr_ray.pipeline.tour", description=__doc__)
    parser.add_argument("output", type=Path, help="directory of a finished pipeline")
    args = parser.parse_args()
    (RESULTS / "pipeline.txt").write_text(text(args.output))
    print(f"result: {RESULTS / 'pipeline.txt'}")


if __name__ == "__main__":
    main()
