"""Which version of the policy answers."""

import json
import shutil
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray import storage
from ecr_ray.models import tiny
from ecr_ray.serving import adapters
from ecr_ray.serving.adapters import AdapterError, Tally, Version

BASE, PPO = "ecr-tiny-chat", tiny.HERE / "ecr-tiny-ppo"
ONE, TWO, THREE = (Version(name, name * 20, f"/store/{name}") for name in ("aaaa", "bbbb", "cccc"))


def on_trial(share=0.5):
    return adapters.try_next(adapters.add(adapters.start(BASE, ONE), TWO), share)


def counted(state, version, ratings, failures=0):
    for rating in ratings:
        state = adapters.report(state, version.id, False, rating)
    for _ in range(failures):
        state = adapters.report(state, version.id, True, None)
    return state


def test_the_first_is_live_and_the_base_can_be_asked_for():
    state = adapters.start(BASE, ONE)
    assert state.pick(0.0).id == ONE.id == "aaaa@aaaaaaaaaaaa" and state.find(BASE).path == ""
    assert adapters.start(BASE, None).pick(0.5).id == BASE


def test_a_new_one_answers_its_share():
    state = on_trial(share=0.25)
    assert [state.pick(draw).name for draw in (0.0, 0.24, 0.25, 0.99)] == ["bbbb", "bbbb", "aaaa", "aaaa"]
    assert state.find("bbbb").status == "canary" and state.find(TWO.id) == state.find("bbbb")


def test_one_trial_at_a_time():
    state = adapters.try_next(adapters.add(on_trial(), THREE), 0.5)
    assert state.canary == TWO.id and state.versions[THREE.id].status == "ready"
    state = adapters.try_next(adapters.roll_back(state, "no"), 0.5)
    assert state.canary == THREE.id


def test_better_or_alike_is_promoted():
    state = counted(on_trial(), ONE, [0.4, 0.5] * 10)
    assert adapters.decide(counted(state, TWO, [0.5] * 9), 10).live == ONE.id
    state = adapters.decide(counted(state, TWO, [0.5, 0.4] * 5), 10)
    assert state.live == TWO.id and state.canary is None and state.versions[ONE.id].status == "retired"
    assert "0.000 (95 % -0.040 to +0.040)" in state.versions[TWO.id].reason and state.before == (ONE.id,)
    back = adapters.roll_back(state, "somebody did not like it")
    assert back.live == ONE.id and back.versions[TWO.id].reason == "rolled back: somebody did not like it"


def test_clearly_worse_is_rolled_back():
    state = counted(counted(on_trial(), ONE, [0.5, 0.6] * 10), TWO, [0.2, 0.3] * 5)
    state = adapters.decide(state, 10)
    assert state.live == ONE.id and state.canary is None and state.versions[TWO.id].status == "retired"
    assert state.versions[TWO.id].reason.startswith("rolled back: -0.300")


def test_failures_end_a_trial_at_once():
    state = adapters.decide(counted(on_trial(), TWO, [0.9], failures=2), 100)
    assert state.canary is None and state.versions[TWO.id].reason == "rolled back: 2 of 3 answers failed"


def test_without_a_critic_answers_that_do_not_fail_are_enough():
    state = counted(on_trial(), TWO, [None] * 10)
    assert adapters.decide(state, 10).live == TWO.id


def test_what_was_rejected_answers_nobody_and_is_not_promoted():
    state = adapters.reject(adapters.start(BASE, ONE), TWO, "it stutters")
    assert state.find("bbbb") is None and adapters.try_next(state, 1.0).canary is None
    with pytest.raises(AdapterError, match="no version"):
        adapters.promote(state, TWO.id, "")
    assert adapters.add(state, TWO).find("bbbb").status == "ready"


def test_there_may_be_nothing_to_go_back_to():
    with pytest.raises(AdapterError, match="none was live before"):
        adapters.roll_back(adapters.start(BASE, ONE), "x")


def test_promoting_another_one_ends_the_trial():
    state = adapters.promote(adapters.add(on_trial(), THREE), THREE.id, "asked for")
    assert state.live == THREE.id and state.canary is None and state.versions[TWO.id].status == "retired"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_a_tally_is_mean_and_variance_of_the_mean(ratings):
    tally = Tally()
    for rating in ratings:
        tally = tally.add(False, rating)
    assert tally.mean == pytest.approx(statistics.mean(ratings))
    assert tally.error == pytest.approx(statistics.variance(ratings) / len(ratings), abs=1e-9)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = counted(on_trial(), TWO, [0.5, 0.25])
    adapters.write(state, tmp_path / "adapters.json")
    assert adapters.read(tmp_path / "adapters.json") == state
    assert adapters.read(tmp_path / "none.json") is None
    (tmp_path / "adapters.json").write_text('{"versions": 3}')
    with pytest.raises(AdapterError, match="is damaged"):
        adapters.read(tmp_path / "adapters.json")


# --- directories --------------------------------------------------------------------------------------------


def copied(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in (adapters.CONFIG, adapters.WEIGHTS):
        shutil.copy(PPO / name, folder / name)
    return folder


def test_what_is_kept_does_not_change_with_where_it_came_from(tmp_path):
    place = copied(tmp_path / "run-7")
    version = adapters.keep("run-7", adapters.check(place, BASE, 16), tmp_path / "store")
    assert adapters.keep("run-7", place, tmp_path / "store") == version
    (place / adapters.WEIGHTS).write_bytes(b"other")
    assert adapters.digest_of(Path(version.path)) == version.digest
    assert adapters.keep("run-7", place, tmp_path / "store").digest != version.digest


def test_a_checkpoint_of_ppo_is_its_policy_with_the_digests_that_were_written(tmp_path):
    directory = tmp_path / "checkpoint-4"
    place = copied(directory / "policy")
    digests = {f"policy/{n}": storage.digest(place / n)["sha256"] for n in (adapters.CONFIG, adapters.WEIGHTS)}
    (directory / "complete.json").write_text(json.dumps({"step": 4, "digests": digests}))
    assert adapters.check(directory, BASE, 16) == place
    with (place / adapters.CONFIG).open("a") as file:
        file.write("\n")
    with pytest.raises(AdapterError, match="is not what was written"):
        adapters.check(directory, BASE, 16)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda place: (place / adapters.WEIGHTS).unlink(), "has no adapter_model.safetensors"),
        (lambda place: (place / adapters.CONFIG).unlink(), "has no adapter_config.json"),
        (lambda place: (place / adapters.CONFIG).write_text("{"), "is damaged"),
        (lambda place: (place / adapters.WEIGHTS).write_bytes(b"x" * 99), "is damaged"),
        (lambda place: set_config(place, base_model_name_or_path="another"), "an adapter of another, not of"),
        (lambda place: set_config(place, r=64), "has rank 64; the endpoint takes at most 16"),
        (
            lambda place: set_config(place, r=8),
            r"lora_A.weight has the shape \[16, 640\], for ecr-tiny-chat it must be",
        ),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path, change, sentence):
    place = copied(tmp_path / "run-7")
    change(place)
    with pytest.raises(AdapterError, match=sentence):
        adapters.check(place, BASE, 16)


def set_config(place, **values):
    path = place / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
