"""Ports to listen at. Imports neither Ray nor anything else that is slow."""

import itertools
import random
import socket
from pathlib import Path

# Where the system takes the ports of outgoing connections from. Whoever names one of these to a server that takes half
# a minute to start finds it taken now and then.
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Below are Ray's workers; within, the HTTP ports that Serve gives its replicas behind HAProxy.
_LOWEST, _SERVE = 20_000, range(30_000, 31_001)


def is_free(port: int) -> bool:
    """Whether nobody on this machine listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def find_free(n: int) -> list[int]:
    """As many ports, all different, that are free and, where there are such, that no outgoing connection will be given.

    Raises:
        OSError: there are not so many.
    """
    low, high = map(int, _EPHEMERAL.read_text().split())
    usable = [port for port in range(_LOWEST, 65_536) if port not in _SERVE]
    # Two that look at the same time should not find the same.
    random.SystemRandom().shuffle(usable)
    usable.sort(key=lambda port: low <= port <= high)
    found = list(itertools.islice(filter(is_free, usable), n))
    if len(found) < n:
        raise OSError(f"there are no {n} free ports from {_LOWEST} on")
    return found
