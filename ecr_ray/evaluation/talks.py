"""Talks of simulated users with the recommender (or the served system) and with one that names popular films."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecr_ray.config import EvaluateConfig
from ecr_ray.data import reading
from ecr_ray.data.reading import InputError
from ecr_ray.evaluation import lineage
from ecr_ray.evaluation.simulation import episodes, measures, partners, tasks
from ecr_ray.evaluation.simulation.users import UserSpec
from ecr_ray.evaluation.statistics import Comparison, Figure
from ecr_ray.recommender import catalogue, place
from ecr_ray.recommender.catalogue import Catalogue

NONE, SERVED = "none", "served"


@dataclass(frozen=True)
class Talked:
    """What came of them; nothing where none were held."""

    about: str = ""
    table: pa.Table | None = None
    figures: list[Figure] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    broken: dict[str, dict[str, int]] = field(default_factory=dict)
    """System → talks that came to nothing, by reason."""

    def as_json(self) -> dict[str, Any]:
        """For the run record."""
        rows = {name: [row.as_json() for row in getattr(self, name)] for name in ("figures", "comparisons")}
        return {"about": self.about, "broken": self.broken} | rows


def hold(settings: EvaluateConfig, work: Path) -> Talked:
    """Hold them on the connected cluster; those that were held before are not held again.

    Raises:
        SimulationError: no talk can be simulated, or a system cannot be made.
    """
    if not settings.talks or settings.recommender == NONE:
        return Talked()
    # In full: the actors work elsewhere.
    directory = place.of(settings.recommender).absolute()
    what = catalogue.read(directory / "catalogue.json")
    wishes = tasks.draw_tasks(what, settings.talks, settings.seed)
    url, _, model = settings.user_url.partition("#")
    user = UserSpec(url, model, settings.user_key_env)
    counts, source = _popularity(settings, what)
    systems = {
        partners.POPULAR: partial(partners.Popular, what, counts, count=settings.talk_films),
        _name(directory): partial(
            partners.Recommending, directory, count=settings.talk_films, emotions=settings.emotions
        ),
    }
    if settings.talk_url:
        systems[SERVED] = partial(
            partners.Served, settings.talk_url, settings.talk_key_env, count=settings.talk_films, seed=settings.seed
        )
    how = {
        "turns": settings.talk_turns,
        "actors": settings.engines,
        "output_dir": str(work / "talks"),
        "seed": settings.seed,
    }
    tables = {
        name: episodes.run_episodes(
            wishes, what, name, make, user, at_once=settings.talks_at_once if url or name == SERVED else 1, **how
        )
        for name, make in systems.items()
    }
    intervals = {"seed": settings.seed, "resamples": settings.bootstrap}
    return Talked(
        about=_about(settings, len(wishes), source),
        table=pa.concat_tables(tables.values()),
        figures=measures.figures(tables, settings.talk_turns, **intervals)
        + measures.of_users(tables, wishes, **intervals),
        comparisons=measures.differences(tables, settings.talk_turns, **intervals),
        broken={name: broken for name, table in tables.items() if (broken := measures.broken(table))},
    )


def _name(directory: Path) -> str:
    """What the recommender is called: every run's is in a directory `model`."""
    return directory.parent.name if directory.name == "model" else directory.name


def _popularity(settings: EvaluateConfig, what: Catalogue) -> tuple[dict[str, int], str]:
    """How often each film is named in the dialogues that the recommender learnt from, and where that was read."""
    node = lineage.of(settings.recommender)
    known = [run.run["config"].get("input") for run in node.walk()] if node else []
    for location in dict.fromkeys([*filter(None, known), settings.input, "sample"]):
        try:
            source = reading.find(location, "dialogues")
        except InputError:
            # What a bundled recommender learnt from need not be here.
            continue
        rows = reading.read(source, max_message_chars=settings.max_message_chars, number_rows=False)
        dialogues = [
            row.value
            for row in rows
            if isinstance(row, reading.Row) and row.kind == "dialogue" and row.value["split"] != "test"
        ]
        if dialogues:
            return partners.popularity(dialogues, what), location
    return {}, ""


def _about(settings: EvaluateConfig, count: int, source: str) -> str:
    user = f"a language model ({settings.user_url})" if settings.user_url else "rules"
    popular = f"as {source} names films" if source else "in the catalogue's order, no dialogues being there to count"
    return (
        f"{count} users, played by {user}, each with a film in mind whose title they never say, talk for at most "
        f"{settings.talk_turns} turns; {settings.talk_films} films are recommended a turn. `{partners.POPULAR}` "
        f"recommends popular films ({popular})."
    )
