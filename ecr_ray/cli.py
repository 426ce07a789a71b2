"""What every job's command line shares: how it starts, how it ends, and how it says what went wrong."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ecr_ray import config
from ecr_ray.errors import UserError

EXIT_PARTIAL = 3
# As sysexits.h has it: stopped on the way, to be started again.
EXIT_STOPPED = 75


class StoppedForLater(BaseException):
    """Time is nearly up (SIGUSR1, from the SLURM bootstrap): stop here, and go on in the next start.

    Not an Exception, like KeyboardInterrupt: no handler on the way may take it for a failure of its own.
    """


def run(main: Callable[[], int]) -> int:
    """Run a job: a mistake of the user's is one sentence on stderr and exit code 1, not a traceback."""
    _quiet()
    signal.signal(signal.SIGUSR1, _stop_for_later)
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except StoppedForLater:
        if "ray" in sys.modules:
            # Threads that wait for Ray are waited for at exit; this is what ends them.
            sys.modules["ray"].shutdown()
        print("stopped before the time limit; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED


def _stop_for_later(number: int, frame: Any) -> None:
    raise StoppedForLater


def _quiet() -> None:
    """Keep other people's start-up chatter off the screen; their warnings and errors stay."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # A driver runs no engine; what it imports of vLLM warns of a triton that no CPU needs. Engines warn as they like.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def announce(stage: str, settings: Any) -> None:
    """Print the effective settings."""
    print(f"{stage} with\n{config.describe(settings)}", flush=True)


def finish(summary: str, *, partial: bool) -> int:
    """Print the last line of output and return the exit code that goes with it."""
    sys.stdout.flush()
    print(summary, flush=True)
    return EXIT_PARTIAL if partial else 0
