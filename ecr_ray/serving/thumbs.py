"""A thumb as it is asked to be stored → a line of feedback, checked against the catalogue."""

from pathlib import Path

from ecr_ray.config import ServeConfig
from ecr_ray.serving import feedback
from ecr_ray.serving.answering import ROLES
from ecr_ray.serving.errors import ApiError
from ecr_ray.serving.films import Films
from ecr_ray.serving.schemas import FeedbackRequest


class Thumbs:
    """Keeps thumbs up and down."""

    def __init__(self, settings: ServeConfig, films: Films) -> None:
        self._films = films
        self._book = feedback.Book(Path(settings.output).absolute() / "feedback")

    def add(self, request: FeedbackRequest) -> None:
        """Store one.

        Raises:
            ApiError: it names a film that nobody recommended, or the disk does not take it.
        """
        shown = list(dict.fromkeys(film for message in request.messages for film in message.recommended))
        for film in shown:
            if film not in self._films.by_id:
                raise ApiError(422, "unknown_film", f"the catalogue has no film {film!r}", param="messages")
        if request.film is not None and request.film not in shown:
            told = f"film {request.film!r} is not among those recommended in these messages"
            raise ApiError(422, "unknown_film", told, param="film")
        try:
            self._book.add(
                {
                    "conversation": request.conversation,
                    "messages": [
                        {"role": ROLES[m.role], "text": m.content, "movie_ids": m.recommended} for m in request.messages
                    ],
                    "titles": {film: self._films.by_id[film] for film in shown},
                    "film": request.film,
                    "liked": request.liked,
                    "answer": request.answer,
                }
            )
        except feedback.FeedbackError as error:
            raise ApiError(507, "not_stored", "the thumb could not be stored: the disk does not take it") from error
