"""What Prometheus is told of an ingress (the metrics of ecr_ray/cluster/metrics.py)."""

from collections.abc import Mapping

from ecr_ray.cluster import metrics


class Meter:
    """Counts requests, refusals, tokens and seconds."""

    def __init__(self) -> None:
        self._requests = metrics.instrument("ecr_serve_requests")
        self._refused = metrics.instrument("ecr_serve_refused")
        self._in_flight = metrics.instrument("ecr_serve_in_flight")
        self._seconds = metrics.instrument("ecr_serve_seconds")
        self._tokens = metrics.instrument("ecr_serve_tokens")
        self._inside = 0

    def tell(self) -> None:
        """How many are being answered; to be called now and then, as it takes longer than to count them."""
        self._in_flight.set(self._inside)

    def began(self) -> None:
        """A request came in."""
        self._inside += 1

    def ended(self, route: str, status: int) -> None:
        """It was answered; 499: whoever asked had left."""
        self._inside -= 1
        self._requests.inc(tags={"route": route, "code": str(status)})

    def refused(self, reason: str) -> None:
        """It was turned away."""
        self._refused.inc(tags={"reason": reason})

    def wrote(self, prompt: int, answer: int, seconds: Mapping[str, float]) -> None:
        """An answer: its tokens, and the time that each part took."""
        self._tokens.inc(max(1, prompt), tags={"kind": "prompt"})
        self._tokens.inc(max(1, answer), tags={"kind": "answer"})
        for part, value in seconds.items():
            self._seconds.observe(value, tags={"part": part})
