"""Settings → the best critic: `python jobs/tune_critic.py`, or `ray job submit -- python jobs/tune_critic.py`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, run the search, say where the result is."""
    settings = config.load(config.TuneConfig, "tune", prog="jobs/tune_critic.py")
    # torch and transformers take seconds: not before --help.
    from ecr_ray.critic import tune

    cli.announce("tune", settings)
    search = tune.check(settings)
    result = tune.finished(search)
    if result is None:
        print(f"on {connect.connect()}", flush=True)
        result = tune.tune(search)
    else:
        print("this search is already complete; --overwrite runs it again")
    best, failed = result.run["best"], len(result.run["failures"])
    print(f"best: trial {best['trial']}, {best['best_error']:.3f} of the held-out variance not explained (the mean: 1)")
    print(f"  {', '.join(f'{name} {value}' for name, value in best['chosen'].items())}")
    print(f"result: {result.output} (open {result.output}/summary.html)")
    print(f"next: python jobs/train_critic.py --config {result.output}/best.toml")
    return cli.finish(f"{result.run['rows']['trials']:,} trials, {failed:,} failed", partial=failed > 0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
