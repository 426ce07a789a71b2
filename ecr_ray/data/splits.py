"""Who is held out: decided by a key, so that it is the same on every machine and in every run."""

import hashlib
from typing import Any


def held_out(key: Any, share: float) -> bool:
    """Whether what belongs to this key is in the held-out share."""
    drawn = int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big")
    return drawn < share * 2**64
