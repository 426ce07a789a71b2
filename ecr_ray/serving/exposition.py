"""What Prometheus reads of an endpoint: the metrics that Ray's agents hold of all of its replicas, on every node."""

import asyncio

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Ours, Serve's own and vLLM's; what else Ray exports it exports itself.
_OURS = ("ray_ecr_serve_", "ray_serve_", "ray_vllm")
_WAIT_S = 3.0


async def collect() -> str:
    """The metrics in Prometheus' text format; a node that does not answer is left out, and says so in a comment."""
    import httpx
    import ray

    places = [f"http://{n['NodeManagerAddress']}:{n['MetricsExportPort']}/metrics" for n in ray.nodes() if n["Alive"]]
    async with httpx.AsyncClient(timeout=_WAIT_S, trust_env=False) as client:
        found = await asyncio.gather(*(client.get(place) for place in places), return_exceptions=True)
    texts = []
    for place, answer in zip(places, found, strict=True):
        if isinstance(answer, BaseException):
            texts.append(f"# {place} did not answer\n")
        else:
            texts.append(answer.text)
    return joined(texts)


def joined(texts: list[str]) -> str:
    """Several expositions as one: every family once, with the samples of all."""
    about: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    comments = []
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                if family.startswith(_OURS) and line not in about.setdefault(family, []):
                    about[family].append(line)
            elif line.startswith("#"):
                comments.append(line)
            elif line.startswith(_OURS):
                samples.setdefault(family, []).append(line)
    lines = [line for name, head in about.items() for line in (*head[:2], *samples.get(name, []))]
    return "\n".join([*comments, *lines]) + "\n"
