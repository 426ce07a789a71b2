"""A search before and after its trials: what may be searched, what a trial runs with, what is shown and kept."""

import json
import tomllib
from dataclasses import replace

import pyarrow as pa
import pytest

from ecr_ray.config import ConfigError, CriticConfig, TuneConfig, load
from ecr_ray.critic import tune, tune_report

BASE = CriticConfig(targets=("a", "b"), batch=32, micro_batch=8, epochs=3.0, people="no")
SPACE = {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "train_layers": [1, "all"]}


def trial(name, rate, layers, error, **more):
    found = {"trial": name, "status": "done", "reason": "", "best_error": error, "valid_spearman": 0.5, "step": 9}
    return found | {"rows": 288, "seconds": 1.5, "chosen": {"learning_rate": rate, "train_layers": layers}} | more


TRIALS = [
    trial("t1", 1e-4, 1, 0.8),
    trial("t2", 1e-3, "all", 0.7),
    trial("t3", 1e-5, 1, 0.9, status="stopped"),
    trial("t4", 2e-5, "all", None, status="failed", reason="it has <only> 6 layers", step=None, seconds=None),
    trial("t5", 5e-4, "all", 0.75),
]


def test_the_default_space_is_one_of_a_critics_settings():
    tune.check_space(tune.SPACE, CriticConfig())
    # What is fixed for all trials are settings, too: a name that is none of them would fix nothing.
    assert set(CriticConfig.__dataclass_fields__) > tune.FIXED


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"learning_rat": [1]}, "'learning_rat' is no setting of a critic to search; did you mean 'learning_rate'?"),
        ({"encoder": ["a", "b"]}, "'encoder' is no setting of a critic to search"),
        ({"dropout": 0.1}, "dropout is neither a list of values nor"),
        ({"dropout": []}, "dropout is neither a list of values nor"),
        ({"dropout": {"low": 0.1, "high": 0.2, "step": 1}}, "dropout is neither a list of values nor"),
        ({"dropout": {"low": 0.2, "high": 0.1}}, "dropout: low is not below high"),
        ({"dropout": {"low": 0, "high": 0.1, "log": True}}, "a logarithm is asked for of 0"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_by_its_key(space, said):
    with pytest.raises(ConfigError, match=r"\[space\]") as caught:
        tune.check_space(space, BASE)
    assert said in str(caught.value)


def test_a_trials_settings():
    found = tune.chosen_settings(replace(BASE, workers=2), {"train_layers": "all", "batch": 8, "dropout": 0.3})
    assert found == replace(BASE, workers=2, train_layers=None, batch=8, micro_batch=4, dropout=0.3)


def test_the_best_toml_is_a_config_of_the_critics_job(tmp_path):
    base = replace(BASE, train_layers=3)
    text = tune_report.best_toml(base, TRIALS[1])
    assert tomllib.loads(text)["critic"]["learning_rate"] == 1e-3
    (tmp_path / "best.toml").write_text(text)
    found = load(CriticConfig, "critic", ["--profile", "node", "--config", str(tmp_path / "best.toml")])
    assert replace(found, profile="tiny", config=None) == tune.chosen_settings(base, TRIALS[1]["chosen"])


def test_the_table_while_it_runs_has_the_best_first():
    lines = tune_report.progress(TRIALS, list(SPACE)).splitlines()
    assert lines[0].split() == ["trial", "status", "step", "unexplained", "s", "learning_rate", "train_layers"]
    assert [line.split()[0] for line in lines[1:]] == ["t2", "t5", "t1", "t3", "t4"]
    assert lines[-1].split() == ["t4", "failed", "-", "-", "-", "2e-05", "all"]


def test_what_mattered():
    more = [trial(f"m{n}", 10 ** (-5 + n / 8), [1, "all"][n % 2], 0.5 + 0.3 * (n % 2)) for n in range(16)]
    found = tune_report.importance(more, SPACE, 0)
    assert next(iter(found)) == "train_layers" and found["train_layers"] > 0.8
    # Three trials say nothing, nor do any number that all end alike.
    assert tune_report.importance(more[:3], SPACE, 0) == {}
    assert tune_report.importance([trial("a", 1e-4, 1, 0.5)] * 5, SPACE, 0) == {}


def test_the_page_shows_every_trial_and_why_one_failed():
    rows = [{"trial": "t1", "step": s, "valid_error": 1 - s / 10, "valid_spearman": None} for s in (1, 2)]
    run = {
        "rows": {"trials": 5, "train_turns": 100, "valid_turns": 10},
        "best": TRIALS[1],
        "trials": TRIALS,
        "space": SPACE,
        "importance": {"learning_rate": 0.7, "train_layers": 0.3},
        "config": {"output": "runs/tune"},
        "command": ["jobs/tune_critic.py"],
        "code": {"version": "0", "commit": None, "changed": False},
        "packages": {},
        "hardware": {"cpu": "x", "cores": 2, "memory_gib": 4},
    }
    page = tune_report.page(run, pa.Table.from_pylist(rows, schema=tune_report.CURVES))
    assert page.count("<svg") == 3 and all(t["trial"] in page for t in TRIALS)
    assert "it has &lt;only&gt; 6 layers" in page and "<script" not in page


def test_a_search_is_checked_before_anything_starts(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[critic]\nlearning_rate = 1e-3\n[space]\nbatc = [1]\n")
    with pytest.raises(ConfigError, match="'batc' is no setting of a critic to search; did you mean 'batch'"):
        tune.check(TuneConfig(config=str(config)))
    with pytest.raises(ConfigError, match="--track wandb needs its package: pip install wandb"):
        tune.check(TuneConfig(track="wandb"))


def test_what_a_finished_trial_would_have_said_last(tmp_path):
    lines = [
        {"step": 5, "valid_error": 0.8, "valid_spearman": 0.4},
        {"step": 10, "valid_error": 0.9},
        {"step": 12, "loss": 1},
    ]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = tune.last_report(tmp_path, 32)
    assert found == {"step": 10, "rows": 320, "valid_error": 0.9, "valid_spearman": None, "best_error": 0.8}
