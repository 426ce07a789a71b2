"""What is set side by side."""

import json

import pytest

from ecr_ray.config import ConfigError
from ecr_ray.evaluation import systems
from ecr_ray.evaluation.systems import System
from ecr_ray.policy.weights import ModelError


def test_words_become_systems(tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text("")
    found = systems.parse(
        [
            "human",
            "sft=ecr-tiny-chat",
            "best=best-of-8:ecr-tiny-chat",
            "served=http://127.0.0.1:8000/v1/#ecr-tiny-ppo",
            f"theirs={file}",
        ]
    )
    assert found == [
        System("human", "people"),
        System("sft", "policy", "ecr-tiny-chat"),
        System("best", "policy", "ecr-tiny-chat", tries=8),
        System("served", "endpoint", "http://127.0.0.1:8000/v1", model="ecr-tiny-ppo"),
        System("theirs", "file", str(file)),
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sft"], "write NAME=WHAT"),
        (["=ecr-tiny-chat"], "write NAME=WHAT"),
        (["a b=ecr-tiny-chat"], "write NAME=WHAT"),
        (["x=ecr-tiny-chat", "x=ecr-tiny-ppo"], "names x twice"),
        (["x=best-of-0:ecr-tiny-chat"], "at least one answer"),
        (["x=http://host/v1"], "after a #"),
        (["x=nowhere.jsonl"], "there is no file nowhere.jsonl"),
    ],
)
def test_what_is_no_system_is_said(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        systems.parse(words)


def test_an_adapter_must_say_what_it_is_of(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    with pytest.raises(ModelError, match="does not name a base model"):
        systems.parse([f"x={tmp_path}"])
