"""Thumbs of people, appended whole or not at all and never changed; ecr_ray/data/feedback.py reads them back."""

import json
import os
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecr_ray.data.feedback import PATTERN
from ecr_ray.errors import UserError


class FeedbackError(UserError):
    """A disk that does not take a line."""


class Book:
    """A file of one writer's own, so that several replicas on a shared disk never write into each other's lines."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / PATTERN.replace("*", uuid.uuid4().hex[:12])
        self._lock = threading.Lock()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line and wait until the disk has it.

        Raises:
            FeedbackError: it did not get there; the file is as it was before.
        """
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                raise FeedbackError(f"cannot write to {self._path.parent}: {error.strerror}") from error
            try:
                before = os.fstat(file).st_size
                try:
                    if os.write(file, line) != len(line):
                        raise OSError(28, "no space left for the whole line")
                    os.fsync(file)
                except OSError as error:
                    os.ftruncate(file, before)
                    raise FeedbackError(f"cannot write to {self._path}: {error.strerror}") from error
            finally:
                os.close(file)
