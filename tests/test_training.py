"""What training stages share."""

import os
import signal
import threading
import time

import pytest

from ecr_ray import training
from ecr_ray.config import ConfigError


def test_the_global_batch_is_the_same_on_any_number_of_workers():
    for workers in (1, 2, 4):
        cut = training.batching(16, 2, workers)
        assert cut.micro * cut.accumulate * workers == 16


def test_where_to_train():
    assert training.choose_device("auto", 0) == "cpu"
    assert training.choose_device("auto", 4) == "gpu"
    assert training.choose_device("cpu", 4) == "cpu"
    with pytest.raises(ConfigError, match="no GPU"):
        training.choose_device("gpu", 0)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_takes_the_settings(stage):
    from deepspeed.runtime.config import DeepSpeedConfig

    settings = training.deepspeed_config(stage, bf16=True)
    fixed = {key: 1 for key, value in settings.items() if value == "auto"}
    read = DeepSpeedConfig(settings | fixed)
    assert read.zero_config.stage == stage
    assert read.zero_config.gather_16bit_weights_on_model_save == (stage == 3)


def test_deepspeed_starts_without_a_compiler(monkeypatch):
    from deepspeed import ops
    from deepspeed.comm.torch import build_shm_op

    asked = []
    monkeypatch.setattr("deepspeed.ops.op_builder.builder.OpBuilder.load", lambda *a, **k: asked.append(a))
    monkeypatch.setattr(ops, "__compatible_ops__", {"deepspeed_shm_comm": True}, raising=False)
    build_shm_op()
    assert len(asked) == 1
    training.compile_nothing()
    asked.clear()
    assert build_shm_op() is None and asked == []


def test_the_bar_follows_whole_lines_only_and_begins_where_the_run_does(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 1, "loss": 8.0}\n')
    bar = training.Progress("sft", path, 10, done=1, shown={"loss": "loss"})
    assert bar._bar.n == 1
    with bar, path.open("a") as file:
        file.write('{"step": 2, "loss": 7.0}\n{"step": 3, "lo')
    assert bar._bar.n == 2 and "loss=7.000" in str(bar._bar)


def test_a_signal_is_heard_while_a_call_is_waited_for():
    class Told(BaseException):
        pass

    def tell(*_):
        raise Told

    before = signal.signal(signal.SIGUSR1, tell)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        began = time.monotonic()
        with pytest.raises(Told):
            training.in_thread(lambda: time.sleep(30))
        assert time.monotonic() - began < 20
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_a_call_gives_and_raises_comes_through_its_thread():
    assert training.in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        training.in_thread(lambda: 1 / 0)
