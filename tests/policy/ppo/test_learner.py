"""Networks and learner on the tiny model: what they say, and that an update is the same however it is cut."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ecr_ray.config import PpoConfig
from ecr_ray.models import tiny
from ecr_ray.policy.ppo import networks
from ecr_ray.policy.ppo.group import Alone
from ecr_ray.policy.ppo.learner import Learner, Targets
from ecr_ray.policy.ppo.networks import LoraShape

LORA = LoraShape(4, 8, ("q_proj", "v_proj"))
ROWS = [([1, 300 + n, 17], [40 + n, 900, 2][: 1 + n % 3]) for n in range(8)]


def learner(lora, **changes):
    settings = PpoConfig(**({"batch": 8, "minibatch": 8, "micro_batch": 8, "epochs": 1, "zero_stage": 0} | changes))
    return Learner(settings, tiny.resolve_model("ecr-tiny-chat"), lora, 0, Alone(), "cpu")


def targets(judged, seed=0):
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(judged.mask_BT.shape, generator=generator) * judged.mask_BT
    return Targets(advantages, advantages + judged.values_BT, judged.mask_BT)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_before_any_update_the_policy_is_the_reference_and_the_model_itself(lora):
    judged = learner(lora, temperature=0.7).judge(ROWS)
    model = AutoModelForCausalLM.from_pretrained(tiny.resolve_model("ecr-tiny-chat"), dtype="float32").eval()
    for n, (prompt, response) in enumerate(ROWS):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.7
        wanted = torch.log_softmax(logits, -1)[range(len(response)), response]
        assert torch.allclose(judged.log_BT[n, : len(response)], wanted, atol=1e-4)
        assert judged.mask_BT[n].sum() == len(response) and not judged.log_BT[n, len(response) :].any()
    assert torch.equal(judged.log_BT, judged.reference_BT)
    assert not judged.values_BT.any() and (judged.entropy_BT[judged.mask_BT > 0] > 0).all()


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_an_update_goes_the_way_of_the_advantages_and_leaves_the_reference(lora):
    ours = learner(lora)
    judged = ours.judge(ROWS)
    wanted = targets(judged)
    for step in (1, 2, 3):
        seen = ours.update(judged, wanted, step + 100, 1e-3)
        assert step > 1 or seen["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    after = ours.judge(ROWS)
    gained = ((after.log_BT - judged.log_BT) * wanted.advantages_BT).sum()
    assert gained > 0
    assert torch.allclose(after.reference_BT, judged.reference_BT, atol=1e-6)
    assert torch.equal(ours.judge(ROWS).log_BT, after.log_BT), "adapters are on again"
    assert after.values_BT.abs().sum() > 0


def test_while_the_value_warms_up_the_policy_stays():
    ours = learner(LORA, value_warmup=5)
    judged = ours.judge(ROWS)
    ours.update(judged, targets(judged), 5, 1e-2)
    after = ours.judge(ROWS)
    assert torch.equal(after.log_BT, judged.log_BT) and not torch.equal(after.values_BT, judged.values_BT)


@pytest.mark.parametrize("changes", [{"micro_batch": 2}, {"gradient_checkpointing": True}])
def test_small_micro_batches_and_recomputing_give_the_same_update(changes):
    whole, cut = learner(LORA), learner(LORA, **changes)
    judged = whole.judge(ROWS)
    assert torch.allclose(cut.judge(ROWS).log_BT, judged.log_BT, atol=1e-5)
    for ours in (whole, cut):
        ours.update(judged, targets(judged), 100, 1e-3)
    a, b = whole.stepper.weights(), cut.stepper.weights()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5


def test_a_saved_state_goes_on_as_if_nothing_had_happened():
    ours = learner(None)
    judged = ours.judge(ROWS)
    ours.update(judged, targets(judged, 1), 100, 1e-4)
    again = Learner(
        ours.settings, tiny.resolve_model("ecr-tiny-chat"), None, 0, Alone(), "cpu", (ours.stepper.state(), 1)
    )
    assert torch.equal(again.judge(ROWS).reference_BT, judged.reference_BT)
    for learning in (ours, again):
        learning.update(judged, targets(judged, 2), 101, 1e-4)
    a, b = ours.stepper.weights(), again.stepper.weights()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_with_an_adapter_policy_and_value_share_their_base():
    built = networks.build(tiny.resolve_model("ecr-tiny-chat"), LORA)
    frozen = {id(p) for p in built.policy.parameters() if not p.requires_grad}
    assert all(id(p) in frozen for p in built.value.parameters() if not p.requires_grad)
    learnt = [name for name, p in built.named_parameters() if p.requires_grad]
    assert all(".lora_" in name or name.startswith("head.") for name in learnt)
    assert sum(name.startswith("policy.") for name in learnt) == sum(name.startswith("value.") for name in learnt) == 16


def test_rows_are_packed_by_what_foresees_each_token():
    packed = networks.Packed.of([([5, 6], [7, 8]), ([1], [2])], filler=0, device="cpu")
    assert packed.ids_BL.tolist() == [[5, 6, 7, 8], [1, 2, 0, 0]]
    assert packed.ids_BL.flatten()[packed.at_N].tolist() == [6, 7, 1] and packed.tokens_N.tolist() == [7, 8, 2]
    assert np.issubdtype(packed.at_N.numpy().dtype, np.integer)
