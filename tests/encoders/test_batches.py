"""The plan of steps: every row once an epoch, like lengths together, the same batches on any number of workers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.encoders import batches


def table(count, heads=2):
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "ids": [[n] * (1 + n % 5) for n in range(count)],
            "targets": [[float(n)] * heads for n in range(count)],
            "weights": list(rng.uniform(size=(count, heads)).astype(np.float32)),
        }
    )


@given(st.integers(1, 300), st.integers(1, 16), st.integers(1, 3), st.integers(0, 5))
def test_a_row_is_never_twice_in_an_epoch_and_hardly_ever_left_out(count, batch, epochs, seed):
    if count < batch:
        return
    lengths = np.random.default_rng(seed).integers(1, 100, count)
    steps = batches.plan(lengths, batch, epochs, seed)
    each = count // batch
    assert steps.shape == (each * epochs, batch)
    for epoch in range(epochs):
        rows = steps[epoch * each : (epoch + 1) * each].reshape(-1)
        assert len(set(rows)) == len(rows) == each * batch
    assert np.array_equal(steps, batches.plan(lengths, batch, epochs, seed))


def test_like_lengths_share_a_batch_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(1, 200, 3200)
    steps = batches.plan(lengths, 32, 2, seed=0)
    spread = np.ptp(lengths[steps], axis=1)
    assert spread.mean() < 15 and (np.diff(lengths[steps], axis=1) >= 0).all()
    assert not np.array_equal(steps[:100], steps[100:])
    # Long and short batches do not take turns in an order.
    means = lengths[steps].mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_half_an_epoch_is_half_the_steps():
    assert len(batches.plan(np.ones(100), 10, 0.5, 0)) == 5
    assert len(batches.plan(np.ones(10), 10, 0.1, 0)) == 1


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_share_the_same_global_batches(workers):
    rows = table(40)
    steps = batches.plan(np.array([len(ids) for ids in rows["ids"].to_pylist()]), 8, 1, 0)
    parts = list(batches.shard(rows, steps, 2, workers))
    assert len(parts) == workers
    seen: dict[tuple[int, int], list] = {}
    for part in parts:
        assert part.num_rows == 40 // workers
        for row in part.to_pylist():
            seen.setdefault((row["step"], row["slot"]), []).append(row)
    for number, step in enumerate(steps, start=1):
        for slot in range(4):
            expected = [float(n) for n in step[2 * slot : 2 * slot + 2]]
            assert [row["targets"][0] for row in seen[number, slot]] == expected
    # Every row knows what its whole step weighs.
    weights = np.array(rows["weights"].to_pylist())
    for (step, _), found in seen.items():
        for row in found:
            assert row["totals"] == pytest.approx(weights[steps[step - 1]].sum(0), rel=1e-5)


def test_shards_are_written_once(tmp_path):
    rows, steps = table(16), batches.plan(np.ones(16), 8, 1, 0)
    files = batches.write_shards(rows, steps, 4, 2, tmp_path)
    before = [file.stat().st_mtime_ns for file in files]
    assert batches.write_shards(rows, steps, 4, 2, tmp_path) == files
    assert [file.stat().st_mtime_ns for file in files] == before


@given(st.lists(st.integers(1, 500), min_size=0, max_size=60), st.integers(1, 2000))
def test_prediction_batches_hold_every_row_once_and_few_tokens(lengths, tokens):
    found = batches.by_length(lengths, tokens)
    assert sorted(n for batch in found for n in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[n] for n in batch) <= tokens


def test_padding():
    ids, mask = batches.pad([[5, 6, 7], [8]], filler=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
