"""Dialogues → judge scores: `python jobs/score.py`, or `ray job submit -- python jobs/score.py`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect
from ecr_ray.scoring import run


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.ScoreConfig, "score", prog="jobs/score.py")
    if settings.list_judges:
        for judge in config.load_judges(settings.profile, settings.config).values():
            print(f"{judge.name:<28} {judge.backend:<5} {judge.model}")
        return 0
    cli.announce("score", settings)
    judges = run.chosen_judges(settings)
    result = None if settings.plan_only else run.finished(settings, judges)
    if result is None:
        print(f"on {connect.connect()}")
        together = run.plan(judges)
        if settings.plan_only:
            return 0
        together = {"auto": together, "yes": True, "no": False}[settings.side_by_side]
        result = run.score(settings, judges, side_by_side=together)
    else:
        print("this run is already complete; --overwrite runs it again")
    print("\n".join(result.lines))
    rows = result.run["rows"]
    print(f"result: {result.output} (open {result.output}/summary.html)")
    return cli.finish(
        f"{rows['turns']:,} turns, {rows['scores']:,} scores, {rows['failed']:,} failed, "
        f"{rows['quarantined']:,} input lines in quarantine",
        partial=rows["failed"] + rows["quarantined"] > 0,
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
