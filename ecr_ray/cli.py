"""What every job's command line shares: how it starts, how it ends, and how it says what went wrong."""

import os
import sys
from collections.abc import Callable
from typing import Any

from ecr_ray import config

EXIT_FAILED, EXIT_PARTIAL, EXIT_TOO_MANY_FAILURES = 1, 3, 4


class JobError(RuntimeError):
    """A job that cannot go on for a reason its user can mend; the message says how."""

    exit_code = EXIT_FAILED


def run(main: Callable[[], int]) -> int:
    """Run a job: a mistake of the user's is one sentence on stderr and exit code 1, not a traceback."""
    from ecr_ray.data.reading import InputError

    # Nothing in this project is fetched behind the user's back unless they allow it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return main()
    except (config.ConfigError, InputError, JobError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", EXIT_FAILED)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130


def announce(stage: str, settings: Any) -> None:
    """Print the effective settings."""
    print(f"{stage} with\n{config.describe(settings)}", flush=True)


def finish(summary: str, *, partial: bool) -> int:
    """Print the last line of output and return the exit code that goes with it."""
    sys.stdout.flush()
    print(summary, flush=True)
    return EXIT_PARTIAL if partial else 0
