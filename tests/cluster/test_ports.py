import socket

import pytest

from ecr_ray.cluster import ports


def test_a_port_is_free_until_somebody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_found_ports_are_different_free_and_never_given_to_outgoing_connections(monkeypatch, tmp_path):
    found = ports.find_free(50)
    low, high = map(int, ports._EPHEMERAL.read_text().split())
    assert len(set(found)) == 50 and all(map(ports.is_free, found))
    assert all(port < low or port > high for port in found)
    # Ray's workers listen below, Serve's replicas within.
    assert all(port >= 20_000 and not 30_000 <= port <= 31_000 for port in found)

    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "range")
    ports._EPHEMERAL.write_text("20000\t65530\n")
    with socket.create_server(("127.0.0.1", 65533)):
        assert sorted(ports.find_free(4)) == [65531, 65532, 65534, 65535]
        # Some systems give them all to outgoing connections.
        assert len(set(ports.find_free(6))) == 6
    with pytest.raises(OSError, match="there are no 50000 free ports"):
        ports.find_free(50_000)
