"""On a machine of few cores: Ray's own processes give way to what computes.

About ten of them wake up to a hundred times a second. Each time Linux interrupts one of the threads that share a
computation, and the others wait for it. As SCHED_BATCH (no privilege is needed) they wait for a gap instead.
"""

import os


def give_way() -> int:
    """Make this process's children, such as those of a Ray that it has started, interrupt nobody; how many there are.

    A Ray that somebody else has started is left as it is. What they start later is like them, unless it calls
    `compute`.
    """
    import psutil

    if not hasattr(os, "SCHED_BATCH"):
        return 0
    children = psutil.Process().children(recursive=True)
    for child in children:
        _set(child.pid, os.SCHED_BATCH)
    return len(children)


def compute() -> None:
    """This process is one that computes: it is scheduled as usual."""
    if hasattr(os, "SCHED_OTHER"):
        _set(os.getpid(), os.SCHED_OTHER)


def _set(process: int, policy: int) -> None:
    """For all threads of a process; one that has ended meanwhile needs nothing."""
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except FileNotFoundError:
        return
    for thread in threads:
        try:
            os.sched_setscheduler(int(thread), policy, os.sched_param(0))
        except ProcessLookupError:
            continue
