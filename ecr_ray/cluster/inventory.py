"""What the nodes of the connected Ray cluster have."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Node:
    """One node of the cluster. `gpu_gib` is the memory of each of its GPUs."""

    cpus: float
    memory_gib: float
    gpus: int = 0
    gpu_gib: float = 0.0


def nodes() -> list[Node]:
    """The live nodes, GPU memory read from the driver library on each node that has GPUs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        have = node["Resources"]
        gpus = int(have.get("GPU", 0))
        gpu_gib = 0.0
        if gpus:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            gpu_gib = ray.get(ray.remote(_gpu_gib).options(num_cpus=0, scheduling_strategy=here).remote())
        found.append(Node(have.get("CPU", 0.0), have.get("memory", 0.0) / GIB, gpus, gpu_gib))
    return found


def _gpu_gib() -> float:
    """Memory of this node's smallest GPU. Without a CUDA context: the GPUs may be in somebody's use."""
    import pynvml

    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return min(pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles) / GIB
    finally:
        pynvml.nvmlShutdown()
