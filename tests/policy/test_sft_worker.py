"""What a worker's trainer does with rows of any length."""

import pytest

from ecr_ray.config import SftConfig
from ecr_ray.models import tiny
from ecr_ray.policy import sft_worker


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTTrainer

    settings = SftConfig(base="ecr-tiny-chat", zero_stage=0, method="full", bf16=False)
    ids = list(range(10, 110))
    row = {"input_ids": ids, "labels": [-100] * 40 + ids[40:], "seq_lengths": [60, 40]}
    return SFTTrainer(
        model=sft_worker.load_model(tiny.resolve_model(settings.base), settings, None),
        args=sft_worker.arguments(settings, tmp_path_factory.mktemp("sft"), "cpu", 1, has_valid=False),
        train_dataset=Dataset.from_list([row]),
        processing_class=AutoTokenizer.from_pretrained(tiny.resolve_model(settings.base)),
    )


def test_rows_are_filled_up_to_a_round_length_and_nothing_is_learnt_from_that(trainer):
    import torch

    (batch,) = trainer.get_train_dataloader()
    assert batch["input_ids"].shape == (1, 2 * sft_worker.PAD_TO)
    # Labels of what was filled up, and of a sequence's first token, which nothing comes before.
    assert (batch["labels"][0, 100:] == -100).all()
    assert (batch["labels"][0, 61:100] == torch.arange(71, 110)).all()


def test_the_loss_is_that_of_the_rows_alone(trainer):
    import torch

    (batch,) = trainer.get_train_dataloader()
    model = trainer.model.eval()
    with torch.no_grad():
        filled = model(**{name: batch[name] for name in ("input_ids", "labels", "position_ids")})
        alone = model(**{name: batch[name][:, :100] for name in ("input_ids", "labels", "position_ids")})
    assert filled.loss.item() == pytest.approx(alone.loss.item(), rel=1e-5)
    assert torch.allclose(filled.logits[:, :100], alone.logits, atol=1e-4)
