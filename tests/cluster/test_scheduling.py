"""Who may interrupt whom."""

import os
import subprocess
import sys

import pytest

from ecr_ray.cluster import scheduling

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has SCHED_BATCH")


def test_children_give_way_with_all_their_threads_and_one_that_computes_does_not():
    code = (
        "import threading, sys, os\n"
        "from ecr_ray.cluster import scheduling\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print('up', flush=True); sys.stdin.readline()\n"
        "scheduling.compute()\n"
        "threads = map(int, os.listdir('/proc/self/task'))\n"
        "print(*set(map(os.sched_getscheduler, threads)), flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdout.readline() == "up\n"
        assert scheduling.give_way() >= 1
        threads = [int(thread) for thread in os.listdir(f"/proc/{child.pid}/task")]
        assert len(threads) > 1
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == f"{os.SCHED_OTHER}\n"
        child.communicate("\n")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
