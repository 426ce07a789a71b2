"""Texts as vectors: an encoder as it comes, its tokens pooled. `Local` in this process, `spread` over Ray actors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ecr_ray import training
from ecr_ray.encoders import batches, model, text

CPU_TOKENS, GPU_TOKENS = 2048, 65536
CHUNK = 2048


class Local:
    """An encoder in this process; of a longer text its end is read."""

    def __init__(self, encoder: str = text.MINILM, *, max_length: int = 64, device: str = "cpu") -> None:
        from transformers import AutoModel

        self.reader = text.Reader(text.load_tokenizer(encoder), max_length)
        self.encoder = model.load_encoder(AutoModel, encoder).eval().to(device)
        self.width = int(self.encoder.config.hidden_size)
        self._device = device
        self._bf16 = training.computes_bf16("cpu" if device == "cpu" else "gpu")
        if self._bf16:
            training.keep_bf16(self.encoder)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, (N, H) of float32."""
        import torch

        ids = self.reader.encode_alone(texts)
        found = np.zeros((len(ids), self.width), dtype=np.float32)
        filler = self.reader.tokenizer.pad_token_id
        tokens = CPU_TOKENS if self._device == "cpu" else GPU_TOKENS
        with torch.inference_mode():
            for picked in batches.by_length([len(row) for row in ids], tokens):
                padded, mask = (
                    torch.from_numpy(a).to(self._device) for a in batches.pad([ids[n] for n in picked], filler)
                )
                with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._bf16):
                    states = self.encoder(input_ids=padded, attention_mask=mask).last_hidden_state
                pooled = model.pool(states.float(), mask, "mean")
                found[picked] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return found


def spread(
    texts: Sequence[str],
    encoder: str,
    *,
    max_length: int,
    actors: int = 1,
    progress: Callable[[int], object] = lambda rows: None,
) -> np.ndarray:
    """The same by several Ray actors, (N, H) of float16."""
    import ray
    from ray.util import ActorPool

    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    actor = ray.remote(_Actor).options(num_cpus=1, num_gpus=gpus, max_restarts=3, max_task_retries=3)
    made = [actor.remote(encoder, max_length, "cuda" if gpus else "cpu", actors) for _ in range(actors)]
    pool = ActorPool(made)
    parts: dict[int, np.ndarray] = {}
    for begin in range(0, len(texts), CHUNK):
        pool.submit(lambda a, job: a.run.remote(*job), (begin, list(texts[begin : begin + CHUNK])))
    while pool.has_next():
        begin, vectors = pool.get_next_unordered()
        parts[begin] = vectors
        progress(len(vectors))
    for one in made:
        ray.kill(one)
    return np.concatenate([parts[begin] for begin in sorted(parts)]) if parts else np.zeros((0, 0), np.float16)


class _Actor:
    def __init__(self, encoder: str, max_length: int, device: str, actors: int) -> None:
        import os

        import torch

        if device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // actors))
        self._local = Local(encoder, max_length=max_length, device=device)

    def run(self, begin: int, texts: list[str]) -> tuple[int, Any]:
        return begin, self._local.embed(texts).astype(np.float16)
