"""What can be known to be wrong before any actor starts, and what a run leaves out."""

from dataclasses import replace

import pytest

from ecr_ray.config import PpoConfig
from ecr_ray.errors import UserError
from ecr_ray.policy.ppo import run, worker


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"critic": "nowhere"}, "there is no critic 'nowhere'"),
        ({"aspects": ("warmth=1",)}, "the critic has the heads .* the reward asks for warmth=1"),
        ({"aspects": ("overall=much",)}, "--aspects overall=much: 'much' is no number"),
        ({"aspects": ("overall", "overall")}, "--aspects names overall twice"),
        ({"max_prompt": 2040}, "are more than the 2048 tokens that ecr-tiny-chat reads"),
        ({"batch": 48}, "--batch 48 is not a multiple of --minibatch 32"),
        ({"micro_batch": 24}, "--batch 32 cannot be shared by 1 worker"),
        ({"engine": "vllm", "method": "full"}, "--engine vllm takes adapters"),
        ({"lora_targets": ("nothing",)}, "has no module of that name"),
        ({"lora_r": 0}, "--lora-r 0: an adapter has a rank"),
        ({"reward": "no.such:thing"}, "write it as module:function"),
        ({"base": "/nowhere"}, "cannot load the tokenizer of --base /nowhere"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"titles": "/nowhere.json"}, "cannot read the films"),
    ],
)
def test_what_cannot_work_is_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        run.check(replace(PpoConfig(), **changes))


def test_without_questions_there_is_nothing_to_learn(tmp_path):
    settings = PpoConfig(max_prompt=8, output=str(tmp_path))
    with pytest.raises(
        UserError, match=r"0 questions to learn from and 0 to look at are left.*longer than --max-prompt"
    ):
        run.prepare(settings, run.check(settings), tmp_path)


def test_an_adapter_to_start_from_is_merged_into_its_base(tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from ecr_ray.models import tiny
    from ecr_ray.policy import weights
    from ecr_ray.policy.ppo import checkpoints, networks
    from ecr_ray.policy.ppo.networks import LoraShape

    base, lora = tiny.resolve_model("ecr-tiny-chat"), LoraShape(4, 8, ("q_proj",))
    built = networks.build(base, lora).policy
    learnt = {name: 0.1 * torch.randn_like(p) for name, p in built.named_parameters() if p.requires_grad}
    checkpoints.write_adapter(tmp_path / "adapter", learnt, base, lora)
    settings = PpoConfig(base=str(tmp_path / "adapter"), output=str(tmp_path / "out"))
    work = tmp_path / "work"
    work.mkdir()
    tokenizer = run.check(settings)
    run.prepare(settings, tokenizer, work)
    job = run.make_job(settings, tokenizer, work, "cpu")
    assert job.base == str(work / "base") and weights.base_of(settings.base) == base
    ids = torch.arange(5, 25)[None]
    wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")(ids).logits
    found = AutoModelForCausalLM.from_pretrained(job.base)(ids).logits
    assert torch.allclose(found, wanted, atol=0.1 * float(wanted.std()))
    assert len(worker.read_questions(work / "learn.parquet")) > 100
