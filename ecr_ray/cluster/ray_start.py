"""`ray`, loaded ahead of its time: reads its arguments from standard input once its node may start.

Loading Ray's command line takes a second of a core, far more from a busy shared file system; every node does it
while the head starts, not after. The arguments come as one line of JSON: {"arguments": [...], "env": {...}}.
"""

import json
import os
import sys
from collections.abc import Callable


def load() -> Callable[[], None]:
    """Ray's command line."""
    # It would load Serve's as well, and pandas with it: half of the time, and `ray start` needs neither. A None here
    # has that import fail, which Ray allows for.
    sys.modules["ray.serve.scripts"] = None
    from ray.scripts.scripts import main

    return main


def run() -> None:
    """Load, wait for the arguments, go."""
    main = load()
    line = sys.stdin.readline()
    if not line:
        # The agent is gone, or ends before anything was started.
        sys.exit(1)
    given = json.loads(line)
    # Ray's processes inherit standard input, which is of no use to them.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(given["env"])
    sys.argv = ["ray", *given["arguments"]]
    sys.exit(main())


if __name__ == "__main__":
    run()
