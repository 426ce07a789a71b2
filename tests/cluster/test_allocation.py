"""SLURM's variables, as `sbatch` sets them, against what they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.cluster.allocation import AllocationError, Host, expand_counts, expand_hosts, from_env

ENV = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_CPUS_PER_NODE": "4(x2),8"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[01-02,07],gpu-a", ["n01", "n02", "n07", "gpu-a"]),
        ("r[1-2]n[8-10].lab", [f"r{r}n{n}.lab" for r in (1, 2) for n in (8, 9, 10)]),
    ],
)
def test_node_lists(text, names):
    assert expand_hosts(text) == names


@pytest.mark.parametrize("text", ["", "n[1-2", "n[1..2]", "n1]"])
def test_node_lists_that_are_none(text):
    with pytest.raises(AllocationError):
        expand_hosts(text)


@given(st.lists(st.integers(1, 999), min_size=1, max_size=20))
def test_counts_in_run_lengths(counts):
    groups = [[counts[0], 1]]
    for count in counts[1:]:
        if count == groups[-1][0]:
            groups[-1][1] += 1
        else:
            groups.append([count, 1])
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in groups)
    assert expand_counts(text) == counts


def test_an_ordinary_job():
    found = from_env({**ENV, "SLURM_MEM_PER_CPU": "500", "SLURM_GPUS_PER_NODE": "a100:2"}, ["train", "rollout:2"])
    assert found.run_id == "41.0"
    assert found.hosts == (
        Host("n1", 4, 2000, 2, None, "train"),
        Host("n2", 4, 2000, 2, None, "rollout"),
        Host("n3", 8, 4000, 2, None, "rollout"),
    )
    assert [[host.name for host in step] for step in found.steps()] == [["n1"], ["n2"], ["n3"]]


def test_equal_workers_share_one_step_and_a_restart_has_its_own_name():
    env = {**ENV, "SLURM_JOB_CPUS_PER_NODE": "4(x3)", "SLURM_RESTART_COUNT": "2", "SLURM_MEM_PER_NODE": "0"}
    found = from_env(env)
    assert found.run_id == "41.2"
    assert found.hosts[0].memory_mib is None
    assert [[host.name for host in step] for step in found.steps()] == [["n1"], ["n2", "n3"]]


def test_a_heterogeneous_job_has_a_step_a_component():
    env = {"SLURM_JOB_ID": "7", "SLURM_HET_SIZE": "2"}
    for group, (nodes, cpus) in enumerate([("a1", "2"), ("b[1-2]", "8(x2)")]):
        env[f"SLURM_JOB_NODELIST_HET_GROUP_{group}"] = nodes
        env[f"SLURM_JOB_CPUS_PER_NODE_HET_GROUP_{group}"] = cpus
        env[f"SLURM_MEM_PER_NODE_HET_GROUP_{group}"] = "1000"
    found = from_env(env, ["train", "rollout:2"])
    assert [(h.name, h.cpus, h.het_group, h.role) for h in found.hosts] == [
        ("a1", 2, 0, "train"),
        ("b1", 8, 1, "rollout"),
        ("b2", 8, 1, "rollout"),
    ]
    assert len(found.steps()) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SLURM_JOB_ID": None}, "not inside a SLURM job"),
        ({"SLURM_JOB_ID": "x"}, "not a number"),
        ({"SLURM_JOB_NODELIST": None}, "SLURM_JOB_NODELIST"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4"}, "3 nodes"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4x3"}, "cannot read the counts"),
    ],
)
def test_environments_that_make_no_sense(change, said):
    env = {name: value for name, value in {**ENV, **change}.items() if value is not None}
    with pytest.raises(AllocationError, match=said):
        from_env(env)


@pytest.mark.parametrize("roles", [["train:two"], ["tr ain"], ["train:4"]])
def test_roles_that_fit_no_node(roles):
    with pytest.raises(AllocationError, match="--roles"):
        from_env(ENV, roles)
