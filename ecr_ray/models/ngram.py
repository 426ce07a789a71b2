"""A Kneser-Ney 5-gram over the same tokens: what a language model of counts makes of the same answers.

Estimated by IRSTLM (Debian's package `irstlm`), which is needed only to measure the bundled models again.
"""

import gzip
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ecr_ray.errors import UserError

ORDER = 5
_HOME = Path("/usr/lib/irstlm")


class BackOff:
    """An n-gram model in the ARPA form: log-probabilities and back-off weights by n-gram, both to base 10."""

    def __init__(self, path: Path) -> None:
        self.grams: dict[tuple[str, ...], tuple[float, float]] = {}
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                # A line is the log-probability, the words, and (but for the longest) the back-off weight.
                fields = line.rstrip("\n").split("\t")
                if len(fields) < 2 or not fields[0].lstrip("-").replace(".", "", 1).replace("e-", "", 1).isdigit():
                    continue
                weight = float(fields[2]) if len(fields) > 2 else 0.0
                self.grams[tuple(fields[1].split())] = (float(fields[0]), weight)

    def log_prob(self, word: str, before: Sequence[str]) -> float:
        """Natural log-probability of a word after those before it (the last four count)."""
        context, total = tuple(before[-(ORDER - 1) :]), 0.0
        while True:
            found = self.grams.get((*context, word))
            if found is not None:
                return (total + found[0]) * math.log(10)
            if not context:
                return (total + self.grams[("<unk>",)][0]) * math.log(10)
            total += self.grams.get(context, (0.0, 0.0))[1]
            context = context[1:]


def estimate(rows: Iterable[Sequence[int]]) -> BackOff:
    """The model of so many token sequences.

    Raises:
        UserError: IRSTLM is not there.
    """
    if not (_HOME / "bin" / "build-lm.sh").is_file():
        raise UserError("the n-gram model needs IRSTLM: apt-get install irstlm")
    env = os.environ | {"IRSTLM": str(_HOME), "LC_ALL": "C"}
    work = Path(tempfile.mkdtemp(prefix="ecr-ngram-"))
    try:
        text = work / "train.txt"
        text.write_text("\n".join(f"<s> {' '.join(words(row))} </s>" for row in rows) + "\n")
        build = [_HOME / "bin" / "build-lm.sh", "-i", text, "-n", str(ORDER), "-o", work / "lm.gz", "-k", "2"]
        build += ["-s", "improved-kneser-ney", "-t", work / "tmp"]
        said = _run([*map(str, build)], env)
        if not (work / "lm.gz").exists():
            # It ends with 0 whatever happens.
            raise UserError(f"build-lm.sh made no model of so little text: {said[-500:]}")
        _run([str(_HOME / "bin" / "compile-lm"), "--text=yes", str(work / "lm.gz"), str(work / "lm.arpa")], env)
        return BackOff(work / "lm.arpa")
    finally:
        shutil.rmtree(work)


def words(row: Sequence[int]) -> list[str]:
    """Token ids as the words of the n-gram model."""
    return [f"t{token}" for token in row]


def _run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout + done.stderr
