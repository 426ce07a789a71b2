"""What is wrong is said before anything starts."""

import pytest

from ecr_ray.config import EvaluateConfig
from ecr_ray.errors import UserError
from ecr_ray.evaluation import run


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"baseline": "nobody"}, "--baseline nobody is none of --systems: human, sft, best-of-8, ppo"),
        ({"baseline": "best-of-8"}, "one whose answers nobody chooses"),
        # No name of a hub either, which would be looked for there.
        ({"systems": ("sft=no/such/model",)}, "cannot load the tokenizer of .*no/such/model"),
        ({"critic": "none"}, "best-of-N needs a --critic"),
        ({"critic": "nowhere"}, "there is no critic 'nowhere'"),
        ({"emotions": "nowhere"}, "there is no classifier 'nowhere'"),
        ({"judges": ("nobody",)}, "there is no judge 'nobody'"),
        ({"titles": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_an_unusable_setting_is_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        run.check(EvaluateConfig(**settings))


def test_what_decides_the_figures_is_in_the_fingerprint_and_how_fast_they_come_is_not():
    plain = run.fingerprint(EvaluateConfig())
    assert run.fingerprint(EvaluateConfig(engines=4, device="cpu", output="elsewhere")) == plain
    assert run.fingerprint(EvaluateConfig(seed=1)) != plain
    assert {"ecr-tiny-chat", "ecr-tiny-ppo"} <= {file["path"].split("/")[-2] for file in plain["files"]}
