"""The serving board over the endpoint that the other tests talk to."""

import time

import pytest

from ecr_ray.cluster import boards

pytestmark = pytest.mark.slow
# Ray hands its values on every few seconds, and a rate needs two of them.
PATIENCE_S = 90


def test_the_board_shows_what_the_endpoint_does(prometheus, endpoint):
    deadline = time.monotonic() + PATIENCE_S
    while missing := prometheus.missing(boards.SERVING):
        assert time.monotonic() < deadline, missing
        endpoint.ask("I loved Alien (1979). Something as scary?", max_tokens=4)
        with endpoint.client("ecr-nobody-knows-this-key") as client:
            assert client.get("/v1/models").status_code == 401
        time.sleep(1)
    answered = prometheus.series(boards.of("ecr_serve_requests", route="/v1/recommend", code="200"))
    assert max(max(values) for _, values in answered) >= 1
