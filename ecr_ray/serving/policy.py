"""The policy of an endpoint: vLLM's asynchronous engine, whose adapters are swapped while it answers.

A request names its version, and keeps it to the end; a version that this engine has not met yet is loaded first, from
files whose digest must be the version's.
"""

import asyncio
import gc
import os
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ecr_ray import prompts
from ecr_ray.config import ServeConfig
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.policy.engines import VLLM_ON_CPU
from ecr_ray.policy.ppo import questions
from ecr_ray.scoring import orphans
from ecr_ray.serving import adapters, untrusted
from ecr_ray.serving.adapters import Version

# Between two pieces of a streamed answer, by how many are under way: the more there are, the larger the pieces, so that
# sending them does not take what writing them needs.
PIECE_S = 0.008
LONGEST_PIECE_S = 0.5
# Rounds of the event loop that a first word takes on its way out.
HOPS = 4
_PROBES = ("Hi! I am in the mood for something funny.", "I loved Titanic (1997). What should I see next?")


class TooLong(UserError):
    """A prompt that does not fit."""


@dataclass(frozen=True)
class Asked:
    """What is to be answered: a chat (`role`, `content`), or a dialogue (`role`, `text`) in the policy's own form."""

    version: Version
    max_tokens: int
    temperature: float
    chat: tuple[Mapping[str, str], ...] = ()
    dialogue: tuple[Mapping[str, str], ...] = ()
    grounding: prompts.Grounding | None = None
    n: int = 1
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class Piece:
    """A part of one of the answers."""

    index: int
    text: str
    finish: str | None = None
    """stop, or length; with the last piece."""
    tokens: int = 0
    """Of this piece."""
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    text: str
    finish: str
    tokens: int
    prompt_tokens: int


def engines(settings: ServeConfig) -> tuple[int, int]:
    """Fewest and most of them."""
    return settings.ingress_replicas if settings.policy_in == "ingress" else settings.policy_replicas


def environment(settings: ServeConfig) -> dict[str, str]:
    """Environment variables of the process that holds an engine."""
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", orphans.VARIABLE: "1"}
    if settings.device == "cpu":
        # One core is left for what surrounds the engine: threads that share a computation wait for the one that
        # somebody else interrupts.
        threads = max(1, (os.cpu_count() or 1) // engines(settings)[1] - 1)
        env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
        # The worker lives in its engine's process: two of them spin while they wait for each other.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return env


def engine_arguments(settings: ServeConfig) -> dict[str, Any]:
    """Of vLLM's AsyncEngineArgs."""
    found = {
        "model": tiny.resolve_model(settings.base),
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enable_lora": True,
        "max_loras": settings.max_loras,
        "max_lora_rank": settings.max_lora_rank,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "seed": settings.seed,
    }
    if settings.device == "cpu":
        found |= VLLM_ON_CPU | {"distributed_executor_backend": "uni"}
    return found | dict(settings.engine)


class Policy:
    """One engine, once it is started."""

    def __init__(self, settings: ServeConfig) -> None:
        self._settings = settings
        self._loaded: dict[str, Any] = {}
        self._loading = asyncio.Lock()
        self.busy = 0
        """How many requests are being answered."""

    async def start(self) -> None:
        """Start the engine, and have it answer for the first time."""
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        settings = self._settings
        self.read_with(AutoTokenizer.from_pretrained(tiny.resolve_model(settings.base)))
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(settings)))
        # What happens once happens now, and not to the first visitor.
        plain = Version(settings.base, "", "")
        await self.replies(Asked(plain, 4, 0.0, dialogue=({"role": "seeker", "text": "hi"},)))
        # What is here now stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()

    def read_with(self, tokenizer: Any) -> None:
        """Take this tokenizer for what is asked."""
        self._tokenizer = tokenizer
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._control = untrusted.more_control(special)
        self._system_role = prompts.accepts_system_role(tokenizer)

    async def check_health(self) -> None:
        """For Serve: raises where the engine is dead, and Serve starts another."""
        await self._engine.check_health()

    async def under_way(self) -> int:
        """The same, for who asks from elsewhere."""
        return self.busy

    async def stream(self, asked: Asked) -> AsyncIterator[list[Piece]]:
        """Pieces of the answers as they are written.

        Raises:
            TooLong: the last message does not fit.
        """
        from vllm.sampling_params import RequestOutputKind

        ids, lora = self.prompt_ids(asked), await self._lora(asked.version)
        params = self._params(asked, RequestOutputKind.DELTA)
        held: list[Piece] = []
        shown = 0.0
        self.busy += 1
        try:
            async for output in self._engine.generate(
                {"prompt_token_ids": ids}, params, uuid.uuid4().hex, lora_request=lora
            ):
                held = _joined(held, [_piece(part, len(ids)) for part in output.outputs])
                # The first at once; then not more often than everybody's pieces can be sent.
                wait = min(LONGEST_PIECE_S, PIECE_S * self.busy)
                if held and (output.finished or time.monotonic() - shown >= wait):
                    if shown:
                        await _after_first_words()
                    yield held
                    held, shown = [], time.monotonic()
            if held:
                yield held
        finally:
            self.busy -= 1

    async def replies(self, asked: Asked) -> list[Reply]:
        """The whole answers.

        Raises:
            TooLong: the last message does not fit.
        """
        from vllm.sampling_params import RequestOutputKind

        ids, lora = self.prompt_ids(asked), await self._lora(asked.version)
        params = self._params(asked, RequestOutputKind.FINAL_ONLY)
        self.busy += 1
        try:
            async for output in self._engine.generate(
                {"prompt_token_ids": ids}, params, uuid.uuid4().hex, lora_request=lora
            ):
                found = output
        finally:
            self.busy -= 1
        whole = sorted(found.outputs, key=lambda part: part.index)
        return [Reply(part.text, _finish(part), len(part.token_ids), len(ids)) for part in whole]

    async def probe(self, version: Version) -> str:
        """Whether a version can answer: empty, or what is wrong with it."""
        answers = []
        for text in _PROBES:
            asked = Asked(version, 24, 0.0, dialogue=({"role": "seeker", "text": text},))
            try:
                answers += await self.replies(asked)
            except adapters.AdapterError as error:
                return str(error)
        if not all(answer.text.strip() for answer in answers):
            return "it has nothing to say to a greeting"
        return ""

    def prompt_ids(self, asked: Asked) -> list[int]:
        """Token ids of the prompt.

        Raises:
            TooLong: the last message does not fit.
        """
        room = self._settings.max_model_len - asked.max_tokens
        if asked.dialogue:
            found = questions.encode(
                self._apart(asked.dialogue, "text"),
                self._tokenizer,
                room,
                system_role=self._system_role,
                grounding=asked.grounding,
            )
        else:
            chat = self._apart(asked.chat, "content")
            chat = chat if self._system_role else _folded(chat)
            ids = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            found = list(ids) if len(ids) <= room else None
        if found is None:
            raise TooLong(
                f"the prompt is longer than the {room} tokens that {self._settings.max_model_len} leave beside an "
                f"answer of {asked.max_tokens}"
            )
        return found

    def _apart(self, messages: Sequence[Mapping[str, str]], key: str) -> list[Mapping[str, str]]:
        """Messages in which this model's own control tokens are letters, too."""
        if not self._control:
            return list(messages)
        return [{**m, key: untrusted.apart(m[key], self._control)} for m in messages]

    def _params(self, asked: Asked, kind: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=asked.n,
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_tokens=asked.max_tokens,
            seed=asked.seed,
            stop=list(asked.stop),
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            output_kind=kind,
        )

    async def _lora(self, version: Version) -> Any:
        """What vLLM is to answer with; None: the base model.

        Raises:
            AdapterError: its files are not what was checked, or vLLM does not take them.
        """
        if not version.path:
            return None
        if version.digest not in self._loaded:
            async with self._loading:
                if version.digest not in self._loaded:
                    self._loaded[version.digest] = await self._load(version)
        return self._loaded[version.digest]

    async def _load(self, version: Version) -> Any:
        from pathlib import Path

        from vllm.lora.request import LoRARequest

        try:
            found = await asyncio.to_thread(adapters.digest_of, Path(version.path))
        except OSError as error:
            raise adapters.AdapterError(f"{version.id}: {error}") from error
        if found != version.digest:
            raise adapters.AdapterError(f"{version.path} is not what was checked: its digest is {found[:12]}")
        # A name and number that no other contents have: vLLM caches prefixes by them.
        request = LoRARequest(version.id, int(version.digest[:7], 16) + 1, version.path)
        try:
            taken = await self._engine.add_lora(request)
        except Exception as error:
            # vLLM raises what its worker raised, of any class.
            raise adapters.AdapterError(f"vLLM does not take {version.id}: {_first_line(error)}") from error
        if not taken:
            raise adapters.AdapterError(f"vLLM does not take {version.id}")
        return request

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.shutdown()


def _folded(chat: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """A chat whose system message stands in the user's first one, for templates that refuse the role."""
    if chat[0]["role"] != "system":
        return list(chat)
    system, first, *rest = chat
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


async def _after_first_words() -> None:
    """Let go first whoever has written its first word in the same step of the engine, as far as the loop knows."""
    for _ in range(HOPS):
        await asyncio.sleep(0)


def _piece(part: Any, prompt_tokens: int) -> Piece:
    return Piece(part.index, part.text, _finish(part) if part.finished() else None, len(part.token_ids), prompt_tokens)


def _finish(part: Any) -> str:
    return part.finish_reason or "stop"


def _joined(held: Sequence[Piece], new: Sequence[Piece]) -> list[Piece]:
    """Pieces, one an answer."""
    found = {piece.index: piece for piece in held}
    for piece in new:
        before = found.get(piece.index)
        found[piece.index] = (
            replace(piece, text=before.text + piece.text, tokens=before.tokens + piece.tokens) if before else piece
        )
    return list(found.values())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
