"""Engine processes end with the actor that started them, also when it is killed outright.

vLLM runs its scheduler and workers in processes of their own. Where their parent gets SIGKILL they live on and
keep their memory. This vLLM plugin (entry point `vllm.general_plugins`, which vLLM calls in every process it
starts) waits for the parent's end. It does so only in engines that ask for it.

It also keeps tqdm, which shows the loading of weights there, from making a lock between processes: in a spawned
process that is a file in /dev/shm, and Ray kills an engine together with the helper that would remove it.
"""

import multiprocessing
import os
import threading

from tqdm import tqdm

VARIABLE = "ECR_EXIT_WITH_PARENT"


def exit_with_parent() -> None:
    """Start the watch, where the environment asks for it and this process is somebody's child."""
    parent = multiprocessing.parent_process()
    if parent is not None and os.environ.get(VARIABLE) == "1":
        tqdm.set_lock(threading.RLock())
        threading.Thread(target=_watch, args=(parent,), name="exit-with-parent", daemon=True).start()


def _watch(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    # Nothing to tidy up: whoever wanted the answers is gone.
    os._exit(1)
