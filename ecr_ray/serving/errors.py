"""What an answer can fail of, as HTTP says it: a code, a sentence, and when to try again."""

from typing import Any

BUSY = "busy"


class ApiError(Exception):
    """An error that the one who asked is told."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after_s = (
            status,
            code,
            message,
            param,
            retry_after_s,
        )

    def body(self) -> dict[str, Any]:
        """As JSON, in the form that OpenAI's clients read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"code": self.code, "message": self.message, "type": kind, "param": self.param}}

    @property
    def blames_the_version(self) -> bool:
        """Whether it speaks against the weights that were to answer: neither the asker nor a crowd caused it."""
        return self.status >= 500 and self.code != BUSY

    def headers(self) -> dict[str, str]:
        """Beside the content type."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def busy() -> ApiError:
    """More is under way than can be answered."""
    return ApiError(503, BUSY, "too much is under way here: try again in a moment", retry_after_s=1)


def lost() -> ApiError:
    """Whoever was answering has gone."""
    return ApiError(503, "replica_lost", "whoever was answering has gone, and is replaced: try again", retry_after_s=2)


def body_too_late(seconds: float) -> ApiError:
    """Half a request."""
    return ApiError(408, "body_timeout", f"the request's body did not arrive within {seconds:g} seconds")


def too_late(seconds: float) -> ApiError:
    """It took too long."""
    return ApiError(504, "timeout", f"there was no answer within {seconds:g} seconds", retry_after_s=5)


def internal() -> ApiError:
    """Something that nobody thought of."""
    return ApiError(500, "internal", "something went wrong here, and was logged")
