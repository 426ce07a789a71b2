"""Collects what the engines of one pass say about themselves. Imports without vLLM."""

VARIABLE = "ECR_ENGINE_STATS_ACTOR"


class EngineStats:
    """A small actor: the latest totals of every engine that ever reported."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[int, int, float]] = {}

    def report(self, engine: str, queries: int, hits: int, first_step: float) -> None:
        """Take an engine's totals in tokens, and when (seconds since the epoch) it made its first step."""
        self._totals[engine] = (queries, hits, first_step)

    def totals(self) -> tuple[int, int, float | None]:
        """(queries, hits) in tokens over all engines, and the first step of the first of them."""
        queries, hits, steps = zip(*self._totals.values(), strict=True) if self._totals else ((), (), ())
        return sum(queries), sum(hits), min(steps, default=None)
