"""Where a recommender lies that somebody names."""

from pathlib import Path

from ecr_ray.models import tiny


def of(name: str) -> Path:
    """The directory of a bundled recommender, or the one of that name."""
    bundled = tiny.HERE / name
    return bundled if "/" not in name and bundled.is_dir() else Path(name)
