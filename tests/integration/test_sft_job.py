"""Fine-tuning through its front doors, on real Ray Train workers under DeepSpeed, with a worker killed on the way."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecr_ray.models import tiny
from ecr_ray.policy import sft_worker
from tests.integration.jobs import finish, job, processes, until

pytestmark = pytest.mark.slow
STEPS = 8
COMMON = ["--max-steps", STEPS, "--eval-every", 4, "--save-every", 4, "--log-every", 1, "--batch", 4]


def sft(*arguments, submit=False):
    return job("sft", *COMMON, *arguments, submit=submit)


def curve(directory, split="train"):
    rows = pq.read_table(directory / "curve.parquet").to_pylist()
    return {row["step"]: row["loss"] for row in rows if row["split"] == split}


@pytest.fixture(scope="module")
def full(cluster, tmp_path_factory):
    """All weights, two workers, one of them killed, ZeRO-2, by `ray job submit`."""
    out = tmp_path_factory.mktemp("sft") / "full"
    process = sft("--output", out, "--workers", 2, "--zero-stage", 2, submit=True)
    until(lambda: sft_worker.latest_checkpoint(out / ".work"), process)
    victims = processes("RayTrainWorker")
    assert len(victims) == 2
    victims[1].kill()
    return out, finish(process)


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """The same on one worker, ZeRO-1."""
    out = tmp_path_factory.mktemp("sft") / "undisturbed"
    finish(sft("--output", out))
    return out


@pytest.fixture(scope="module")
def lora(cluster, tmp_path_factory):
    """An adapter of the same base, learnt from dialogues and reviews, under ZeRO-3."""
    out = tmp_path_factory.mktemp("sft") / "lora"
    start = ["--base", "ecr-tiny-chat", "--method", "lora", "--lora-r", 8, "--zero-stage", 3]
    steps = ["--max-steps", 12, "--learning-rate", 2e-2, "--recipes", "dialogue", "ecr"]
    finish(sft(*start, *steps, "--output", out))
    return out


def test_it_learns_and_says_so(full):
    out, printed = full
    losses = curve(out)
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1] - 1
    run = json.loads((out / "run.json").read_text())
    found = run["result"]
    assert found["valid_loss_best"] == pytest.approx(min(curve(out, "valid").values()))
    assert f"held-out loss {found['valid_loss_first']:.3f} -> {found['valid_loss_best']:.3f}" in printed
    assert run["rows"]["train_answers"] > 100 and run["rows"]["quarantined"] == 0
    page = (out / "summary.html").read_text()
    assert "<svg" in page and "<script" not in page and "<link" not in page
    assert not (out / ".work").exists()


def test_the_weights_are_safetensors_that_transformers_loads_as_they_are(full):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _ = full
    names = {path.name for path in (out / "model").iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    model, info = AutoModelForCausalLM.from_pretrained(out / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    untrained = AutoModelForCausalLM.from_pretrained(tiny.resolve_model("tiny:0"))
    assert not np.allclose(model.lm_head.weight.detach(), untrained.lm_head.weight.detach())
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE and tokenizer.pad_token != tokenizer.eos_token
    assert not tiny.is_untrained(str(out / "model"))


@pytest.mark.long
def test_two_workers_one_of_them_killed_give_the_same_curve(full, undisturbed):
    one, two = curve(undisturbed), curve(full[0])
    assert sorted(two) == sorted(one)
    assert np.allclose([two[n] for n in sorted(one)], [one[n] for n in sorted(one)], rtol=0, atol=5e-3)
    looks = [list(curve(place, "valid").values()) for place in (undisturbed, full[0])]
    assert np.allclose(*looks, rtol=0, atol=5e-3)


@pytest.mark.long
def test_a_killed_driver_goes_on_from_its_checkpoint(undisturbed, tmp_path):
    out, work = tmp_path / "again", tmp_path / "again" / ".work"
    process = sft("--output", out)
    until(lambda: sft_worker.latest_checkpoint(work), process)
    process.kill()
    process.communicate()
    assert "unfinished run with other settings" in finish(sft("--output", out, "--seed", 1), 1)
    finish(sft("--output", out))
    one, again = curve(undisturbed), curve(out)
    assert np.allclose([again[n] for n in sorted(one)], [one[n] for n in sorted(one)], rtol=0, atol=1e-3)
    assert "already complete" in finish(sft("--output", out))


def test_a_finished_run_is_not_overwritten_by_another(full):
    said = finish(sft("--output", full[0], "--workers", 2, "--seed", 7), 1)
    assert "holds a finished run of sft with other settings" in said


def test_the_adapter_is_of_its_base_and_peft_loads_it(lora):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    config = json.loads((lora / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "ecr-tiny-chat"
    assert {path.name for path in (lora / "model").glob("*.safetensors")} == {"adapter_model.safetensors"}
    base = AutoModelForCausalLM.from_pretrained(tiny.resolve_model("ecr-tiny-chat"), dtype="float32")
    ids = torch.arange(5, 25)[None]
    before = base(ids).logits.detach().clone()
    with_adapter = peft.PeftModel.from_pretrained(base, lora / "model")
    assert not torch.allclose(with_adapter(ids).logits, before, atol=1e-2)
    with with_adapter.disable_adapter():
        assert torch.allclose(with_adapter(ids).logits, before, atol=1e-5)


def test_vllm_serves_the_adapter_and_it_changes_the_answers(lora):
    program = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
base, adapter = sys.argv[1:]
llm = LLM(base, dtype="float32", max_model_len=512, enforce_eager=True, enable_lora=True, max_lora_rank=8)
chat = [{"role": "user", "content": "Hi, I feel sad and want a film."}]
ask = SamplingParams(temperature=0, max_tokens=24)
answers = [llm.chat(chat, ask, lora_request=lora, use_tqdm=False)[0].outputs[0].text
           for lora in (None, LoRARequest("sft", 1, adapter), None, LoRARequest("sft", 1, adapter))]
print("ANSWERS " + json.dumps(answers))
"""
    env = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    env.pop("RAY_ADDRESS", None)
    words = [sys.executable, "-c", program, tiny.resolve_model("ecr-tiny-chat"), str(lora / "model")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=env, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    base, adapted, base_again, adapted_again = json.loads(re.search("ANSWERS (.*)", done.stdout)[1])
    assert base == base_again and adapted == adapted_again
    assert base != adapted


def test_going_on_from_an_adapter_of_another_base_is_refused(lora, tmp_path):
    words = ["--method", "lora", "--adapter", lora / "model", "--base", "tiny:1", "--output", tmp_path / "x"]
    assert "was made for the base model ecr-tiny-chat, not for tiny:1" in finish(sft(*words), 1)
    assert not Path(tmp_path / "x").exists()
