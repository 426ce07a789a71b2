"""The stages of the pipeline: the job of each, what it reads of the others, and whether a result is of its settings."""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ecr_ray import config, runs, storage
from ecr_ray.config import ConfigError, PipelineConfig, nearest
from ecr_ray.data import reading
from ecr_ray.data.reading import InputError
from ecr_ray.records import read_run

_PLACE = {"profile", "config", "output", "overwrite"}


@dataclass(frozen=True)
class Stage:
    """One of them, by the name of its table in profile and --config file."""

    name: str
    job: str
    """File below jobs/."""
    settings: type
    reads: tuple[str, ...]
    """The stages whose results it reads."""
    wire: Callable[[PipelineConfig], dict[str, Any]]
    """The settings that follow from where the others write."""
    finished: Callable[[Any], Any]
    """Raises UserError where the result that is there is of other settings or another input."""
    resumes: bool = True
    """Goes on where it stopped; else begins again."""


def place(settings: PipelineConfig, stage: str, *below: str) -> str:
    """Where a stage writes."""
    return os.path.join(os.path.normpath(settings.output), stage, *below)


def words(settings: PipelineConfig, stage: Stage) -> list[str]:
    """A stage's command line.

    Raises:
        ConfigError: it is told something in [pipeline.stages] that is no setting of its.
    """
    wired = stage.wire(settings) | {"output": place(settings, stage.name)}
    own = _own_table(settings.config, stage.name)
    told = settings.stages.get(stage.name, {})
    known = [f.name for f in fields(stage.settings)]
    for key in told:
        if key not in known:
            raise ConfigError(f"[pipeline.stages.{stage.name}]: unknown key {key!r}{nearest(key, known)}")
    given: dict[str, Any] = {"profile": settings.profile}
    given |= {"config": settings.config} if settings.config else {}
    return _as_words(given | {key: value for key, value in told.items() if key not in own} | wired)


def load(settings: PipelineConfig, stage: Stage) -> Any:
    """A stage's settings, as its job will read them.

    Raises:
        ConfigError: its table, or what it is told, cannot be used.
    """
    loaded = config.load(stage.settings, stage.name, words(settings, stage), prog=f"jobs/{stage.job}")
    if loaded.overwrite:
        # With it a stage replaces its result when it is only asked whether there is one.
        raise ConfigError(f"[{stage.name}] overwrite: in a pipeline the plan, and --overwrite, say what is replaced")
    return loaded


def not_used(settings: PipelineConfig) -> list[str]:
    """What the --config file says that the pipeline decides itself."""
    found = []
    for stage in STAGES:
        wired = stage.wire(settings).keys() | {"output"}
        found += [f"[{stage.name}] {key}" for key in _own_table(settings.config, stage.name) if key in wired]
    return found


def _own_table(file: str | None, stage: str) -> Mapping[str, Any]:
    return tomllib.loads(Path(file).read_text()).get(stage, {}) if file else {}


def _as_words(given: Mapping[str, Any]) -> list[str]:
    """Settings as a command line's words."""
    found: list[str] = []
    for key, value in given.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(option if value else option.replace("--", "--no-", 1))
        else:
            found += [option, *map(str, value if isinstance(value, list | tuple) else [value])]
    return found


# --- whether what is there is of these settings ----------------------------------------------------------------


def _prepared(settings: config.PrepareConfig) -> None:
    run = read_run(settings.output)
    assert run is not None
    same = not changes(run["config"], settings)
    now = [storage.digest(file)["sha256"] for file in reading.find(settings.input).files]
    if not same or [file["sha256"] for file in run["inputs"]] != now:
        raise InputError(f"{settings.output} holds a finished run of prepare with other settings or another input")


def _chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _PLACE}


def plain(settings: Any) -> dict[str, Any]:
    """A stage's settings as JSON has them."""
    return runs.as_json(asdict(settings))


def changes(before: Mapping[str, Any], settings: Any) -> str:
    """The settings that were others before, as `steps 40, now 20`; empty: none."""
    then, now = _chosen(before), _chosen(plain(settings))
    return "; ".join(f"{key} {then.get(key)}, now {value}" for key, value in now.items() if then.get(key) != value)


def _annotated(settings: config.AnnotateConfig) -> None:
    from ecr_ray.emotion import annotate

    annotate.finished(settings, annotate.check(settings))


def _scored(settings: config.ScoreConfig) -> None:
    from ecr_ray.scoring import run

    run.finished(settings, run.chosen_judges(settings))


def _critic(settings: config.CriticConfig) -> None:
    from ecr_ray.critic import train

    train.finished(settings)


def _fine_tuned(settings: config.SftConfig) -> None:
    from ecr_ray.policy import sft

    sft.finished(settings)


def _reinforced(settings: config.PpoConfig) -> None:
    from ecr_ray.policy.ppo import run

    run.finished(settings)


def _recommender(settings: config.RecommenderConfig) -> None:
    from ecr_ray.recommender import train

    train.finished(settings)


def _evaluated(settings: config.EvaluateConfig) -> None:
    from ecr_ray.evaluation import run

    run.finished(settings)


# --- what goes where -------------------------------------------------------------------------------------------


def _dialogues(settings: PipelineConfig) -> dict[str, Any]:
    return {"input": place(settings, "annotate")}


def _sft(settings: PipelineConfig) -> dict[str, Any]:
    """Whole dialogues: every answer is learnt in one pass over each, not in one over each of its turns."""
    return {"input": place(settings, "annotate", "dialogues")}


def _ppo(settings: PipelineConfig) -> dict[str, Any]:
    return _dialogues(settings) | {
        "base": place(settings, "sft", "model"),
        "critic": place(settings, "critic"),
    }


def _evaluate(settings: PipelineConfig) -> dict[str, Any]:
    """People, the fine-tuned policy, the best of eight of its answers, the reinforced policy: on the same dialogues."""
    sft, ppo = place(settings, "sft", "model"), place(settings, "ppo", "model")
    return _dialogues(settings) | {
        "systems": ["human", f"sft={sft}", f"best-of-8=best-of-8:{sft}", f"ppo={ppo}"],
        "critic": place(settings, "critic"),
        "recommender": place(settings, "recommender", "model"),
    }


STAGES: Sequence[Stage] = (
    Stage("prepare", "prepare.py", config.PrepareConfig, (), lambda s: {"input": s.input}, _prepared, resumes=False),
    Stage(
        "annotate",
        "annotate.py",
        config.AnnotateConfig,
        ("prepare",),
        lambda s: {"input": place(s, "prepare")},
        _annotated,
    ),
    Stage("score", "score.py", config.ScoreConfig, ("annotate",), _dialogues, _scored),
    Stage(
        "critic",
        "train_critic.py",
        config.CriticConfig,
        ("score",),
        lambda s: {"targets": [place(s, "score")]},
        _critic,
    ),
    Stage("sft", "sft.py", config.SftConfig, ("annotate",), _sft, _fine_tuned),
    Stage("ppo", "ppo.py", config.PpoConfig, ("annotate", "critic", "sft"), _ppo, _reinforced),
    Stage("recommender", "train_recommender.py", config.RecommenderConfig, ("annotate",), _dialogues, _recommender),
    Stage(
        "evaluate",
        "evaluate.py",
        config.EvaluateConfig,
        ("annotate", "critic", "sft", "ppo", "recommender"),
        _evaluate,
        _evaluated,
    ),
)
