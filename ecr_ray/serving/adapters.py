"""Which version of the policy answers: adapters of a directory, checked, tried on a share of the requests, then live.

An adapter's files are copied once to a place of their own, named after their digest, and never change there: whatever
happens to the directory, a version stays what it was when it was checked. Functions over `State` are pure.
"""

import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ecr_ray import storage
from ecr_ray.errors import UserError
from ecr_ray.models import tiny
from ecr_ray.policy.ppo import checkpoints

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Status = Literal["ready", "canary", "live", "retired", "rejected"]
# So many answers that could not be given end a trial at once.
MOST_FAILURES = 2
# Of a normal distribution, 95 %.
_Z = 1.96


class AdapterError(UserError):
    """A directory that cannot be served, or a step that cannot be taken."""


@dataclass(frozen=True)
class Version:
    """One adapter, by what it contains."""

    name: str
    digest: str
    path: str
    """Where its files lie unchanged; empty for the base model."""
    status: Status = "ready"
    reason: str = ""
    """Why it is what it is."""
    since: str = ""

    @property
    def id(self) -> str:
        """The model id by which exactly this one is asked for."""
        return f"{self.name}@{self.digest[:12]}" if self.path else self.name


@dataclass(frozen=True)
class Tally:
    """Answers of one version since a trial began: how many, how many failed, and the critic's ratings of the rest."""

    answers: int = 0
    failures: int = 0
    rated: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, failed: bool, rating: float | None) -> "Tally":
        """With one more answer."""
        if rating is None:
            return replace(self, answers=self.answers + 1, failures=self.failures + failed)
        return Tally(
            self.answers + 1, self.failures + failed, self.rated + 1, self.total + rating, self.squares + rating**2
        )

    @property
    def mean(self) -> float:
        """Of the ratings."""
        return self.total / self.rated

    @property
    def error(self) -> float:
        """Variance of the mean of the ratings."""
        spread = max(0.0, self.squares / self.rated - self.mean**2) * self.rated / (self.rated - 1)
        return spread / self.rated


@dataclass(frozen=True)
class State:
    """What answers now, and what was decided."""

    versions: dict[str, Version]
    live: str
    canary: str | None = None
    share: float = 0.0
    tallies: dict[str, Tally] = field(default_factory=dict)
    """Of the live version and the canary, since the trial began."""
    before: tuple[str, ...] = ()
    """What was live before, the newest last."""

    def find(self, name: str) -> Version | None:
        """The version that a model id means: itself, or the newest usable one of that name."""
        usable = {key: v for key, v in self.versions.items() if v.status != "rejected"}
        if name in usable:
            return usable[name]
        same = [v for v in usable.values() if v.name == name]
        return same[-1] if same else None

    def pick(self, draw: float) -> Version:
        """Who answers a request that names no version; `draw` is uniform in 0–1."""
        chosen = self.canary if self.canary is not None and draw < self.share else self.live
        return self.versions[chosen]


def start(base: str, first: Version | None) -> State:
    """A state in which the base model or an adapter of it is live."""
    plain = Version(base, "", "", "ready", "the base model", _now())
    if first is None:
        return State({base: replace(plain, status="live")}, base)
    return State({base: plain, first.id: _turned(first, "live", "live at the first start")}, first.id)


def add(state: State, version: Version) -> State:
    """With a version that was checked. It waits until it is tried."""
    if version.id in state.versions and state.versions[version.id].status != "rejected":
        return state
    return replace(state, versions=state.versions | {version.id: replace(version, since=_now())})


def reject(state: State, version: Version, reason: str) -> State:
    """With a version that cannot be served."""
    return replace(state, versions=state.versions | {version.id: _turned(version, "rejected", reason)})


def try_next(state: State, share: float) -> State:
    """Begin the trial of the oldest version that waits for one, if none is under way."""
    if state.canary is not None:
        return state
    waiting = [v for v in state.versions.values() if v.status == "ready" and v.path]
    if not waiting:
        return state
    tried = _turned(waiting[0], "canary", f"answers {share:.0%} of the requests")
    versions = state.versions | {tried.id: tried}
    return replace(
        state, versions=versions, canary=tried.id, share=share, tallies={state.live: Tally(), tried.id: Tally()}
    )


def report(state: State, version: str, failed: bool, rating: float | None) -> State:
    """With one more answer counted, if it is of a trial."""
    if version not in state.tallies:
        return state
    return replace(state, tallies=state.tallies | {version: state.tallies[version].add(failed, rating)})


def decide(state: State, enough: int) -> State:
    """End the trial, if what was counted is enough to."""
    if state.canary is None:
        return state
    mine, theirs = state.tallies[state.canary], state.tallies[state.live]
    if mine.failures >= MOST_FAILURES:
        return roll_back(state, f"{mine.failures} of {mine.answers} answers failed")
    if mine.answers < enough:
        return state
    if mine.rated < 2 or theirs.rated < 2:
        return promote(state, state.canary, f"{mine.answers} answers, {mine.failures} failed; not compared by a critic")
    gain = mine.mean - theirs.mean
    width = _Z * math.sqrt(mine.error + theirs.error)
    found = (
        f"{gain:+.3f} (95 % {gain - width:+.3f} to {gain + width:+.3f}) by the critic, on {mine.rated} answers against "
        f"{theirs.rated}"
    )
    return roll_back(state, found) if gain + width < 0 else promote(state, state.canary, found)


def promote(state: State, version: str, reason: str) -> State:
    """Make a version the one that answers.

    Raises:
        AdapterError: there is no such version, or it was rejected.
    """
    found = state.versions.get(version)
    if found is None or found.status == "rejected":
        raise AdapterError(f"there is no version {version} to promote")
    if version == state.live:
        return state
    changed = {state.live: _turned(state.versions[state.live], "retired", f"{version} took its place")}
    if state.canary not in (None, version):
        changed[state.canary] = _turned(state.versions[state.canary], "retired", f"{version} was promoted instead")
    changed[version] = _turned(found, "live", reason)
    return replace(
        state,
        versions=state.versions | changed,
        live=version,
        canary=None,
        share=0.0,
        tallies={},
        before=(*state.before, state.live),
    )


def roll_back(state: State, reason: str) -> State:
    """End the trial that is under way; without one, make live what was live before.

    Raises:
        AdapterError: there is nothing to go back to.
    """
    if state.canary is not None:
        retired = _turned(state.versions[state.canary], "retired", f"rolled back: {reason}")
        return replace(state, versions=state.versions | {retired.id: retired}, canary=None, share=0.0, tallies={})
    if not state.before:
        raise AdapterError("no version is on trial, and none was live before")
    *rest, back = state.before
    changed = {
        state.live: _turned(state.versions[state.live], "retired", f"rolled back: {reason}"),
        back: _turned(state.versions[back], "live", f"live again: {reason}"),
    }
    return replace(state, versions=state.versions | changed, live=back, before=tuple(rest))


def _turned(version: Version, status: Status, reason: str) -> Version:
    return replace(version, status=status, reason=reason, since=_now())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(state: State, path: Path) -> None:
    """Keep a state, at once."""
    storage.write_json(path, asdict(state))


def read(path: Path) -> State | None:
    """The state that was kept.

    Raises:
        AdapterError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        content["versions"] = {key: Version(**version) for key, version in content["versions"].items()}
        content["tallies"] = {key: Tally(**tally) for key, tally in content["tallies"].items()}
        return State(**{**content, "before": tuple(content["before"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{path} is damaged ({error!r}): move it away to start with --adapter again") from error


# --- directories --------------------------------------------------------------------------------------------


def check(directory: Path, base: str, max_rank: int) -> Path:
    """The adapter in a directory: itself, or the policy of a checkpoint of jobs/ppo.py, whose digests must hold.

    Raises:
        AdapterError: it is none, is of another base model, is too large, or is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    place = directory / checkpoints.POLICY if (directory / checkpoints.COMPLETE).is_file() else directory
    if place != directory:
        _check_manifest(directory)
    for name in (CONFIG, WEIGHTS):
        if not (place / name).is_file():
            raise AdapterError(f"{place} has no {name}: it is no PEFT adapter")
    try:
        config = json.loads((place / CONFIG).read_text())
        with safe_open(place / WEIGHTS, "pt") as weights:
            empty = not list(weights.keys())
    except (ValueError, SafetensorError) as error:
        raise AdapterError(f"{place} is damaged: {error}") from error
    theirs, rank = config.get("base_model_name_or_path"), config.get("r", 0)
    if theirs not in (base, tiny.resolve_model(base)):
        raise AdapterError(f"{place} is an adapter of {theirs}, not of {base}")
    if empty or not 0 < rank <= max_rank:
        raise AdapterError(f"{place} has rank {rank}; the endpoint takes at most {max_rank} (--max-lora-rank)")
    _check_shapes(place, base, rank)
    return place


def _check_shapes(place: Path, base: str, rank: int) -> None:
    """vLLM takes a matrix of another shape as well, and leaves the rest of its own as it was."""
    from safetensors import safe_open

    modules = _shapes(base)
    with safe_open(place / WEIGHTS, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118
            module, _, half = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            if module not in modules:
                raise AdapterError(f"{place}: {base} has no {module or name}")
            out, into = modules[module]
            wanted = [rank, into] if half == "A" else [out, rank]
            shape = weights.get_slice(name).get_shape()
            if shape != wanted:
                raise AdapterError(f"{place}: {name} has the shape {shape}, for {base} it must be {wanted}")


@lru_cache(2)
def _shapes(base: str) -> dict[str, tuple[int, int]]:
    """The shape, (out, in), of every matrix of a model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny.resolve_model(base)))
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if getattr(m, "weight", None) is not None}


def _check_manifest(directory: Path) -> None:
    wanted = json.loads((directory / checkpoints.COMPLETE).read_text())["digests"]
    for name, digest in wanted.items():
        inside = name.startswith(f"{checkpoints.POLICY}/")
        if inside and (not (directory / name).is_file() or storage.digest(directory / name)["sha256"] != digest):
            raise AdapterError(f"{directory / name} is not what was written")


def digest_of(place: Path) -> str:
    """SHA-256 over an adapter's two files."""
    found = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        found.update(storage.digest(place / name)["sha256"].encode())
    return found.hexdigest()


def keep(name: str, place: Path, store: Path) -> Version:
    """Copy an adapter to where it cannot change."""
    digest = digest_of(place)
    target = store / digest
    if not target.is_dir():
        staging = store / f".{digest}.{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(place / file, staging / file)
        if digest_of(staging) != digest:
            shutil.rmtree(staging)
            raise AdapterError(f"{place} changed while it was copied")
        try:
            staging.rename(target)
        except OSError:
            # Somebody else was first, with the same files.
            shutil.rmtree(staging)
    return Version(name, digest, str(target))
