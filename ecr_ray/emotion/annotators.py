"""Who reads the emotions of messages: a classifier, or an LLM through the scoring engine. Both give nine numbers a
message, and go through scoring.passes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import prompts
from ecr_ray.config import AnnotateConfig, ConfigError, JudgeConfig, load_judges
from ecr_ray.encoders import model, predict
from ecr_ray.records import EMOTIONS, score_schema
from ecr_ray.scoring import digits, engines
from ecr_ray.scoring.requests import Asker

RUBRIC = prompts.EMOTION_RUBRIC.name


class EmotionAsker(Asker):
    """Asks an LLM a digit an emotion; a row's context ends with the message itself."""

    @property
    def instructions(self) -> prompts.Rubric:
        """What the annotator is told."""
        return prompts.EMOTION_RUBRIC

    def question(self, context: Sequence[Mapping[str, Any]], response: str) -> str:
        """The dialogue up to the message, which comes last.

        Raises:
            digits.AnswerError: nothing is left of the dialogue that would fit.
        """
        if not context:
            raise digits.AnswerError("prompt_too_long", "the message alone is longer than the annotator reads")
        return prompts.last_message_question(context)


def kept(probability_K: np.ndarray | None, above: float) -> list[dict[str, Any]]:
    """A message's emotions, the likeliest first; none where the annotator failed."""
    if probability_K is None:
        return []
    order = np.argsort(-probability_K, kind="stable")
    return [{"label": EMOTIONS[k], "prob": float(probability_K[k])} for k in order if probability_K[k] > above]


class Classifier:
    """Ray Data actor: messages in, their emotions' probabilities out."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._encoder = predict.Local(asker.judge.model, device="cuda" if asker.judge.device == "gpu" else "cpu")

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        ids = self._encoder.reader.encode_alone([row["response"] for row in rows])
        found = self._encoder.predict_ids(ids).mean_NK
        return pa.Table.from_pylist(
            [self._row(row, len(tokens), p) for row, tokens, p in zip(rows, ids, found, strict=True)],
            schema=score_schema(self._asker.aspects),
        )

    def _row(self, row: Mapping[str, Any], tokens: int, probability_K: np.ndarray) -> dict[str, Any]:
        found = self._asker.score_row(row, None, prompt_tokens=tokens)
        return found | dict(zip(EMOTIONS, map(float, probability_K), strict=True))


def choose(settings: AnnotateConfig, gpus: float) -> tuple[EmotionAsker, engines.Over | None]:
    """Who `--annotator` is, and what it does to a dataset of messages (None: what the scoring engine does).

    Args:
        gpus: what the cluster has; a classifier takes one where there is one.

    Raises:
        ConfigError: there is neither a classifier nor a judge of that name, or it reads something else.
    """
    judges = load_judges(settings.profile, settings.config)
    if settings.annotator in judges:
        judge = judges[settings.annotator]
        if judge.backend == "critic":
            raise ConfigError(f"--annotator {settings.annotator} is a critic: it has no emotions")
        judge = replace(judge, engines=settings.engines or judge.engines)
        return EmotionAsker(judge, RUBRIC, settings.seed), None
    try:
        directory = model.find(settings.annotator, "classifier").resolve()
    except model.HeadsError as error:
        raise ConfigError(f"{error}; judges: {', '.join(sorted(judges))}") from error
    shape = model.read_shape(directory)
    if shape.heads != EMOTIONS:
        raise ConfigError(
            f"--annotator {settings.annotator} has the heads {', '.join(shape.heads)}, not the nine emotions "
            "(jobs/train_emotion.py makes a classifier that has)"
        )
    judge = JudgeConfig(
        model=str(directory),
        backend="critic",
        device="gpu" if gpus else "cpu",
        engines=settings.engines or 1,
        name=settings.annotator.rstrip("/").rpartition("/")[2],
    )
    return EmotionAsker(judge, RUBRIC, settings.seed), _classified


def _classified(messages: Any, asker: Asker, work: engines.Work) -> Any:
    import ray

    judge = asker.judge
    return engines.without_done(messages, work).map_batches(
        Classifier,
        fn_constructor_args=(asker,),
        batch_size=work.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=judge.engines),
        num_cpus=judge.cpus_per_engine,
        num_gpus=1 if judge.device == "gpu" else 0,
    )
