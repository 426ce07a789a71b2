"""Starting the endpoint: what is checked before anything starts, and the config for `serve deploy`."""

import subprocess
import sys

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from ecr_ray import config
from ecr_ray.config import ConfigError, ServeConfig
from ecr_ray.serving import keys, run
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "nobody could ask: make a key with `python -m ecr_ray.serving.keys --file .*keys.json add NAME --admin`"),
        ({"open": True, "host": "0.0.0.0"}, "--host 0.0.0.0 lets others in"),
        ({"open": True, "recommender": "nowhere"}, "nowhere holds no recommender"),
        ({"open": True, "adapter": "nowhere"}, "has no adapter_config.json"),
        ({"open": True, "base": "tiny:0"}, "is an adapter of ecr-tiny-chat, not of tiny:0"),
        ({"open": True, "policy_replicas": (2, 1)}, "--policy-replicas 2 1: at least 1"),
        ({"open": True, "policy_replicas": (1, 2)}, "the policy has replicas with --policy-in replicas only"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(tmp_path, settings, sentence):
    with pytest.raises((ConfigError, run.adapters.AdapterError), match=sentence):
        run.check(ServeConfig(output=str(tmp_path), **settings))


def test_with_a_key_or_on_this_machine_alone_it_may_start(tmp_path):
    run.check(ServeConfig(output=str(tmp_path), open=True))
    keys.write(tmp_path / "keys.json", [keys.make("anna", admin=False)[1]])
    run.check(ServeConfig(output=str(tmp_path), host="0.0.0.0"))


def test_replicas_that_work_elsewhere_find_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    found = run.located(ServeConfig(output="out", recommender="mine/model", base="some/hub-id"))
    assert found.output == str(tmp_path / "out") and found.recommender == str(tmp_path / "mine" / "model")
    # Names stay names.
    assert (found.base, found.adapter, found.critic) == ("some/hub-id", "ecr-tiny-ppo", "ecr-tiny-critic")


def job(*words):
    return subprocess.run(
        [sys.executable, "jobs/serve.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_job_says_it_in_one_sentence(tmp_path):
    done = job("--output", tmp_path)
    assert done.returncode == 1 and "error: nobody could ask" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "said",
    [
        "HAProxy crashed during startup: [ALERT] (1) : cannot bind socket (Address already in use) for [127.0.0.1:81]",
        "ray::ProxyActor.ready()\nRuntimeError: Failed to bind to address '127.0.0.1:81'.",
    ],
)
def test_a_port_that_is_taken_is_named(monkeypatch, said):
    # In Serve's words, with either of what can be in front.
    def refuse(**_):
        raise RuntimeError(said)

    monkeypatch.setattr("ray.serve.start", refuse)
    with pytest.raises(run.ServeError, match=r"^--port 81: somebody listens there already; end that, or take another"):
        run.start(ServeConfig(open=True, port=81), {})


def test_a_config_for_serve_deploy_has_every_setting(tmp_path):
    target = tmp_path / "serve.yaml"
    apart = ("--policy-in", "replicas", "--policy-replicas", "1", "3")
    done = job("--build", target, "--max-tokens", "17", *apart, "--port", "9001", "--open")
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(target.read_text())
    schema = ServeDeploySchema.model_validate(content)
    assert schema.http_options.port == 9001 and schema.http_options.host == "127.0.0.1"
    assert schema.controller_options.runtime_env["env_vars"]["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    (application,) = schema.applications
    assert application.import_path == "ecr_ray.serving.app:app"
    again = config.of_mapping(ServeConfig, "serve", application.args)
    assert (again.max_tokens, again.policy_replicas, again.open) == (17, (1, 3), True)


@pytest.mark.parametrize(("where", "count"), [("ingress", 4), ("replicas", 5)])
def test_one_of_each_fits_on_two_cores(monkeypatch, where, count):
    # `serve run` starts a Ray with as many logical CPUs as the machine has.
    from ecr_ray.serving import app

    asked, real = [], app.serve.deployment

    def deployment(*arguments, **options):
        asked.append(options["ray_actor_options"]["num_cpus"])
        return real(*arguments, **options)

    monkeypatch.setattr(app.serve, "deployment", deployment)
    app.bind(ServeConfig(open=True, policy_in=where))
    assert len(asked) == count and sum(asked) <= 2


def test_arguments_of_serve_run_are_checked():
    found = config.of_mapping(
        ServeConfig, "serve", {"open": "true", "aspects": ["overall=1", "empathy=2"], "port": "81"}
    )
    assert found.open and found.aspects == ("overall=1", "empathy=2") and found.port == 81
    with pytest.raises(ConfigError, match="unknown key 'opne'; did you mean 'open'"):
        config.of_mapping(ServeConfig, "serve", {"opne": "true"})
    with pytest.raises(ConfigError, match="cannot be used"):
        config.of_mapping(ServeConfig, "serve", {"port": "many"})
