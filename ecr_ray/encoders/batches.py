"""Which rows make up which step: fixed before training, the same for any number of workers. Pure.

A step's global batch is cut into slots of `micro` rows. Rows of like length share a slot, so that little is padded;
slot s of every step goes to worker s mod W. A worker's file holds its rows in the order in which it takes them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ecr_ray import storage

# Rows are sorted by length within this many batches: enough for like lengths, and the order stays random.
_POOL = 32


def plan(lengths_N: np.ndarray, batch: int, epochs: float, seed: int) -> np.ndarray:
    """The row numbers of every step, (steps, batch), each step's in order of length.

    Every epoch is a new permutation; what is left over at its end (fewer rows than a batch) is not used in it.

    Args:
        lengths_N: tokens of every row.
        batch: rows a step.
        epochs: passes over the rows; a part of one counts.
        seed: of the order.
    """
    each = len(lengths_N) // batch
    steps: list[np.ndarray] = []
    wanted = max(1, round(each * epochs))
    epoch = 0
    while len(steps) < wanted:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(lengths_N))[: each * batch]
        pools = [order[at : at + _POOL * batch] for at in range(0, len(order), _POOL * batch)]
        rows = np.concatenate([pool[np.argsort(lengths_N[pool], kind="stable")] for pool in pools])
        steps += list(rows.reshape(each, batch)[rng.permutation(each)])
        epoch += 1
    return np.stack(steps[:wanted])


def shard(rows: pa.Table, steps: np.ndarray, micro: int, workers: int) -> Iterator[pa.Table]:
    """Every worker's rows in the order in which it takes them, with the number of the `step`, counted from 1.

    Each row carries `totals`: the sums of its step's weights, by head, over all workers.
    """
    count, batch = steps.shape
    weights = np.array(rows["weights"].to_pylist())
    totals = weights[steps].sum(axis=1)
    slots = steps.reshape(count, batch // micro, micro)
    for worker in range(workers):
        mine = slots[:, worker::workers]
        per_step = mine.shape[1] * micro
        numbers = np.repeat(np.arange(1, count + 1), per_step)
        slot = np.tile(np.repeat(np.arange(worker, batch // micro, workers), micro), count)
        taken = rows.take(pa.array(mine.reshape(-1)))
        yield (
            taken.append_column("step", pa.array(numbers, pa.int32()))
            .append_column("slot", pa.array(slot, pa.int32()))
            .append_column("totals", pa.array(list(totals[numbers - 1].astype(np.float32)), pa.list_(pa.float32())))
        )


def write_shards(rows: pa.Table, steps: np.ndarray, micro: int, workers: int, directory: Path) -> list[Path]:
    """The workers' rows as Parquet files; those that are there already are of an earlier start and the same."""
    files = [directory / f"{workers}-workers" / f"rank-{n}.parquet" for n in range(workers)]
    if not all(file.exists() for file in files):
        for file, table in zip(files, shard(rows, steps, micro, workers), strict=True):
            storage.write_parquet(file, table)
    return files


def by_length(lengths: Sequence[int], tokens: int) -> list[np.ndarray]:
    """Row numbers in batches of like length, longest first, of at most so many tokens with their padding."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        size = max(1, tokens // max(1, lengths[order[begin]]))
        batches.append(order[begin : begin + size])
        begin += size
    return batches


def pad(ids: Sequence[Sequence[int]], filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, (B, T) each, padded on the right with `filler`."""
    width = max(map(len, ids))
    padded = np.full((len(ids), width), filler, dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.int64)
    for n, row in enumerate(ids):
        padded[n, : len(row)] = row
        mask[n, : len(row)] = 1
    return padded, mask
