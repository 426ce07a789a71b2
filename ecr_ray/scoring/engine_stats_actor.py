"""Collects what the engines of one run say about their prefix caches. Imports without vLLM."""

VARIABLE = "ECR_ENGINE_STATS_ACTOR"


class EngineStats:
    """A small actor: the latest totals of every engine that ever reported."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[int, int]] = {}

    def report(self, engine: str, queries: int, hits: int) -> None:
        """Take an engine's totals in tokens."""
        self._totals[engine] = (queries, hits)

    def totals(self) -> tuple[int, int]:
        """(queries, hits) in tokens over all engines."""
        return sum(q for q, _ in self._totals.values()), sum(h for _, h in self._totals.values())
