"""Dialogues → dialogues and turns as Parquet: `python jobs/prepare.py --help`."""

import sys

from ecr_ray import cli, config
from ecr_ray.data import prepare


def main() -> int:
    """Parse the settings, run the stage, say where the result is."""
    settings = config.load(config.PrepareConfig, "prepare", prog="jobs/prepare.py")
    cli.announce("prepare", settings)
    done = prepare.prepare(settings)
    print(f"result: {settings.output}")
    return cli.finish(done.summary(), partial=done.quarantined > 0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
