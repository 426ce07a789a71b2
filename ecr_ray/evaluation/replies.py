"""Every system's reply to every prompt: sampled by Ray actors, asked for over HTTP, read from a file, or people's own.

Sampling is seeded by prompt and try, and written in parts, so that a run that was killed goes on and ends with the
same replies. A reply that could not be had keeps its row, with the reason.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecr_ray import progress, prompts, storage, training
from ecr_ray.config import EvaluateConfig
from ecr_ray.data.reading import InputError
from ecr_ray.encoders import predict
from ecr_ray.evaluation import endpoint
from ecr_ray.evaluation.asking import Prompts
from ecr_ray.evaluation.systems import System
from ecr_ray.policy import weights
from ecr_ray.policy.engines import EngineError, EngineSettings
from ecr_ray.policy.ppo import questions
from ecr_ray.policy.ppo.loop import seeds
from ecr_ray.policy.sampling import Sample, Sampling

OK, EMPTY, MISSING, TOO_LONG = "ok", "empty", "missing", "prompt_too_long"
# Nothing else comes of asking again.
SETTLED = (OK, EMPTY, MISSING, TOO_LONG)
# Prompts that travel to an actor, and are lost with it.
CHUNK = 64
# For one of them, the start of an actor included: a large model takes its time to load.
DEADLINE_S = 1800.0
REPLIES = pa.schema(
    [
        ("system", pa.string()),
        ("turn_id", pa.string()),
        ("dialogue_id", pa.string()),
        ("text", pa.string()),
        # Whether it closed its turn by itself; null where nobody can know.
        ("ended", pa.bool_()),
        ("tokens", pa.list_(pa.int32())),
        # Nats that the policy gives the tokens it drew.
        ("log_prob", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)


class Writer:
    """Ray actor: samples, or says how likely given answers are, by the model that a call names.

    Models take turns in one process, because its imports cost more than a small model's loading.
    """

    def __init__(self) -> None:
        self._settings: EngineSettings | None = None
        self._engine: Any = None

    def keyed(self, settings: EngineSettings, method: str, key: Any, arguments: tuple) -> tuple[Any, Any]:
        """A method's answer by an engine of these settings, with the key that it was asked for under."""
        if settings != self._settings:
            from ecr_ray.policy import engines

            # First the old one goes: there may not be room for both.
            self._engine = self._settings = None
            self._engine, self._settings = engines.make(settings), settings
        return key, getattr(self, method)(*arguments)

    def write(self, asked: Sequence[Sequence[int]], drawn: Sequence[int], how: Sampling) -> list[Sample]:
        """An answer to every prompt of token ids."""
        return self._engine.generate(asked, drawn, how)

    def likelihood(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Nats of every answer after its prompt."""
        flat = self._engine.log_probs(rows)
        ends = np.cumsum([len(answer) for _, answer in rows])
        return [float(part.sum()) for part in np.split(flat, ends[:-1])]


@dataclass(frozen=True)
class Model:
    """A policy that answers: where it is whole, and how its tokenizer encodes the prompts."""

    name: str
    directory: str
    tokenizer: Any
    prompts: list[list[int] | None]
    """Token ids; None where a prompt's last message alone is too long."""


def load_model(settings: EvaluateConfig, name: str, asked: Prompts, work: Path) -> Model:
    """A policy with its adapter, if it is one, merged in.

    Raises:
        ModelError: it cannot be loaded, or has nothing to pad with.
    """
    slug = hashlib.sha256(name.encode()).hexdigest()[:12]
    directory = weights.merged(name, work / "models" / slug)
    tokenizer = weights.load_tokenizer(directory, settings.pad_token)
    system_role = prompts.accepts_system_role(tokenizer)
    ids = [questions.encode(r["context"], tokenizer, settings.max_prompt, system_role=system_role) for r in asked.rows]
    return Model(name, directory, tokenizer, ids)


class Writers:
    """Actors that models are lent to, one after the other, and the chunks that are shared out among them."""

    def __init__(self, settings: EvaluateConfig, device: training.Device) -> None:
        self._settings, self._device = settings, device
        self._actors: list[Any] = []
        self._kept = ""
        """What the actors cannot change any more: vLLM gives its memory back when its process ends."""

    def run(
        self, model: Model, kind: str, method: str, jobs: Sequence[tuple[Any, tuple]], done: Callable[[Any, Any], None]
    ) -> None:
        """Call a method for every (key, arguments); `done` gets the key and what came.

        Args:
            kind: of the engine, as in EngineSettings.

        Raises:
            EngineError: the actors die again and again, or do not answer.
        """
        from ray.exceptions import RayActorError
        from ray.util import ActorPool

        engine = self._engine(model, kind)
        pool = ActorPool(self._ready(f"{kind} {model.directory}" if kind == "vllm" else kind))
        for key, arguments in jobs:
            pool.submit(lambda actor, job: actor.keyed.remote(engine, method, *job), (key, arguments))
        try:
            while pool.has_next():
                done(*pool.get_next_unordered(DEADLINE_S))
        except TimeoutError as error:
            told = f"no actor with {model.name} answered within {DEADLINE_S:.0f} s"
            raise EngineError(f"{told}: has the cluster room for --engines of --cpus-per-engine?") from error
        except RayActorError as error:
            cause = str(error).strip().splitlines()[-1]
            raise EngineError(f"an actor with {model.name} died again and again: {cause}") from error

    def _engine(self, model: Model, kind: str) -> EngineSettings:
        settings = self._settings
        return EngineSettings(
            kind,
            model.directory,
            model.tokenizer.eos_token_id,
            model.tokenizer.pad_token_id,
            self._device,
            settings.dtype,
            None,
            settings.max_prompt + settings.max_new_tokens,
            threads=max(1, (os.cpu_count() or 1) // settings.engines),
            vllm=dict(settings.vllm) if kind == "vllm" else {},
        )

    def _ready(self, what: str) -> list[Any]:
        """The actors, started when they are first needed, or needed for what others cannot do."""
        import ray

        if self._kept != what:
            self.close()
            cpus, gpus = self._settings.cpus_per_engine, 1.0 if self._device == "gpu" else 0.0
            actor = ray.remote(Writer).options(num_cpus=cpus, num_gpus=gpus, max_restarts=3, max_task_retries=3)
            self._actors = [actor.remote() for _ in range(self._settings.engines)]
            self._kept = what
        return self._actors

    def make_room(self) -> None:
        """End them where others wait for their GPU; they start again when they are needed."""
        if self._device == "gpu":
            self.close()

    def close(self) -> None:
        """End them."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._kept = [], ""


# --- sampling ---------------------------------------------------------------------------------------------


def sample(
    settings: EvaluateConfig, model: Model, tries: int, asked: Prompts, work: Path, writers: Writers
) -> list[list[Sample | None]]:
    """So many answers of a policy to every prompt, [try][prompt]; None where the prompt is too long.

    Parts that are there already are read, not sampled again.
    """
    folder = work / "answers" / Path(model.directory).name / hashlib.sha256(model.name.encode()).hexdigest()[:8]
    how = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p, rows=CHUNK)
    fit = [n for n, ids in enumerate(model.prompts) if ids is not None]
    chunks = [fit[at : at + CHUNK] for at in range(0, len(fit), CHUNK)]
    jobs = []
    for number in range(tries):
        drawn = seeds(settings.seed, number, len(asked.rows))
        for n, chunk in enumerate(chunks):
            path = folder / f"try-{number:03d}-{n:05d}.json"
            if not path.exists():
                jobs.append((path, ([model.prompts[k] for k in chunk], [drawn[k] for k in chunk], how)))
    if jobs:
        with progress.bar(f"answers of {model.name}", total=len(jobs) * CHUNK) as bar:

            def keep(path: Path, found: list[Sample]) -> None:
                storage.write_json(path, [[s.ids, s.log_probs, s.ended] for s in found])
                bar.update(CHUNK)

            writers.run(model, settings.engine, "write", jobs, keep)
    answers: list[list[Sample | None]] = []
    for number in range(tries):
        row: list[Sample | None] = [None] * len(asked.rows)
        for n, chunk in enumerate(chunks):
            found = storage.read_json(folder / f"try-{number:03d}-{n:05d}.json")
            for k, one in zip(chunk, found, strict=True):
                row[k] = Sample(*one)
        answers.append(row)
    return answers


def text_of(tokenizer: Any, sample: Sample) -> str:
    """An answer as people read it."""
    return tokenizer.decode(sample.ids, skip_special_tokens=True).strip()


def of_policy(
    system: System,
    model: Model,
    answers: Sequence[Sequence[Sample | None]],
    asked: Prompts,
    critic: predict.Pool | None,
) -> list[dict[str, Any]]:
    """Rows of a policy, or of the best of its answers in the critic's eyes.

    Raises:
        InputError: there is nobody to choose.
    """
    tries = answers[: system.tries]
    chosen = list(tries[0])
    if system.tries > 1:
        if critic is None:
            raise InputError(f"{system.name}: without --critic nobody chooses the best of {system.tries} answers")
        chosen = _best(model, tries, asked, critic)
    rows = []
    for sample, row in zip(chosen, asked.rows, strict=True):
        if sample is None:
            rows.append(_row(system, row, None, TOO_LONG, "the last message alone is longer than --max-prompt"))
            continue
        text = text_of(model.tokenizer, sample)
        found = {"ended": sample.ended, "tokens": sample.ids, "log_prob": float(sum(sample.log_probs))}
        rows.append(_row(system, row, text) | found)
    return rows


def _best(
    model: Model, tries: Sequence[Sequence[Sample | None]], asked: Prompts, critic: predict.Pool
) -> list[Sample | None]:
    places = [(k, n) for k, row in enumerate(tries) for n, sample in enumerate(row) if sample is not None]
    texts = [text_of(model.tokenizer, tries[k][n]) or "." for k, n in places]
    found = critic.predict([asked.rows[n]["context"] for _, n in places], texts).of("overall")
    worth = np.full((len(tries), len(asked.rows)), -np.inf)
    for (k, n), value in zip(places, found, strict=True):
        worth[k, n] = -1.0 if np.isnan(value) else value
    return [tries[int(k)][n] for n, k in enumerate(worth.argmax(0))]


# --- people, endpoints and files --------------------------------------------------------------------------


def of_people(system: System, asked: Prompts) -> list[dict[str, Any]]:
    """What people answered."""
    return [_row(system, row, row["response"]) for row in asked.rows]


def of_endpoint(system: System, settings: EvaluateConfig, asked: Prompts, work: Path) -> list[dict[str, Any]]:
    """What an endpoint answers; a row that it gives no answer to says why."""
    folder = work / "answers" / hashlib.sha256(f"{system.where}#{system.model}".encode()).hexdigest()[:12]
    drawn = seeds(settings.seed, 0, len(asked.rows))

    def one(n: int) -> dict[str, Any]:
        path = folder / f"{n:06d}.json"
        if not path.exists():
            chat = prompts.policy_messages(asked.rows[n]["context"])
            found = endpoint.complete(system.where, system.model, chat, settings, drawn[n])
            if found["status"] != OK:
                # Asked again in the next start.
                return _row(system, asked.rows[n], None, found["status"], found["reason"])
            storage.write_json(path, found)
        found = json.loads(path.read_text())
        return _row(system, asked.rows[n], found["text"]) | {"ended": found["ended"]}

    bar = progress.bar(f"answers of {system.name}", total=len(asked.rows))
    with ThreadPoolExecutor(endpoint.AT_ONCE) as threads, bar:
        rows = []
        for row in threads.map(one, range(len(asked.rows))):
            rows.append(row)
            bar.update()
    return rows


def of_file(system: System, asked: Prompts) -> list[dict[str, Any]]:
    """Replies made elsewhere; prompts that the file does not answer are missing.

    Raises:
        InputError: it cannot be read, or answers something else than these prompts.
    """
    found = _read_file(system.where)
    known = {row["turn_id"] for row in asked.rows}
    if not known & set(found):
        raise InputError(
            f"{system.where} has no reply to any of the {len(known)} prompts (its first turn_id is "
            f"{next(iter(found), 'none')!r}, the first prompt's {asked.rows[0]['turn_id']!r}): the prompts are in "
            "prompts.parquet of the output"
        )
    rows = []
    for row in asked.rows:
        if row["turn_id"] not in found:
            rows.append(_row(system, row, None, MISSING, f"no line of {system.where} has this turn_id"))
        else:
            text, ended = found[row["turn_id"]]
            rows.append(_row(system, row, text) | {"ended": ended})
    return rows


def _read_file(path: str) -> dict[str, tuple[str, bool | None]]:
    found: dict[str, tuple[str, bool | None]] = {}
    for line, row in enumerate(_lines(path), start=1):
        for name in ("turn_id", "text"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                raise InputError(f"{path}, row {line}, {name}: there must be a text")
        if row["turn_id"] in found:
            raise InputError(f"{path}, row {line}, turn_id: {row['turn_id']!r} came before")
        ended = row.get("ended")
        if ended is not None and not isinstance(ended, bool):
            raise InputError(f"{path}, row {line}, ended: {ended!r} is neither true nor false")
        found[row["turn_id"]] = (row["text"], ended)
    return found


def _lines(path: str) -> list[Any]:
    if path.endswith(".parquet"):
        try:
            return storage.read_parquet(path).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path} is no Parquet file: {error}") from error
    rows = []
    for line, text in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, row {line}: not valid JSON ({error})") from error
    return rows


def _row(system: System, row: dict[str, Any], text: str | None, status: str = OK, reason: str = "") -> dict[str, Any]:
    if text is not None and not text.strip():
        status, reason = EMPTY, "the reply has no text"
    found = {"system": system.name, "turn_id": row["turn_id"], "dialogue_id": row["dialogue_id"], "text": text}
    return found | {"ended": None, "tokens": None, "log_prob": None, "status": status, "reason": reason}


# --- likelihood -------------------------------------------------------------------------------------------


def likelihood(
    settings: EvaluateConfig, model: Model, rows: Sequence[dict[str, Any]], asked: Prompts, writers: Writers
) -> list[tuple[float, int] | None]:
    """Of every reply (nats, tokens) under a model, its end of turn included; None where there is none.

    Args:
        model: whose likelihood. Replies that it drew itself keep their tokens, others are encoded.
        rows: replies of any systems.
    """
    at = {row["turn_id"]: n for n, row in enumerate(asked.rows)}
    jobs, places = [], []
    for n, row in enumerate(rows):
        prompt = model.prompts[at[row["turn_id"]]]
        if row["status"] != OK or prompt is None:
            continue
        ids = row["own"] or [*model.tokenizer(row["text"], add_special_tokens=False)["input_ids"]]
        if not row["own"]:
            ids = [*ids[: 4 * settings.max_new_tokens], model.tokenizer.eos_token_id]
        places.append((n, len(ids)))
        jobs.append((prompt, list(ids)))
    found: list[tuple[float, int] | None] = [None] * len(rows)
    chunks = [range(at, min(at + CHUNK, len(jobs))) for at in range(0, len(jobs), CHUNK)]

    def keep(chunk: range, nats: list[float]) -> None:
        for k, value in zip(chunk, nats, strict=True):
            found[places[k][0]] = (value, places[k][1])
        bar.update(len(chunk))

    with progress.bar(f"likelihood under {model.name}", total=len(jobs)) as bar:
        writers.run(
            model, "transformers", "likelihood", [(chunk, ([jobs[k] for k in chunk],)) for chunk in chunks], keep
        )
    return found
