"""Scores → a critic: `python jobs/train_critic.py`, or `ray job submit -- python jobs/train_critic.py`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.CriticConfig, "critic", prog="jobs/train_critic.py")
    # torch and transformers take seconds: not before --help.
    from ecr_ray.critic import train

    cli.announce("critic", settings)
    reader = train.check(settings)
    result = train.finished(settings)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = train.train_critic(settings, reader)
    else:
        print("this run is already complete; --overwrite runs it again")
    print("\n".join(train.lines(result.run)))
    print(f"result: {result.output} (open {result.output}/summary.html; the critic is in {result.output}/model)")
    left_out = sum(result.run["failures"].get(reason, 0) for reason in (train.TOO_LONG, train.NO_TARGET))
    learnt, steps = result.run["rows"]["train_turns"], result.run["result"]["step"]
    return cli.finish(
        f"{learnt:,} turns learnt, {steps:,} steps, {left_out:,} turns could not be used",
        partial=left_out > 0,
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
