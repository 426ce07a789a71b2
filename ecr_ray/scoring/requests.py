"""What a judge is asked about a turn, as tokens; and how its answer becomes a score row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ecr_ray import prompts
from ecr_ray.config import JudgeConfig
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.scoring import digits

_SENTINEL = "<the question>"


class UnfitTokenizer(UserError):
    """The judge's tokenizer cannot answer one digit a token."""


@dataclass(frozen=True)
class Asker:
    """Turns turns into requests for one judge under one rubric. Cheap to send around: it loads lazily."""

    judge: JudgeConfig
    rubric: str
    seed: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the tokenizer: a task that only reads answers has no need to load one."""
        return {name: value for name, value in self.__dict__.items() if name != "tokenizer"}

    @property
    def aspects(self) -> tuple[str, ...]:
        """The aspects in the order of the answer's digits."""
        return tuple(self.instructions.aspects)

    @property
    def instructions(self) -> prompts.Rubric:
        """What the judge is told to rate."""
        return prompts.RUBRICS[self.rubric]

    def question(self, context: Sequence[Mapping[str, Any]], response: str) -> str:
        """What the judge is asked about one turn."""
        return prompts.judge_question(context, response)

    @cached_property
    def tokenizer(self) -> Any:
        """The judge's tokenizer."""
        return _tokenizer(self.judge.model)

    @cached_property
    def system_role(self) -> bool:
        """Whether the rubric may go into a system message."""
        return prompts.accepts_system_role(self.tokenizer)

    @cached_property
    def digit_ids(self) -> tuple[int, ...]:
        """The token ids of 0–9.

        Raises:
            UnfitTokenizer: a digit is not a token of its own.
        """
        ids = tuple(self.tokenizer.convert_tokens_to_ids([str(d) for d in range(digits.LEVELS)]))
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        if len(set(ids)) != digits.LEVELS or None in ids or unknown in ids:
            raise UnfitTokenizer(f"judge {self.judge.name}: its tokenizer has no token for every digit 0-9")
        return ids

    def sampling_params(self) -> dict[str, Any]:
        """vLLM's SamplingParams for one judgment: one digit an aspect and not one token more.

        The grammar of the answer, `[0-9]{aspects}`, is held by a token list instead of a compiled regex: the
        language is the same, it costs an eighth less on a CPU, a tokenizer that knows "42" as one token cannot
        answer two aspects at once, and the log-probabilities stay those of the whole vocabulary.
        """
        ids = list(self.digit_ids)
        return {
            "temperature": 0.0,
            "max_tokens": len(self.aspects),
            "allowed_token_ids": ids,
            "logprob_token_ids": ids,
            "detokenize": False,
        }

    @cached_property
    def frame(self) -> tuple[str, str]:
        """The rendered prompt before and after the question about one turn.

        The template writes an answer "0" itself and the digit is cut off again: so whatever the model expects
        between its prompt and its answer (a space, a newline) is there, and the next token is the digit.
        """
        messages = prompts.judge_messages(self.instructions, _SENTINEL, system_role=self.system_role)
        rendered = self.tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": "0"}], tokenize=False, continue_final_message=True
        )
        before, after = rendered.removesuffix("0").split(_SENTINEL)
        return before, after

    def text(self, context: Sequence[Mapping[str, Any]], response: str) -> str:
        """The rendered prompt, up to where the first digit stands."""
        before, after = self.frame
        return f"{before}{self.question(context, response)}{after}"

    def tokens(self, context: Sequence[Mapping[str, Any]], response: str) -> tuple[list[int], int]:
        """Prompt tokens, and how many of the oldest messages were left out to make them fit.

        Raises:
            digits.AnswerError: not even the response alone fits.
        """
        room = self.judge.max_model_len - len(self.aspects)
        ids = self._encode(context, response)
        dropped = 0
        while len(ids) > room:
            if dropped >= len(context):
                raise digits.AnswerError("prompt_too_long", f"{len(ids)} tokens; the judge reads {room}")
            # Half of what is left at a time would be faster and lose more; such dialogues are rare.
            dropped += 1
            ids = self._encode(context[dropped:], response)
        return ids, dropped

    def _encode(self, context: Sequence[Mapping[str, Any]], response: str) -> list[int]:
        return self.tokenizer(self.text(context, response), add_special_tokens=False)["input_ids"]

    def judgment(self, logprobs: Sequence[Mapping[int, Any]] | None) -> digits.Judgment:
        """A judgment from vLLM's log-probabilities, one mapping {token id: {logprob}} an answered token.

        Raises:
            digits.AnswerError: the answer is short, or has no probabilities.
        """
        if logprobs is None or len(logprobs) != len(self.aspects):
            found = 0 if logprobs is None else len(logprobs)
            raise digits.AnswerError("short_answer", f"{found} of {len(self.aspects)} digits came back")
        table = np.array([[float(at[i]["logprob"]) for i in self.digit_ids] for at in logprobs])
        return digits.from_logprobs(table)

    def score_row(
        self,
        row: Mapping[str, Any],
        judgment: digits.Judgment | None,
        *,
        status: str = "ok",
        reason: str = "",
        prompt_tokens: int | None = None,
        answer_tokens: int | None = None,
    ) -> dict[str, Any]:
        """A row of the score table; without a judgment every score is null."""
        scores = judgment.scores if judgment else [None] * len(self.aspects)
        return {
            "turn_id": row["turn_id"],
            "dialogue_id": row["dialogue_id"],
            "index": row["index"],
            "judge": self.judge.name,
            **dict(zip(self.aspects, scores, strict=True)),
            "overall": judgment.overall if judgment else None,
            "confidence": judgment.confidence if judgment else None,
            "digit_mass": judgment.digit_mass if judgment else None,
            "status": status,
            "reason": reason,
            "model": self.judge.model,
            "prompt_version": f"{self.rubric}/{prompts.PROMPT_VERSION}",
            "seed": self.seed,
            "prompt_tokens": prompt_tokens,
            "answer_tokens": answer_tokens,
            "context_dropped": row.get("context_dropped"),
        }


@lru_cache(maxsize=4)
def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.resolve_model(model))
