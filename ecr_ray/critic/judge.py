"""A critic as a judge of jobs/score.py: one number an aspect from one pass through an encoder, no engine."""

from typing import Any

import pyarrow as pa

from ecr_ray import prompts
from ecr_ray.config import ConfigError, JudgeConfig
from ecr_ray.critic.targets import OVERALL
from ecr_ray.encoders import model, predict
from ecr_ray.encoders.losses import LOG_VARIANCE
from ecr_ray.records import score_schema
from ecr_ray.scoring.requests import Asker

# The standard deviation of a critic that knows nothing.
_CLUELESS = 2.718281828 ** (LOG_VARIANCE[1] / 2)


def check(judge: JudgeConfig, rubric: str) -> None:
    """Make sure that a judge's critic is there and of this rubric.

    Raises:
        HeadsError: there is no such critic.
        ConfigError: it is of another rubric.
    """
    shape = model.read_shape(model.find(judge.model))
    if shape.rubric != rubric:
        raise ConfigError(
            f"judge {judge.name}: the critic {judge.model} is of the rubric {shape.rubric or 'of a reaction reader'}, "
            f"not of {rubric}"
        )


# What the usual encoders have positions for; a tokenizer that knows no limit says 10³⁰.
_LONGEST = 512


class CriticJudge:
    """Ray Data actor: turns in, score rows out. Every row comes out, scored or with the reason why not."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._critic = predict.Local(asker.judge.model, device="cuda" if asker.judge.device == "gpu" else "cpu")
        # Longer than it has learnt from: an opinion of a long response is worth more than none.
        self._longest = min(self._critic.reader.tokenizer.model_max_length, _LONGEST)

    def __call__(self, batch: pa.Table) -> pa.Table:
        turns = batch.to_pylist()
        contexts, responses = ([turn[name] for turn in turns] for name in ("context", "response"))
        ids = self._critic.reader.encode(contexts, responses, longest=self._longest)
        found = self._critic.predict_ids(ids)
        aspects = [*prompts.RUBRICS[self._asker.rubric].aspects, OVERALL]
        picked = [found.heads.index(aspect) for aspect in aspects]
        rows = []
        for n, turn in enumerate(turns):
            if ids[n] is None:
                reason = f"the encoder reads {max(self._longest, self._critic.shape.max_length)} tokens"
                rows.append(self._asker.score_row(turn, None, status="response_too_long", reason=reason))
                continue
            row = self._asker.score_row(turn, None, prompt_tokens=len(ids[n]))
            row |= {aspect: float(found.mean_NK[n, k]) for aspect, k in zip(aspects, picked, strict=True)}
            row["confidence"] = max(0.0, 1 - float(found.std_NK[n, picked].mean()) / _CLUELESS)
            rows.append(row)
        return pa.Table.from_pylist(rows, schema=score_schema(self._asker.aspects))


def over(turns: Any, asker: Asker, batch_size: int) -> Any:
    """A Ray dataset of turns → one of score rows, by a pool of actors."""
    import ray

    judge = asker.judge
    return turns.map_batches(
        CriticJudge,
        fn_constructor_args=(asker,),
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=judge.engines),
        num_cpus=judge.cpus_per_engine,
        num_gpus=1 if judge.device == "gpu" else 0,
    )
