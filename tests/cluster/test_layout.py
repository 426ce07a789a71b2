"""Ports, directories and commands of a cluster inside a SLURM job."""

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_ray.cluster import layout
from ecr_ray.cluster.allocation import Host
from ecr_ray.cluster.layout import LayoutError

GIB = 2**30


@given(st.integers(1, 10**7), st.integers(1, 40))
def test_port_blocks_are_apart_and_within_the_range(job, blocks):
    found = list(layout.port_blocks(job, 20000, 20000 + blocks * layout.BLOCK + 3))
    ports = [port for block in found for port in astuple(block)]
    assert len(found) == blocks
    assert len(set(ports)) == len(ports)
    assert min(ports) >= 20000
    assert max(ports) < 20000 + blocks * layout.BLOCK


def test_neighbouring_jobs_first_choose_different_ports():
    first, second = (next(layout.port_blocks(job, 20000, 32000)) for job in (100, 101))
    assert not set(astuple(first)) & set(astuple(second))
    assert first == next(layout.port_blocks(100, 20000, 32000))


@pytest.mark.parametrize("text", ["20000", "20000-10000", "80-443", "20000-70000", "a-b"])
def test_port_ranges_that_are_none(text):
    with pytest.raises(LayoutError, match="--ports"):
        layout.parse_range(text)


def test_a_range_without_room():
    with pytest.raises(LayoutError, match="widen --ports"):
        next(layout.port_blocks(1, 20000, 20005))


def test_the_longest_temp_dir_leaves_room_for_the_longest_socket():
    base = "/" + "x" * (layout.LONGEST_TEMP_DIR - len("/ecr-ray-12.0") - 1)
    path = layout.temp_dir(base, "12.0")
    assert len(f"{path}/session_2026-11-24_17-06-45_500058_4194304/sockets/plasma_store") <= 107
    with pytest.raises(LayoutError, match=f"at most {len(base)} bytes"):
        layout.temp_dir(base + "x", "12.0")


def test_the_object_store():
    assert layout.object_store_bytes(10 * GIB, 100 * GIB, None) == 3 * GIB
    assert layout.object_store_bytes(1000 * GIB, 20 * GIB, None) == 19 * GIB
    assert layout.object_store_bytes(10 * GIB, 100 * GIB, 8) == 8 * GIB
    with pytest.raises(LayoutError, match=r"has only 1\.0 GiB"):
        layout.object_store_bytes(10 * GIB, GIB, 8)


def plan(**changes):
    ports = next(layout.port_blocks(1, 20000, 32000))
    host = Host("n1", 4, memory_mib=1024, role="train", het_group=1)
    values = {
        "host": host,
        "ip": "10.0.0.1",
        "ports": ports,
        "temp_dir": "/tmp/x",
        "gpus": 0,
        "object_store": 256 * 2**20,
        "labels": layout.labels(host, "1.0"),
    }
    return layout.NodePlan(**(values | changes)).ray_start()


def test_what_ray_is_told():
    head, worker = plan(), plan(head_address="10.0.0.9:20009", gpus=2)
    assert "--head" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-gpus=0" in head
    assert f"--memory={768 * 2**20}" in head
    assert "--labels=slurm-node=n1,slurm-run=1.0,role=train,het-group=1" in head
    assert "--address=10.0.0.9:20009" in worker
    assert "--num-gpus=2" in worker
    assert not any("dashboard-port" in word or "--head" in word for word in worker)
    for words in (head, worker):
        assert not any("token" in word for word in words)


def test_ray_still_has_every_option_we_use():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    used = {word.split("=")[0] for word in [*plan(), *plan(head_address="a:1")] if word.startswith("--")}
    assert used <= known


def test_one_srun_for_all_workers():
    hosts = [Host("n2", 8, het_group=1), Host("n3", 8, het_group=1)]
    words = layout.srun(hosts, ["agent"])
    assert words[0] == "srun"
    assert {"--nodes=2", "--ntasks=2", "--nodelist=n2,n3", "--cpus-per-task=8", "--het-group=1"} <= set(words)
    assert words[-1] == "agent"
