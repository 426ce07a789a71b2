"""Dialogues → a report, stage by stage: `python jobs/pipeline.py`, or `ray job submit -- python jobs/pipeline.py`."""

import sys
from pathlib import Path

from ecr_ray import cli, config


def main() -> int:
    """Parse the settings, show the plan, run what must run, say where the results are."""
    settings = config.load(config.PipelineConfig, "pipeline", prog="jobs/pipeline.py")
    from ecr_ray.pipeline import run

    cli.announce("pipeline", settings)
    if settings.plan_only:
        steps = run.make(settings)
        print("\n".join(run.lines(settings, steps)))
        run.check(steps)
        return 0
    with run.alone(settings):
        steps = run.make(settings)
        print("\n".join(run.lines(settings, steps)), flush=True)
        run.check(steps)
        result = run.run(settings, steps, Path(__file__).parent)
    print(f"\n{run.summary(result)}")
    print(f"result: {result.output}")
    return cli.finish(f"complete: {', '.join(result.run['stages'])}", partial=result.partial)


if __name__ == "__main__":
    sys.exit(cli.run(main))
