"""Progress bars of long work."""

import sys
from collections.abc import Iterable
from typing import Any


def bar(what: str, over: Iterable[Any] | None = None, *, total: int | None = None, done: int = 0) -> Any:
    """A progress bar, around an iterable or by itself; in a log file, a line every ten seconds at most.

    Args:
        what: stands before it.
        total: how much there is, where `over` does not know.
        done: how much of it was done before.
    """
    from tqdm import tqdm

    slow = not sys.stderr.isatty()
    return tqdm(over, desc=what, total=total, initial=done, mininterval=10 if slow else 0.5, dynamic_ncols=True)
