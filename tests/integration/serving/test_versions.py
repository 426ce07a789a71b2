"""New adapters while the endpoint answers: checked, tried, promoted, rolled back; and those that must not get in."""

import json
import shutil
import threading

import pytest
from safetensors.torch import load_file, save_file

from ecr_ray.models import tiny
from ecr_ray.serving import adapters
from tests.integration.serving.conftest import wait_for

pytestmark = pytest.mark.slow
SAID = "Something funny, please?"


def scaled(factor):
    """The bundled adapter, so many times as strong: another policy that can be served."""

    def change(folder):
        weights = load_file(folder / adapters.WEIGHTS)
        save_file({n: w * factor if "lora_B" in n else w for n, w in weights.items()}, folder / adapters.WEIGHTS)

    return change


def of_name(endpoint, name, status):
    versions, _ = endpoint.adapters()
    return next((v for v in versions.values() if v["name"] == name and v["status"] == status), None)


def settle(endpoint):
    """Nothing is on trial, and the bundled adapter is live."""
    with endpoint.client(endpoint.admin) as client:
        if client.get("/v1/adapters").json()["canary"]:
            client.post("/v1/adapters/rollback", json={"reason": "end of a test"})
        client.post("/v1/adapters/promote", json={"version": "ecr-tiny-ppo"})


def test_what_is_dropped_into_the_directory_is_tried_and_decided_by_its_answers(endpoint):
    endpoint.drop("dropped", scaled(0.9))
    found = wait_for("the new adapter to be on trial", lambda: of_name(endpoint, "dropped", "canary"), 30)
    seen = set()

    def ended():
        seen.add(endpoint.ask(SAID, max_tokens=8)["model"]["version"])
        return endpoint.adapters()[1]["canary"] is None

    wait_for("the trial to end", ended, 60)
    assert found["id"] in seen and len(seen) == 2
    after = endpoint.adapters()[0][found["id"]]
    assert after["status"] in ("live", "retired") and "by the critic" in after["reason"]
    settle(endpoint)


def test_an_admin_promotes_and_rolls_back_and_nobody_else_does(endpoint):
    endpoint.drop("asked", scaled(1.1))
    with endpoint.client() as client, endpoint.client(endpoint.admin) as admin:
        assert client.post("/v1/adapters", json={"name": "asked"}).status_code == 403
        added = admin.post("/v1/adapters", json={"name": "asked"})
        assert added.status_code == 201 and added.json()["status"] == "canary"
        version = added.json()["id"]
        wrong = admin.post("/v1/adapters", json={"name": "asked", "digest": "0" * 64})
        assert wrong.status_code == 409 and "the digest of asked is" in wrong.json()["error"]["message"]
        assert client.post("/v1/adapters/promote", json={}).status_code == 403
        assert admin.post("/v1/adapters/promote", json={}).json()["live"] == version
        assert endpoint.ask(SAID)["model"]["version"] == version
        assert endpoint.ask(SAID, adapter="ecr-tiny-chat")["model"]["adapter"] is None
        back = admin.post("/v1/adapters/rollback", json={"reason": "a test"}).json()
        assert back["live"].startswith("ecr-tiny-ppo@")
        assert {v["id"]: v["reason"] for v in back["versions"]}[version] == "rolled back: a test"
    kept = adapters.read(endpoint.output / "adapters.json")
    assert kept.live == back["live"]


def test_versions_answer_by_their_own_weights(endpoint):
    endpoint.drop("strong", scaled(3.0))
    with endpoint.client(endpoint.admin) as admin:
        version = admin.post("/v1/adapters", json={"name": "strong"}).json()["id"]
    asked = {"temperature": 0, "max_tokens": 24}
    replies = {
        name: endpoint.ask(SAID, adapter=name, **asked)["reply"] for name in ("ecr-tiny-chat", "ecr-tiny-ppo", version)
    }
    assert len(set(replies.values())) >= 2
    for name, reply in replies.items():
        assert endpoint.ask(SAID, adapter=name, **asked)["reply"] == reply
    settle(endpoint)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("no-weights", lambda folder: (folder / adapters.WEIGHTS).unlink(), "has no adapter_model.safetensors"),
        ("of-another", lambda folder: set_config(folder, base_model_name_or_path="llama"), "is an adapter of llama"),
        ("too-large", lambda folder: set_config(folder, r=32), "has rank 32"),
        ("torn", lambda folder: (folder / adapters.WEIGHTS).write_bytes(b"\x07" * 64), "is damaged"),
        ("misfit", lambda folder: cut(folder), "it must be"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason_and_changes_nothing(endpoint, name, change, sentence):
    before = endpoint.adapters()[1]["live"]
    endpoint.drop(name, change)
    with endpoint.client(endpoint.admin) as admin:
        found = admin.post("/v1/adapters", json={"name": name})
    assert found.status_code == 409 and sentence in found.json()["error"]["message"], found.text
    assert of_name(endpoint, name, "rejected")["reason"]
    assert endpoint.adapters()[1]["live"] == before and endpoint.ask(SAID)["reply"]


def set_config(folder, **values):
    path = folder / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(folder):
    weights = load_file(folder / adapters.WEIGHTS)
    save_file({name: tensor[..., :-1].contiguous() for name, tensor in weights.items()}, folder / adapters.WEIGHTS)


def test_swapped_under_load_no_request_fails_and_no_reply_is_of_two_versions(endpoint):
    """Sixteen clients ask while versions are promoted to and fro; every stream is of one version to its end."""
    for name, factor in (("swap-a", 0.95), ("swap-b", 1.05)):
        endpoint.drop(name, scaled(factor))
        with endpoint.client(endpoint.admin) as admin:
            assert admin.post("/v1/adapters", json={"name": name}).status_code == 201
    stop, failed, seen = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            body = {"messages": [{"role": "user", "content": SAID}], "max_tokens": 12}
            with endpoint.client() as client:
                found = client.post("/v1/recommend", json=body)
                chat = {"model": "swap-a", "stream": True, **body}
                models = {
                    json.loads(line[6:])["model"]
                    for line in client.post("/v1/chat/completions", json=chat).text.splitlines()
                    if line.startswith("data: {")
                }
            if found.status_code != 200 or len(models) != 1:
                failed.append((found.text, models))
            else:
                seen.append(found.json()["model"]["version"])

    askers = [threading.Thread(target=ask) for _ in range(16)]
    for asker in askers:
        asker.start()
    with endpoint.client(endpoint.admin) as admin:
        for name in ("swap-a", "swap-b", "swap-a", "ecr-tiny-ppo", "swap-b"):
            assert admin.post("/v1/adapters/promote", json={"version": name}).status_code == 200
            wait_for("somebody to be answered by it", lambda name=name: seen and seen[-1].startswith(name), 30)
    stop.set()
    for asker in askers:
        asker.join()
    assert not failed and len({version.split("@")[0] for version in seen}) >= 3
    settle(endpoint)


def test_a_version_stays_what_it_was_when_its_directory_changes(endpoint):
    folder = endpoint.drop("mutable", scaled(0.8))
    with endpoint.client(endpoint.admin) as admin:
        version = admin.post("/v1/adapters", json={"name": "mutable"}).json()["id"]
    asked = {"adapter": version, "temperature": 0, "max_tokens": 16}
    before = endpoint.ask(SAID, **asked)["reply"]
    shutil.rmtree(folder)
    assert endpoint.ask(SAID, **asked)["reply"] == before
    settle(endpoint)


def test_the_bundled_policy_is_what_tiny_serves(endpoint):
    settle(endpoint)
    assert (
        endpoint.ask(SAID)["model"]["version"] == f"ecr-tiny-ppo@{adapters.digest_of(tiny.HERE / 'ecr-tiny-ppo')[:12]}"
    )
