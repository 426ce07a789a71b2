"""The pipeline: plan, show, run what must run stage by stage on one Ray cluster, and leave one record of it all."""

import fcntl
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ecr_ray import runs, storage
from ecr_ray.cli import EXIT_PARTIAL, EXIT_STOPPED
from ecr_ray.cluster import connect
from ecr_ray.config import PipelineConfig
from ecr_ray.data import reading
from ecr_ray.errors import UserError
from ecr_ray.pipeline import notes, plan, running, stages
from ecr_ray.pipeline.plan import PlanError, Step
from ecr_ray.pipeline.stages import STAGES, Stage
from ecr_ray.records import RunRecord, read_run

# The first stage reads files and needs no Ray.
WITHOUT_RAY = ("prepare",)
FINISHED = (0, EXIT_PARTIAL)
# By SIGKILL, as a shell gives it.
KILLED = 137
_REPLACED = "replaced"


class StageFailed(UserError):
    """A stage has ended without its result."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(UserError):
    """Somebody, or SLURM, wanted this to end."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Result:
    """What the stages that were asked for have left."""

    output: str
    run: dict[str, Any]
    partial: bool
    """Some stage has lines in quarantine, or rows that failed."""


def make(settings: PipelineConfig) -> list[Step]:
    """What would run, and why.

    Raises:
        UserError: a setting, a stage's setting or the input cannot be used.
    """
    _own_directory(settings)
    chosen = plan.select(
        [stage.name for stage in STAGES], settings.from_, settings.until, settings.only, settings.force
    )
    for stage in STAGES:
        if stage.name in chosen:
            stages.load(settings, stage)
    if "prepare" in chosen:
        reading.find(settings.input)
    needs = [plan.Needs(stage.name, stage.reads, stage.resumes) for stage in STAGES]
    found = notes.look(settings, chosen)
    return plan.decide(needs, found, chosen, notes.forced(settings), overwrite=settings.overwrite)


def lines(settings: PipelineConfig, steps: Sequence[Step]) -> list[str]:
    """The plan as it is shown."""
    rows = [("stage", "reads", "writes", "plan")]
    for stage, step in zip(STAGES, steps, strict=True):
        reads = ", ".join(stage.reads) or settings.input
        what = plan.SHOWN[step.action] + (f": {step.why}" if step.why else "")
        rows.append((stage.name, reads, stages.place(settings, stage.name), what))
    ignored = stages.not_used(settings)
    note = f"note: the pipeline decides {', '.join(ignored)}; {settings.config} is not asked" if ignored else ""
    return [plan.table(rows), *([note] if note else [])]


def check(steps: Sequence[Step]) -> None:
    """Whether all that is asked for can be done.

    Raises:
        PlanError: naming the first stage that cannot run.
    """
    for step in steps:
        if step.action == "refuse":
            raise PlanError(f"{step.stage} cannot run: {step.why}")


def run(settings: PipelineConfig, steps: Sequence[Step], jobs: Path) -> Result:
    """Run what must run, one stage after the other.

    Args:
        settings: the pipeline's.
        steps: as `make` gave them and `check` passed them.
        jobs: the directory of the stages' job files.

    Raises:
        StageFailed: the results of the stages before it stay as they are.
        Stopped: before everything was done.
    """
    began = time.monotonic()
    todo = [(stage, step) for stage, step in zip(STAGES, steps, strict=True) if step.action in ("run", "go on")]
    if todo:
        # Until everything is done again, this is no whole artifact.
        Path(settings.output, notes.RECORD).unlink(missing_ok=True)
    env: dict[str, str] | None = None
    for number, (stage, step) in enumerate(todo, start=1):
        if env is None and stage.name not in WITHOUT_RAY:
            env = _join()
        heading = f"[{number}/{len(todo)}] {stage.name}"
        print(f"\n=== {heading}, {_clock(time.monotonic() - began)} since the start ===", flush=True)
        spent, stopped = _run_stage(settings, stage, step, jobs, env or {})
        print(f"=== {heading}: done after {_clock(spent)} ===", flush=True)
        if stopped is not None and number < len(todo):
            raise Stopped(f"stopped after {stage.name}; {_go_on()}", stopped)
    notes.forget_forced(settings)
    return _finish(settings, [step.stage for step in steps if step.action != "leave"])


def summary(result: Result) -> str:
    """What was done, as a table."""
    rows = [("stage", "seconds", "result")]
    for name, stage in result.run["stages"].items():
        rows.append((name, f"{stage['seconds']:.1f}", stage["directory"] + _remark(stage["exit_code"])))
    return plan.table(rows)


@contextmanager
def alone(settings: PipelineConfig) -> Iterator[None]:
    """Nobody else's pipeline writes there meanwhile.

    Raises:
        PlanError: somebody's does.
    """
    path = _own_directory(settings) / notes.DIRECTORY / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("w")
    except OSError as error:
        raise PlanError(f"--output {settings.output} cannot be written to: {error.strerror}") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PlanError(f"another pipeline is running in {settings.output}: wait for its end") from error
        yield


def _own_directory(settings: PipelineConfig) -> Path:
    """Where the pipeline writes.

    Raises:
        PlanError: stages cannot train there, or it holds something else.
    """
    if "://" in settings.output:
        raise PlanError(f"--output {settings.output}: stages train there, so it must be a directory, not a URI")
    directory = Path(settings.output)
    if directory.is_dir() and os.listdir(directory) and not (directory / notes.DIRECTORY).is_dir():
        raise PlanError(f"{directory} exists and is not a pipeline's: choose another --output")
    return directory


def _remark(code: int) -> str:
    return "  (something in quarantine, failed or withheld)" if code == EXIT_PARTIAL else ""


def _join() -> dict[str, str]:
    """Start or join the one cluster; what the stages' environment needs in order to find it."""
    print(f"on {connect.connect()}", flush=True)
    import ray

    return {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS") or ray.get_runtime_context().gcs_address}


# --- one stage ---------------------------------------------------------------------------------------------


def _run_stage(
    settings: PipelineConfig, stage: Stage, step: Step, jobs: Path, env: Mapping[str, str]
) -> tuple[float, int | None]:
    """Returns how many seconds it took, and the pipeline's exit code where it was told to stop meanwhile."""
    note = _prepare(settings, stage, step)
    log = Path(settings.output, "logs", f"{stage.name}.log")
    command = [sys.executable, _shown(jobs / stage.job), *stages.words(settings, stage)]
    print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
    began = time.monotonic()
    with running.Relay() as relay:
        code = running.run(command, log, env, relay)
    spent = time.monotonic() - began
    note = replace(note, seconds=note.seconds + spent)
    directory = Path(stages.place(settings, stage.name))
    if code in FINISHED and (directory / notes.RECORD).is_file():
        notes.write(settings, stage.name, replace(note, exit_code=code, files=notes.files_of(directory)))
    else:
        notes.write(settings, stage.name, note)
        _raise_failed(stage, code, relay.stopped(), log)
    return spent, relay.stopped()


def _prepare(settings: PipelineConfig, stage: Stage, step: Step) -> notes.Note:
    """Clear the place of a stage that begins, and write down what it is begun with."""
    before = notes.read(settings, stage.name)
    if step.action == "go on" and before is not None:
        return before
    aside = Path(settings.output, notes.DIRECTORY, _REPLACED)
    shutil.rmtree(aside, ignore_errors=True)
    directory = Path(stages.place(settings, stage.name))
    if directory.exists():
        # Away in one piece: what is left of a result that was removed by halves looks like an unfinished run.
        directory.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    reads = {name: notes.record_of(settings, name) for name in stage.reads}
    note = notes.Note(reads, stages.plain(stages.load(settings, stage)))
    notes.write(settings, stage.name, note)
    if stage.name in settings.force:
        begun = [name for name in settings.force if name not in notes.forced(settings)]
        notes.write_forced(settings, [*begun, stage.name])
    return note


def _raise_failed(stage: Stage, code: int, stopped: int | None, log: Path) -> None:
    """Say what became of a stage that has left no result.

    Args:
        stage: which.
        code: its exit code.
        stopped: the pipeline's, where it was told to stop.
        log: where the stage's output is.
    """
    if code == EXIT_STOPPED:
        raise Stopped(f"{stage.name} was stopped before the time limit; {_go_on()}", code)
    if stopped not in (None, EXIT_STOPPED):
        # Whatever it made of that, it was asked to end.
        raise Stopped(f"{stage.name} was stopped; {_go_on()}", stopped)
    how = f"exit code {code}" if code not in FINISHED else "no result"
    if code == KILLED:
        how += " (killed, perhaps for want of memory)"
    raise StageFailed(
        f"{stage.name} ended with {how}; its output is in {log}, the results of the other stages are whole; {_go_on()}",
        1 if code in FINISHED else code,
    )


def _go_on() -> str:
    command = shlex.join(["python", _shown(Path(sys.argv[0])), *sys.argv[1:]])
    return f"this goes on from here: {command}"


def _shown(path: Path) -> str:
    """As one types it, where it is below the working directory."""
    with suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


# --- the record --------------------------------------------------------------------------------------------


def _finish(settings: PipelineConfig, chosen: Sequence[str]) -> Result:
    """Write run.json, unless it says the same already."""
    described = {stage.name: _described(settings, stage) for stage in STAGES if stage.name in chosen}
    partial = EXIT_PARTIAL in [stage["exit_code"] for stage in described.values()]
    before = read_run(settings.output)
    if before is not None and before["stages"] == runs.as_json(described):
        return Result(settings.output, before, partial)
    prepared = read_run(stages.place(settings, "prepare")) if "prepare" in chosen else None
    record = RunRecord(
        stage="pipeline",
        config=asdict(settings),
        inputs=prepared["inputs"] if prepared else [],
        timings={name: stage["seconds"] for name, stage in described.items()},
        details={"stages": described},
    )
    return Result(settings.output, record.write(settings.output), partial)


def _described(settings: PipelineConfig, stage: Stage) -> dict[str, Any]:
    note = notes.read(settings, stage.name)
    assert note is not None
    return {
        "directory": stages.place(settings, stage.name),
        "seconds": round(note.seconds, 3),
        "exit_code": note.exit_code,
        "reads": dict(note.reads),
        "run": storage.digest(stages.place(settings, stage.name, notes.RECORD)),
    }
