"""How a scoring run shows itself while it runs: a bar for people, metrics for Prometheus."""

import sys
from typing import Any

from ecr_ray.cluster import metrics
from ecr_ray.scoring import parts


class Progress:
    """One judge's progress: rate, time left and failures on a bar; the same counts as Ray metrics."""

    def __init__(self, judge: str, total: int, done: int, position: int = 0) -> None:
        from tqdm import tqdm

        self._rows = metrics.instrument("ecr_score_rows", judge=judge)
        self._left = metrics.instrument("ecr_score_rows_left", judge=judge)
        self._tokens = metrics.instrument("ecr_score_tokens", judge=judge)
        self._hit_rate = metrics.instrument("ecr_score_prefix_cache_hit_rate", judge=judge)
        self._left.set(total - done)
        self._failed = 0
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=judge,
            unit="row",
            position=position,
            # In a log file a bar is a line at a time: fewer of them.
            mininterval=0.5 if sys.stderr.isatty() else 10,
            dynamic_ncols=True,
        )

    def add(self, counts: dict[str, int], cache: tuple[int, int]) -> None:
        """Take the counts of one part, and the engines' prefix-cache totals (queries, hits) so far."""
        self._failed += counts[parts.FAILED]
        for outcome in (parts.OK, parts.FAILED):
            if counts[outcome]:
                self._rows.inc(counts[outcome], {"outcome": outcome})
        for kind in ("prompt_tokens", "answer_tokens"):
            if counts[kind]:
                self._tokens.inc(counts[kind], {"kind": kind.removesuffix("_tokens")})
        shown: dict[str, Any] = {"failed": self._failed}
        if cache[0]:
            self._hit_rate.set(cache[1] / cache[0])
            shown["cached"] = f"{cache[1] / cache[0]:.0%}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(counts[parts.OK] + counts[parts.FAILED])
        self._left.set(self._bar.total - self._bar.n)

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self._bar.close()
