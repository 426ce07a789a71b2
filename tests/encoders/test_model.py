"""The critic's module, what of it is trained and kept, and how its steps add up without DeepSpeed."""

import numpy as np
import pytest
import torch

from ecr_ray import optimizers, training
from ecr_ray.encoders import model, predict
from ecr_ray.encoders.model import Shape

SHAPE = Shape("minilm", ("empathy", "overall"), "ecr-ma", dropout=0.0, max_length=32)


@pytest.fixture(scope="module")
def critic():
    torch.manual_seed(0)
    return model.build(SHAPE)


def test_pooling_looks_at_real_tokens_only():
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert model.pool(states, mask, "mean").tolist() == [[2, 3]]
    assert model.pool(states, mask, "cls").tolist() == [[1, 2]]


def test_it_begins_without_an_opinion_and_padding_changes_nothing(critic):
    critic.eval()
    ids = torch.tensor([[101, 2000, 2001, 102]])
    with torch.inference_mode():
        raw = critic(ids, torch.ones_like(ids))
        padded = critic(torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1), torch.tensor([[1] * 4 + [0] * 3]))
    assert raw.shape == (1, 4) and raw.abs().max() < 0.7
    assert torch.allclose(raw, padded, atol=1e-5)


def test_what_is_frozen():
    critic = model.build(SHAPE)
    model.freeze(critic, 2, embeddings=False)
    learning = set(optimizers.trained(critic))
    layers = {name.split(".")[3] for name in learning if ".layer." in name}
    assert layers == {"4", "5"} and not [name for name in learning if "embeddings" in name]
    assert {name for name in learning if name.startswith("head.")}
    model.freeze(critic, None, embeddings=True)
    assert len(optimizers.trained(critic)) == len(list(critic.parameters()))
    with pytest.raises(model.HeadsError, match="the encoder has only 6 layers"):
        model.freeze(critic, 7, embeddings=False)


def test_only_what_was_trained_is_kept_and_comes_back(tmp_path):
    critic = model.build(SHAPE)
    model.freeze(critic, 1, embeddings=False)
    with torch.no_grad():
        for weight in optimizers.trained(critic).values():
            weight.add_(0.01 * torch.randn_like(weight))
    kept = {name: weight.detach() for name, weight in optimizers.trained(critic).items()}
    model.save(tmp_path / "c", SHAPE, kept, "float16")
    assert (tmp_path / "c" / model.WEIGHTS).stat().st_size < 5e6
    loaded, reader, shape = model.load(model.find(str(tmp_path / "c")))
    assert shape == SHAPE and reader.max_length == 32
    ids = torch.tensor([[101, 2000, 2001, 102]])
    with torch.inference_mode():
        critic.eval()
        assert torch.allclose(loaded(ids, ids.ne(0)), critic(ids, ids.ne(0)), atol=2e-3)


def test_a_directory_without_a_critic_or_with_half_of_one(tmp_path):
    with pytest.raises(model.HeadsError, match=r"there is no critic '.*': neither a bundled one nor a directory"):
        model.find(str(tmp_path))
    model.save(tmp_path, SHAPE, {"head.1.weight": torch.zeros(4, 384)}, "float16")
    with pytest.raises(model.HeadsError, match=r"does not fit heads.json: head.1.bias"):
        model.load(tmp_path)


def test_an_encoder_that_does_not_exist_is_one_sentence():
    with pytest.raises(model.EncoderError, match="cannot load --encoder /nowhere"):
        model.build(Shape("/nowhere", ("a",), "ecr-ma"))


def settings(accumulate):
    return optimizers.Settings(1, training.Batching(2, accumulate), 0.1, 1.0, "cpu", 0)


def small():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))


def example(device):
    return (torch.ones(1, 5, device=device),)


def steps(stepper, data, first, last, cut):
    for number in range(first, last):
        stepper.begin(0.01)
        for part in data[number].chunk(cut):
            stepper.backward((stepper.model(part) ** 2).sum() / len(data[number]))
        stepper.end()


def test_parts_of_a_step_add_up_and_a_saved_state_goes_on():
    data = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(0))
    whole = optimizers.make(small(), settings(1), example)
    steps(whole, data, 0, 6, 1)
    cut = optimizers.make(small(), settings(4), example)
    steps(cut, data, 0, 3, 4)
    again = optimizers.make(small(), settings(2), example, cut.state(), 3)
    steps(again, data, 3, 6, 2)
    for name, weight in whole.state()["weights"].items():
        assert torch.allclose(weight, again.state()["weights"][name], atol=1e-6), name


def test_local_prediction_does_not_depend_on_its_neighbours(tmp_path):
    critic = model.build(SHAPE)
    model.save(tmp_path, SHAPE, dict(critic.head.named_parameters(prefix="head")), "float32")
    local = predict.Local(str(tmp_path), bf16=False)
    contexts = [[{"role": "seeker", "text": "word " * n}] for n in range(9)]
    responses = [f"Film {n} " * (n % 3 + 1) for n in range(9)]
    responses[4] = "word " * 40
    found = local.predict(contexts, responses)
    assert found.unread.tolist() == [n == 4 for n in range(9)]
    for n in (0, 3, 8):
        alone = local.predict(contexts[n : n + 1], responses[n : n + 1])
        assert np.allclose(alone.mean_NK[0], found.mean_NK[n], atol=1e-5)
        assert np.allclose(alone.std_NK[0], found.std_NK[n], atol=1e-5)
    assert (found.of("overall")[~found.unread] > 0).all()
