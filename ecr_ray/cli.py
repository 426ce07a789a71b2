"""What every job's command line shares: how it starts, how it ends, and how it says what went wrong."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from ecr_ray import config
from ecr_ray.errors import UserError

EXIT_PARTIAL = 3


def run(main: Callable[[], int]) -> int:
    """Run a job: a mistake of the user's is one sentence on stderr and exit code 1, not a traceback."""
    _quiet()
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130


def _quiet() -> None:
    """Keep other people's start-up chatter off the screen; their warnings and errors stay."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def announce(stage: str, settings: Any) -> None:
    """Print the effective settings."""
    print(f"{stage} with\n{config.describe(settings)}", flush=True)


def finish(summary: str, *, partial: bool) -> int:
    """Print the last line of output and return the exit code that goes with it."""
    sys.stdout.flush()
    print(summary, flush=True)
    return EXIT_PARTIAL if partial else 0
