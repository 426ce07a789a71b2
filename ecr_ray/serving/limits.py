"""How much one key may ask for: requests a minute, and at once. Pure but for the clock that it is given."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

# Keys whose buckets are remembered; more than any deployment has users at a time.
REMEMBERED = 10_000


class Refused(Exception):
    """Too much; may be asked again after `after_s` seconds."""

    def __init__(self, reason: str, after_s: float) -> None:
        super().__init__(reason)
        self.reason, self.after_s = reason, max(1, math.ceil(after_s))


@dataclass
class _Bucket:
    left: float
    at: float
    inside: int = 0


class Limiter:
    """A token bucket and a count of those inside, a key."""

    def __init__(
        self,
        per_minute: float,
        at_once: int,
        clock: Callable[[], float] = time.monotonic,
        peers: Callable[[], int] = lambda: 1,
    ) -> None:
        """For one of several doors.

        Args:
            per_minute: of all doors together; also how many may come in one burst.
            at_once: of all doors together.
            clock: seconds.
            peers: how many doors there are just now; each lets in its share.
        """
        self._per_minute, self._all_at_once, self._clock, self._peers = per_minute, at_once, clock, peers
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def enter(self, key: str) -> None:
        """Begin a request.

        Raises:
            Refused: the key has asked for too much.
        """
        now, peers = self._clock(), max(1, self._peers())
        rate, burst = self._per_minute / 60 / peers, max(1.0, self._per_minute / peers)
        bucket = self._buckets.setdefault(key, _Bucket(burst, now))
        self._buckets.move_to_end(key)
        bucket.left, bucket.at = min(burst, bucket.left + (now - bucket.at) * rate), now
        if bucket.inside >= math.ceil(self._all_at_once / peers):
            raise Refused(f"this key has {bucket.inside} requests under way, as many as it may", 1)
        if bucket.left < 1:
            raise Refused("this key has asked too often within a minute", (1 - bucket.left) / rate)
        bucket.left -= 1
        bucket.inside += 1
        self._forget()

    def leave(self, key: str) -> None:
        """End a request that was let in."""
        if key in self._buckets:
            self._buckets[key].inside -= 1

    def _forget(self) -> None:
        if len(self._buckets) <= REMEMBERED:
            return
        for key in list(self._buckets)[: len(self._buckets) - REMEMBERED]:
            if not self._buckets[key].inside:
                del self._buckets[key]
