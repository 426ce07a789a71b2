"""The endpoint with the policy in replicas of its own, as on several nodes: they may die, and the ingress stays."""

import asyncio

import pytest

from tests.integration.serving.conftest import running, wait_for
from tests.integration.serving.load import Load, replica, under_load, under_way

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endpoint(cluster, tmp_path_factory):
    with running(tmp_path_factory.mktemp("serve"), "--policy-in", "replicas") as found:
        yield found


def test_a_policy_and_a_recommender_die_and_no_answer_is_lost_or_anybody_elses(endpoint):
    load, names = Load(endpoint), ("policy", "recommender", "ingress")
    before = {name: replica(name) for name in names}
    asyncio.run(under_load(load, lambda: replica("policy"), lambda: replica("recommender")))
    load.check()
    after = {name: replica(name) for name in names}
    assert [name for name in names if after[name] != before[name]] == ["policy", "recommender"]


def test_when_the_client_leaves_the_replica_stops_writing(endpoint):
    body = {"model": "ecr-tiny-chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 900, "n": 16}
    body |= {"temperature": 2.0, "stream": True}
    with endpoint.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) and under_way("policy") == 1
    wait_for("the engine to stop", lambda: under_way("policy") == 0, 20)


def test_a_version_is_tried_by_a_replica(endpoint):
    endpoint.drop("dropped")
    with endpoint.client(endpoint.admin) as admin:
        added = admin.post("/v1/adapters", json={"name": "dropped"})
    assert added.status_code == 201 and added.json()["status"] == "canary", added.text
