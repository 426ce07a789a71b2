"""Serve the policy and its recommendations: `python jobs/serve.py`, or `ray job submit -- python jobs/serve.py`."""

import sys

from ecr_ray import cli, config
from ecr_ray.cluster import connect


def main() -> int:
    """Parse the settings, connect, start the endpoint, stay until it is stopped."""
    settings = config.load(config.ServeConfig, "serve", prog="jobs/serve.py")
    # Serve, torch and FastAPI take seconds: not before --help.
    from ecr_ray.serving import run

    if settings.build:
        print(f"written: {run.write_config(run.located(settings))} (serve deploy {settings.build})")
        return 0
    cli.announce("serve", settings)
    run.check(settings)
    print(f"on {connect.connect()}", flush=True)
    run.serve_until_stopped(run.located(settings))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
