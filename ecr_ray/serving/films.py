"""The films that an endpoint knows: those of its recommender's catalogue."""

from dataclasses import dataclass

from ecr_ray.data.titles import Titles


@dataclass(frozen=True)
class Films:
    """By id, and by what a text may call them."""

    by_id: dict[str, str]
    titles: Titles


def load(recommender: str) -> Films:
    """Those of a recommender, bundled or not."""
    from ecr_ray.recommender import catalogue, place, predict

    items = catalogue.read(place.of(recommender) / predict.CATALOGUE).items
    return Films({item.item_id: item.title for item in items}, Titles([item.title for item in items]))
