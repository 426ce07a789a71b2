"""Rewards that anybody can check, to see that a policy learns: `--reward ecr_ray.policy.ppo.verifiable:asks`."""

from collections.abc import Mapping, Sequence


def asks(dialogues: Sequence[Sequence[Mapping[str, str]]], responses: Sequence[str]) -> list[float]:
    """1 for an answer that ends with a question mark, 0 for any other."""
    return [float(response.rstrip().endswith("?")) for response in responses]
