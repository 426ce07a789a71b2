"""The figures of the model cards, against numbers worked out by hand."""

import math
import shutil
import sys

import numpy as np
import pytest

from ecr_ray import prompts
from ecr_ray.data import ratings
from ecr_ray.data.ratings import Rated
from ecr_ray.evaluation import card
from ecr_ray.models import chat_measures as measure
from ecr_ray.models import judge_measures, measuring, ngram, tiny
from ecr_ray.models.measure import main
from ecr_ray.policy.tokens import Encoder, Example, rows_of


def test_distinct():
    assert measure.distinct(["a b a b"], 1) == 0.5
    assert measure.distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert measure.distinct(["A b!", "a c"], 1) == pytest.approx(4 / 5)
    assert math.isnan(measure.distinct(["a"], 2))


def test_the_interval_holds_the_value_and_knows_dialogues():
    rng = np.random.default_rng(0)
    means = rng.normal(size=100)
    # Ten equal rows a dialogue tell no more than one.
    values, groups = np.repeat(means, 10), np.repeat(np.arange(100), 10)
    found = measuring.interval(lambda picked: float(values[picked].mean()), groups, seed=1)
    assert (found["n"], found["dialogues"]) == (1000, 100)
    assert found["value"] == pytest.approx(means.mean(), abs=1e-4)
    spread = 1.96 * means.std() / math.sqrt(100)
    assert found["low"] == pytest.approx(means.mean() - spread, abs=0.05)
    assert found["high"] == pytest.approx(means.mean() + spread, abs=0.05)


def test_perplexity_per_token_and_byte():
    loss = measure.Loss(np.array([2.0, 4.0]), np.array([2, 1]), np.array([10, 5]))
    token, byte = loss.rows("m", seed=0)
    assert token["value"] == pytest.approx(math.exp(2), abs=1e-3)
    assert byte["value"] == pytest.approx(math.exp(6 / 15), abs=1e-3)


def test_the_models_loss_is_that_of_each_conversation_by_itself():
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = tiny.load_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(tiny.resolve_model("tiny:0"), dtype="float32").eval()
    chats = [[("user", "Hi"), ("assistant", "Hello there, you.")], [("user", "A film?"), ("assistant", "Heat.")]]
    examples = [
        Example(str(n), "valid", tuple({"role": role, "content": text} for role, text in chat))
        for n, chat in enumerate(chats)
    ]
    rows = [rows_of(example, Encoder.of(tokenizer), 64) for example in examples]
    for found, (row,) in zip(measure.model_loss(model, rows, tokenizer.pad_token_id), rows, strict=True):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        learnt = int((labels != -100).sum())
        assert found[1] == learnt
        assert found[0] == pytest.approx(model(input_ids=ids, labels=labels).loss.item() * learnt, rel=1e-4)


ARPA = """
\\data\\
ngram  1= 3
ngram  2= 1

\\1-grams:
-0.5\t<unk>
-1.0\ta\t-0.25
-0.3\tb\t-0.1

\\2-grams:
-0.2\ta b

\\end\\
"""


def test_the_n_gram_model_backs_off(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    lm = ngram.BackOff(path)
    ten = math.log(10)
    assert lm.log_prob("b", ["a"]) == pytest.approx(-0.2 * ten)
    assert lm.log_prob("a", ["a"]) == pytest.approx((-0.25 - 1.0) * ten)
    assert lm.log_prob("z", ["b"]) == pytest.approx((-0.1 - 0.5) * ten)
    assert lm.log_prob("b", ["z"]) == pytest.approx(-0.3 * ten)


def test_the_estimated_model_is_a_distribution():
    if not shutil.which("irstlm"):
        pytest.skip("needs IRSTLM: apt-get install irstlm")
    rng = np.random.default_rng(0)
    rows = [np.minimum(rng.zipf(1.5, 30), 200).tolist() for _ in range(600)]
    lm = ngram.estimate(rows)
    words = [gram[0] for gram in lm.grams if len(gram) == 1 and gram != ("<s>",)]
    for context in (["<s>"], ["t1"], ["t2", "t3"], ["t1", "t1", "t2", "t3"]):
        assert sum(math.exp(lm.log_prob(word, context)) for word in words) == pytest.approx(1, abs=0.01)


# --- judges against people --------------------------------------------------------------------------------


def rated(dialogue, value):
    return Rated(
        dialogue, 1, [{"role": "seeker", "text": "Hi"}], "word " * (1 + dialogue.count("x")), {"overall": value}
    )


def test_any_judge_is_held_against_people_who_rated_turns_that_none_learnt_from(monkeypatch):
    names = [f"d{n}{'x' * (n % 7)}" for n in range(400)]
    turns = [rated(name, [1.0 + n % 5, 1.0 + n % 5]) for n, name in enumerate(names)]
    held_out = [turn for turn in turns if ratings.is_held_out(turn.dialogue_id)]
    asked = []

    def score(turns, judge, config, rubric):
        asked.append((judge, rubric, len(turns)))
        value = np.array([turn.ratings["overall"][0] for turn in turns])
        noise = np.random.default_rng(0).random(len(turns))
        aspects = {"emotional_intensity": -value, **dict.fromkeys(prompts.RUBRICS[rubric].aspects, noise)}
        return {**aspects, "emotional_intensity": -value, "overall": value if judge == "mine" else noise}

    monkeypatch.setattr(ratings, "rated_turns", lambda: iter(turns))
    monkeypatch.setattr(judge_measures, "score", score)
    found = judge_measures.against_people("mine", "mine.toml", "ecr", 0)
    assert asked == [("mine", "ecr", len(held_out)), ("random", "ecr", len(held_out))]
    rho = {row["model"]: row for row in found["rows"] if row["measure"] == "Spearman, overall"}
    assert rho["mine"]["value"] == 1 and rho["its emotional_intensity"]["value"] == -1
    assert abs(rho[judge_measures.UNTRAINED]["value"]) < 0.5 and rho["mine"]["n"] == len(held_out) > 20
    lines = card._with_people("mine", {**found, "seed": 0, "command": ["python", "it"]})
    assert any(line.startswith("| its emotional intensity | -1.00") for line in lines)


def test_a_judge_that_nobody_knows_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["measure", "judge", "--judge", "nobody"])
    with pytest.raises(SystemExit, match="no judge 'nobody'"):
        main()
