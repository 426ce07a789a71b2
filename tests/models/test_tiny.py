import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecr_ray.models import tiny


@pytest.fixture(scope="module")
def directory():
    return Path(tiny.resolve_model("tiny:0"))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_a_llama_of_three_to_eight_million_parameters(directory):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert 3e6 < model.num_parameters() < 8e6


def test_every_digit_is_its_own_token_and_padding_is_not_the_end(directory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.tokenize("1995") == ["1", "9", "9", "5"]
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3
    text = "naïve 🙂 (1995)\n\tok"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_chat_template_is_llamas_and_marks_the_answer_with_its_end(directory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = [
        {"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"},
    ]  # fmt: skip
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A</s>"
    found = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    answer = [i for i, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(answer) == " A</s>"


def test_it_is_the_same_on_another_day(directory, tmp_path):
    subprocess.run(
        [sys.executable, "-c", "from ecr_ray.models import tiny; tiny.build(0)"],
        env={**os.environ, "ECR_CACHE_DIR": str(tmp_path)},
        check=True,
    )
    (again,) = (tmp_path / "models").iterdir()
    for name in ("model.safetensors", "tokenizer.json"):
        assert digest(again / name) == digest(directory / name)
    assert digest(Path(tiny.resolve_model("tiny:1")) / "model.safetensors") != digest(directory / "model.safetensors")


def test_it_says_that_it_is_untrained(directory, tmp_path):
    assert tiny.is_untrained(str(directory))
    assert not tiny.is_untrained(str(tmp_path))


def test_a_directory_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert tiny.resolve_model("mine") == str(tmp_path / "mine")


def test_a_wrong_name_says_what_a_right_one_looks_like():
    with pytest.raises(ValueError, match="tiny:0"):
        tiny.resolve_model("tiny:large")
    assert tiny.resolve_model("org/model") == "org/model"
