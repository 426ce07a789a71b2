"""Start a job that ends when the pipeline does, however it does: `python child.py PARENT COMMAND...`.

A stage that outlived a killed pipeline would write where the next one's does. This process becomes the job: it is set
up before anything is imported, and not by a function after a fork, which threads of Ray would be in the middle of.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for the end of this process with its parent's, and become the command."""
    parent, *command = sys.argv[1:]
    # Not SIGTERM: a driver that waits for Ray would not notice it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(f"process {parent}, which wanted {command[-1]} run, is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
