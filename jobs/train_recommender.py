"""Dialogues → a recommender: `python jobs/train_recommender.py`, or by `ray job submit`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the stage, say where the result is."""
    settings = config.load(config.RecommenderConfig, "recommender", prog="jobs/train_recommender.py")
    # torch and transformers take seconds: not before --help.
    from ecr_ray.recommender import train

    cli.announce("recommender", settings)
    what = train.check(settings)
    for note in what.notes:
        print(f"note: {note}")
    result = train.finished(settings)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = train.train_recommender(settings, what)
    else:
        print("this run is already complete; --overwrite runs it again")
    print("\n".join(train.lines(result.run)))
    print(f"result: {result.output} (open {result.output}/summary.html; the recommender is in {result.output}/model)")
    rows, steps = result.run["rows"], sum(network["step"] for network in result.run["result"].values())
    return cli.finish(
        f"{rows['train_turns']:,} turns learnt, {steps:,} steps, {rows['quarantined']:,} input lines in quarantine",
        partial=rows["quarantined"] > 0,
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
