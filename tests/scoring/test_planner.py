import pytest

from ecr_ray import config
from ecr_ray.cluster.inventory import Node
from ecr_ray.config import JudgeConfig
from ecr_ray.scoring import planner

A100_80 = Node(cpus=32, memory_gib=512, gpus=4, gpu_gib=80)
A100_40 = Node(cpus=16, memory_gib=256, gpus=1, gpu_gib=40)
GTX = Node(cpus=8, memory_gib=64, gpus=1, gpu_gib=10.57)


def judge(name, **changes):
    import dataclasses

    known = config.load_judges("cluster", None)[name]
    return dataclasses.replace(known, **{"engines": 1, **changes})


def reason(name, *nodes, **changes):
    j = judge(name, **changes)
    try:
        planner.check(j, planner.KNOWN[j.model], nodes)
    except planner.DoesNotFit as error:
        return str(error)
    return None


def test_the_size_of_llama_2_7b_follows_from_its_config():
    shape = planner.shape_of(
        {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
         "intermediate_size": 11008, "vocab_size": 32000}
    )  # fmt: skip
    assert shape == planner.KNOWN["meta-llama/Llama-2-7b-chat-hf"]
    # 2 · 32 layers · 32 heads · 128 · 2 bytes = half a MiB a token.
    assert shape.kv_bytes_per_token() == 2**19


def test_the_size_of_mixtral_follows_from_its_config():
    shape = planner.shape_of(
        {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8}
    )  # fmt: skip
    assert shape == planner.KNOWN["mistralai/Mixtral-8x7B-Instruct-v0.1"]


def test_the_tiny_model_is_sized_by_the_same_formula():
    from transformers import AutoConfig, AutoModelForCausalLM

    from ecr_ray.models import tiny

    directory = tiny.resolve_model("tiny:0")
    shape = planner.shape_of(AutoConfig.from_pretrained(directory).to_dict())
    assert shape.params == AutoModelForCausalLM.from_pretrained(directory).num_parameters()


def test_what_fits_is_let_through():
    assert reason("llama-2-7b-chat", A100_40) is None
    assert reason("llama-2-70b-chat", A100_80) is None
    assert reason("mixtral-8x7b-instruct", A100_80) is None
    assert reason("mixtral-8x7b-instruct-awq", A100_40) is None


@pytest.mark.parametrize(
    ("name", "nodes", "changes", "advice"),
    [
        ("llama-2-70b-chat", [A100_80], {"engines": 2}, "--engines 1"),
        ("llama-2-70b-chat", [A100_80], {"tensor_parallel_size": 1}, "--tensor-parallel-size 2"),
        ("mixtral-8x7b-instruct", [A100_40], {"tensor_parallel_size": 1}, "--quantization awq"),
        ("mistral-7b-instruct", [Node(16, 64, 1, 20)], {"max_model_len": 16384}, "--max-model-len"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_smallest_change(name, nodes, changes, advice):
    assert f"It would fit with {advice}" in reason(name, *nodes, **changes)


def test_the_advice_is_true():
    import dataclasses
    import re

    j = judge("llama-2-70b-chat", tensor_parallel_size=1, engines=3)
    text = reason("llama-2-70b-chat", A100_80, tensor_parallel_size=1, engines=3)
    options = {k.replace("-", "_"): int(v) for k, v in re.findall(r"--([a-z-]+) (\d+)", text)}
    assert planner.problem(dataclasses.replace(j, **options), planner.KNOWN[j.model], [A100_80]) is None


def test_the_model_the_original_could_not_fit_is_refused_on_its_gpus_in_plain_words():
    text = reason("mixtral-8x7b-instruct", GTX)
    assert "GiB on each of 2 GPUs; the largest has 9.5 GiB to use" in text
    assert "No change of settings would make it fit" in text


def test_no_gpu_at_all_is_said():
    assert "needs 1 GPU and the cluster has none" in reason("llama-2-7b-chat", Node(8, 32))


def test_judges_run_side_by_side_only_where_all_have_room():
    shapes = {
        "a": planner.KNOWN["meta-llama/Llama-2-7b-chat-hf"],
        "b": planner.KNOWN["mistralai/Mistral-7B-Instruct-v0.2"],
    }
    a, b = (JudgeConfig(model="m", name=name) for name in "ab")
    assert planner.fit_together([a, b], shapes, [A100_80])
    assert not planner.fit_together([a, b], shapes, [A100_40])


def test_cpu_judges_take_turns():
    tiny = [JudgeConfig(model="m", name=name, device="cpu") for name in "ab"]
    shapes = {name: planner.Shape(5_000_000, 4, 2, 64) for name in "ab"}
    assert planner.fit_together(tiny[:1], shapes, [Node(64, 256)])
    assert not planner.fit_together(tiny, shapes, [Node(64, 256)])
