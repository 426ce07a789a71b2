"""A critic's predictions: `Local` in this process (only torch is needed), `Pool` over Ray actors.

Rows are sorted by length and go through the encoder in batches of like length, so that little is padded. Where the
hardware multiplies bfloat16 the encoder does: predictions then differ by about 0.001 from float32's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecr_ray import training
from ecr_ray.encoders import batches, losses, model

Context = Sequence[Mapping[str, str]]
# Tokens a batch: small ones stay in a core's cache.
CPU_TOKENS, GPU_TOKENS = 2048, 65536


@dataclass(frozen=True)
class Predictions:
    """For N rows and K heads: `mean_NK` in 0–1, `std_NK` the critic's own doubt; NaN for a row it could not read."""

    heads: tuple[str, ...]
    mean_NK: np.ndarray
    std_NK: np.ndarray

    def of(self, head: str) -> np.ndarray:
        """One head's means, (N,)."""
        return self.mean_NK[:, self.heads.index(head)]

    @property
    def unread(self) -> np.ndarray:
        """Rows whose response alone is longer than the encoder reads, (N,) of bool."""
        return np.isnan(self.mean_NK).any(axis=1)


class Local:
    """A critic in this process; `bf16` None means where the hardware has it."""

    def __init__(self, name: str, *, device: str = "cpu", bf16: bool | None = None) -> None:
        self.model, self.reader, self.shape = model.load(model.find(name))
        self.model.to(device)
        self._device = device
        self._bf16 = training.computes_bf16("cpu" if device == "cpu" else "gpu") if bf16 is None else bf16
        if self._bf16:
            training.keep_bf16(self.model)
        self._tokens = CPU_TOKENS if device == "cpu" else GPU_TOKENS

    def predict(self, contexts: Sequence[Context], responses: Sequence[str]) -> Predictions:
        """What the critic expects of every response after its dialogue (`role`, `text`)."""
        return self.predict_ids(self.reader.encode(contexts, responses))

    def predict_ids(self, ids: Sequence[Sequence[int] | None]) -> Predictions:
        """The same for turns that are encoded already; None is a row that cannot be read."""
        import torch

        readable = [n for n, row in enumerate(ids) if row is not None]
        kept = [ids[n] for n in readable]
        heads = len(self.shape.heads)
        mean, std = np.full((len(ids), heads), np.nan), np.full((len(ids), heads), np.nan)
        filler = self.reader.tokenizer.pad_token_id
        with torch.inference_mode():
            for picked in batches.by_length([len(row) for row in kept], self._tokens):
                padded, mask = batches.pad([kept[n] for n in picked], filler)
                with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._bf16):
                    raw = self.model(*(torch.from_numpy(a).to(self._device) for a in (padded, mask)))
                expected, log_variance = losses.squash(raw)
                rows = np.array(readable)[picked]
                mean[rows] = expected.double().cpu().numpy()
                std[rows] = (log_variance / 2).exp().double().cpu().numpy()
        return Predictions(self.shape.heads, mean, std)


class Pool:
    """A critic in several Ray actors, which share the rows out; restarted by Ray when they die."""

    # Rows a call: enough to sort by length, few enough that no actor waits long for the last one.
    CHUNK = 512

    def __init__(
        self,
        name: str,
        *,
        actors: int = 1,
        cpus: float = 1.0,
        gpus: float = 0.0,
        bf16: bool | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """`deadline_s`: the longest time that any 512 rows may take; None waits as long as it takes."""
        import ray

        self._deadline_s = deadline_s

        # Found here, so that a wrong name is one sentence and not an actor's death.
        directory = str(model.find(name).resolve())
        self.shape = model.read_shape(Path(directory))
        actor = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=3, max_task_retries=3)
        self._actors = [actor.remote(directory, "cuda" if gpus else "cpu", bf16, actors) for _ in range(actors)]

    def predict(
        self,
        contexts: Sequence[Context],
        responses: Sequence[str],
        progress: Callable[[int], object] = lambda rows: None,
    ) -> Predictions:
        """What the critic expects of every response after its dialogue; in the order of the rows."""
        return self._share("predict", progress, contexts, responses)

    def predict_ids(
        self, ids: Sequence[Sequence[int] | None], progress: Callable[[int], object] = lambda rows: None
    ) -> Predictions:
        """The same for turns that are encoded already."""
        return self._share("predict_ids", progress, ids)

    def _share(self, method: str, progress: Callable[[int], object], *columns: Sequence[Any]) -> Predictions:
        from ray.util import ActorPool

        total, heads = len(columns[0]), len(self.shape.heads)
        chunks = [slice(at, at + self.CHUNK) for at in range(0, total, self.CHUNK)]
        mean, std = np.full((total, heads), np.nan), np.full((total, heads), np.nan)
        pool = ActorPool(self._actors)
        for n, chunk in enumerate(chunks):
            job = (n, method, *(column[chunk] for column in columns))
            pool.submit(lambda actor, job: actor.run.remote(*job), job)
        while pool.has_next():
            try:
                number, found = pool.get_next_unordered(self._deadline_s)
            except TimeoutError as error:
                raise model.HeadsError(f"a critic's actor did not answer within {self._deadline_s:.0f} s") from error
            mean[chunks[number]], std[chunks[number]] = found.mean_NK, found.std_NK
            progress(len(found.mean_NK))
        return Predictions(self.shape.heads, mean, std)

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


class _Actor:
    def __init__(self, directory: str, device: str, bf16: bool | None, actors: int) -> None:
        import os

        import torch

        if device == "cpu":
            # Several on one machine share its cores.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // actors))
        self._critic = Local(directory, device=device, bf16=bf16)

    def run(self, number: int, method: str, *columns: Sequence[Any]) -> tuple[int, Predictions]:
        return number, getattr(self._critic, method)(*columns)
