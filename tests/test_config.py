import dataclasses
import subprocess
import sys

import pytest

from ecr_ray import config
from ecr_ray.config import ConfigError, ScoreConfig
from tests.conftest import ROOT

STAGES = {
    name.removesuffix("Config").lower(): found
    for name, found in vars(config).items()
    if name.endswith("Config") and hasattr(found, "profile")
}


def load(*argv):
    return config.load(ScoreConfig, "score", argv)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_profile(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[score]\njudges = ["tiny-b"]\nrubric = "ecr"\nseed = 5\n')
    assert load().judges == ("ecr-tiny-judge",)
    assert load("--config", str(file)).judges == ("tiny-b",)
    both = load("--config", str(file), "--seed", "7")
    assert (both.rubric, both.seed) == ("ecr", 7)


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[score]\nrubrik = "ecr"\n')
    with pytest.raises(ConfigError, match=r"mine.toml, table \[score\]: unknown key 'rubrik'; did you mean 'rubric'"):
        load("--config", str(file))


def test_a_value_of_the_wrong_type_names_the_key(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[score]\nseed = "five"\n')
    with pytest.raises(ConfigError, match="seed = 'five'"):
        load("--config", str(file))


@pytest.mark.parametrize(
    ("name", "wrong", "right", "said"),
    [
        ("engines", (0, -1), (1, 100), "at least 1"),
        ("retries", (-1,), (0, 3), "at least 0"),
        ("max_failure_rate", (-0.1, 1.1), (0.0, 1.0), "in 0-1"),
        ("dropout", (1.0, -0.1), (0.0, 0.9), "below 1"),
        ("deadline_s", (0.0, -3.0), (0.1,), "above 0"),
        ("top_p", (0.0,), (1.0,), "above 0"),
        ("temperature", (-1.0, float("nan"), float("inf")), (0.0, 2.0), ""),
        ("overwrite", (), (False, True), ""),
        ("input", (), ("", "sample"), ""),
        ("limit", (0,), (None, 1), "at least 1"),
    ],
)
def test_what_a_number_may_be(name, wrong, right, said):
    assert not [value for value in right if config.out_of_range(name, value)]
    faults = [config.out_of_range(name, value) for value in wrong]
    assert all(faults) and all(said in fault for fault in faults)


def test_a_number_out_of_its_range_names_the_option_wherever_it_stood(tmp_path):
    with pytest.raises(ConfigError, match=r"--batch-size 0: it must be at least 1"):
        load("--batch-size", "0")
    file = tmp_path / "mine.toml"
    file.write_text("[score]\nmax_failure_rate = 7.0\n[judges.mine]\nmodel = 'x'\nengines = 0\n")
    with pytest.raises(ConfigError, match=r"--max-failure-rate 7.0: it must be in 0-1"):
        load("--config", str(file))
    with pytest.raises(ConfigError, match=r"\[judges.mine\]: engines = 0: it must be at least 1"):
        config.load_judges("tiny", str(file))


@pytest.mark.parametrize("profile", ["tiny", "node", "cluster"])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_default_is_in_its_range(stage, profile):
    assert config.load(STAGES[stage], stage, ["--profile", profile]).profile == profile


def test_a_misspelt_profile_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match="did you mean 'cluster'"):
        load("--profile", "clutser")


@pytest.mark.parametrize("text", ["[score", "seed = "])
def test_broken_toml_is_one_sentence(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load("--config", str(file))


@pytest.mark.parametrize("profile", ["tiny", "node", "cluster"])
def test_every_profile_names_judges_that_exist(profile):
    judges = config.load_judges(profile, None)
    assert set(load("--profile", profile).judges) <= set(judges)
    assert {"llama-2-7b-chat", "llama-2-70b-chat", "mistral-7b-instruct", "mixtral-8x7b-instruct"} <= set(judges)


def test_a_file_may_change_one_setting_of_a_known_judge_and_add_its_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '[judges.tiny-a]\nengines = 3\n[judges.mine]\nmodel = "/m"\nbackend = "http"\nurl = "http://x/v1"\n'
    )
    judges = config.load_judges("tiny", str(file))
    assert (judges["tiny-a"].engines, judges["tiny-a"].model) == (3, "tiny:0")
    assert judges["mine"].backend == "http"


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().seed = 3


@pytest.mark.parametrize("job", ["prepare", "score", "annotate", "train_emotion"])
def test_help_teaches_every_setting(job):
    done = subprocess.run([sys.executable, f"jobs/{job}.py", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    stages = {"prepare": config.PrepareConfig, "score": ScoreConfig}
    cls = (stages | {"annotate": config.AnnotateConfig, "train_emotion": config.EmotionConfig})[job]
    for field in dataclasses.fields(cls):
        assert f"--{field.name.replace('_', '-')}" in done.stdout
    assert "Exit code 0" in done.stdout


def test_an_unknown_option_exits_with_2_and_a_suggestion():
    done = subprocess.run([sys.executable, "jobs/score.py", "--rubrc", "ecr"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "--rubric" in done.stderr
