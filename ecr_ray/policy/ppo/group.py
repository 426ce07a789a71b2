"""The workers that learn together, as few words: what the first one knows all know, what each has all have."""

from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Group(Protocol):
    """Every method is called by all workers, in the same order."""

    rank: int
    workers: int

    def from_first(self, value: T | None) -> T:
        """The first worker's value, for everybody."""

    def from_all(self, value: T) -> list[T]:
        """Every worker's value, by rank, for everybody."""


class Alone:
    """One worker."""

    rank, workers = 0, 1

    def from_first(self, value: T | None) -> T:
        return value

    def from_all(self, value: T) -> list[T]:
        return [value]


class Distributed:
    """torch.distributed's process group, which Ray Train has made."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()

    def from_first(self, value: T | None) -> T:
        box: list[Any] = [value]
        self._dist.broadcast_object_list(box, src=0)
        return box[0]

    def from_all(self, value: T) -> list[T]:
        boxes: list[Any] = [None] * self.workers
        self._dist.all_gather_object(boxes, value)
        return boxes
