"""The search for a critic's settings: Ray Tune over Ray Train runs that share one set of prepared rows.

Below the output directory `.work/` holds the rows (`data/`), every trial's own run (`trials/ID/`) and what Tune needs
to go on (`tune/`).
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ecr_ray import runs, storage, training
from ecr_ray.config import ConfigError, CriticConfig, TuneConfig, load, load_table, nearest
from ecr_ray.critic import train, tune_report
from ecr_ray.encoders import learning, text, worker
from ecr_ray.records import RunRecord

METRIC = "best_error"
CHOSEN = "chosen.json"
SPACE: dict[str, Any] = {
    "learning_rate": {"low": 3e-5, "high": 6e-4, "log": True},
    "train_layers": [1, 2, 4, "all"],
    "pooling": ["mean", "cls"],
    "head_hidden": [0, 128],
    "dropout": {"low": 0.0, "high": 0.3},
    "loss": ["beta-nll", "mse"],
    "pairwise_weight": [0.0, 0.1, 0.3],
    "overall_weight": [1.0, 2.0, 4.0],
    "warmup_share": {"low": 0.0, "high": 0.2},
    "batch": [16, 32, 64],
}
# What a search cannot change: the rows are prepared once for all trials, and a run's place is its own.
FIXED = {
    "profile", "config", "learn", "targets", "reader", "hindsight_share", "people", "output", "encoder", "max_length",
    "judge_noise", "valid_share", "limit", "overwrite", "bootstrap", "predictors",
}  # fmt: skip
_SPEED = {"profile", "config", "output", "concurrent", "time_budget_s", "overwrite", "track"}
SMOKE = {"epochs": 1.0, "max_steps": 6, "eval_every": 2, "save_every": 100}


@dataclass(frozen=True)
class Result:
    """A finished search."""

    output: str
    run: dict[str, Any]


@dataclass(frozen=True)
class Search:
    """A search that has been checked."""

    settings: TuneConfig
    base: CriticConfig
    space: dict[str, Any]
    reader: text.Reader


def check(settings: TuneConfig) -> Search:
    """Everything that can be known to be wrong before any trial starts.

    Raises:
        UserError: naming what is wrong and what to write instead.
    """
    arguments = ["--profile", settings.profile, *(["--config", settings.config] if settings.config else [])]
    base = load(CriticConfig, "critic", arguments)
    if settings.targets:
        base = replace(base, targets=settings.targets)
    if settings.smoke:
        base = replace(base, **SMOKE)
        settings = replace(settings, trials=min(settings.trials, 2))
    space = load_table("space", settings.profile, settings.config) or SPACE
    check_space(space, base)
    _check_tracker(settings.track)
    return Search(settings, base, space, train.check(base))


def check_space(space: Mapping[str, Any], base: CriticConfig) -> None:
    """Make sure that every setting to search is one, and that its range or list can be drawn from.

    Raises:
        ConfigError: naming the key.
    """
    known = [name for name in asdict(base) if name not in FIXED]
    for name, wanted in space.items():
        if name not in known:
            raise ConfigError(f"[space]: {name!r} is no setting of a critic to search{nearest(name, known)}")
        if isinstance(wanted, list) and wanted:
            continue
        if not isinstance(wanted, Mapping) or not {"low", "high"} <= set(wanted) <= {"low", "high", "log"}:
            raise ConfigError(f"[space]: {name} is neither a list of values nor {{low = ..., high = ..., log = true}}")
        if not wanted["low"] < wanted["high"] or (wanted.get("log") and wanted["low"] <= 0):
            raise ConfigError(f"[space]: {name}: low is not below high, or a logarithm is asked for of 0 and less")


def _check_tracker(track: str) -> None:
    from importlib.util import find_spec

    if track != "none" and find_spec(track) is None:
        raise ConfigError(f"--track {track} needs its package: pip install {track}")


def finished(search: Search) -> Result | None:
    """The result that is already there, if it was made with the same settings.

    Raises:
        InputError: something else is there, and --overwrite is not set.
    """
    settings = search.settings
    run = runs.finished(settings.output, "tune", lambda: fingerprint(search), overwrite=settings.overwrite)
    return Result(settings.output, run) if run is not None else None


def fingerprint(search: Search) -> dict[str, Any]:
    """Everything that decides what is tried, and what of it is best."""
    chosen = {k: v for k, v in asdict(search.settings).items() if k not in _SPEED}
    return runs.as_json({"tune": chosen, "critic": train.fingerprint(search.base), "space": search.space})


def tune(search: Search) -> Result:
    """Run the search, or go on with it, on the connected Ray cluster.

    Raises:
        TrainingError: not one trial came to a result.
    """
    began = time.perf_counter()
    settings = search.settings
    work = runs.claim(settings.output, fingerprint(search), overwrite=settings.overwrite)
    data = work / "data"
    if not (data / "data.json").is_file():
        data.mkdir(exist_ok=True)
        train.prepare(search.base, search.reader, data)
    if not (data / "valid.parquet").exists():
        raise ConfigError("not one turn is held out, so no trial could be told from another: raise valid_share")
    prepared = time.perf_counter()
    grid = _tuner(search, work).fit()
    return _finish(search, work, grid, {"prepare": prepared - began, "search": time.perf_counter() - prepared})


# --- trials -----------------------------------------------------------------------------------------------


def chosen_settings(base: CriticConfig, chosen: Mapping[str, Any]) -> CriticConfig:
    """A trial's settings: what was drawn over what all share. `all` layers is what the setting calls None."""
    drawn = {name: None if value == "all" else value for name, value in chosen.items()}
    batch = drawn.get("batch", base.batch)
    # A batch that is smaller than what the workers compute at once is cut finer.
    micro = min(drawn.get("micro_batch", base.micro_batch), max(1, batch // base.workers))
    return replace(base, **{**drawn, "micro_batch": micro})


def run_trial(chosen: dict[str, Any], base: dict[str, Any], work: str, filler: int, address: str) -> None:
    """One trial: a Ray Train run in a directory of its own, which reports to Tune as it goes."""
    # Ray Train asks the cluster's State API; with another Ray on the same machine it would ask that one.
    os.environ["RAY_ADDRESS"] = address
    from ray import tune as ray_tune
    from ray.tune.integration.ray_train import TuneReportCallback

    settings = chosen_settings(CriticConfig(**base), chosen)
    shared, mine = Path(work) / "data", Path(work) / "trials" / ray_tune.get_context().get_trial_id()
    mine.mkdir(parents=True, exist_ok=True)
    # Of a trial that fails before its first report Tune's results know no settings.
    storage.write_json(mine / CHOSEN, chosen)
    for name in ("train.parquet", "valid.parquet"):
        if not (mine / name).exists():
            (mine / name).symlink_to(shared / name)
    data = json.loads((shared / "data.json").read_text())
    trainer, steps = train.make_trainer(settings, filler, mine, data, callbacks=[TuneReportCallback()])
    if (mine / "done.json").exists() or steps in worker.checkpoints(mine):
        # The search was killed when this trial had just come to its end, before it could say so.
        ray_tune.report(last_report(mine, settings.batch))
        return
    trainer.fit()
    # A trial's weights are not the result; its settings are.
    shutil.rmtree(mine / "checkpoints", ignore_errors=True)
    shutil.rmtree(mine / worker.BEST, ignore_errors=True)


def last_report(directory: Path, batch: int) -> dict[str, Any]:
    """What a trial would have reported last, from its curve."""
    looks = [row for row in learning.read_curve(directory / worker.CURVE).to_pylist() if row["valid_error"] is not None]
    last = {name: looks[-1][name] for name in ("step", "valid_error", "valid_spearman")}
    return last | {"rows": looks[-1]["step"] * batch, METRIC: min(row["valid_error"] for row in looks)}


def _tuner(search: Search, work: Path) -> Any:
    """A new search, or the one that is in the work directory already."""
    import ray
    from ray import tune as ray_tune

    settings = search.settings
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            run_trial,
            base=asdict(search.base),
            work=str(work),
            filler=search.reader.tokenizer.pad_token_id,
            address=ray.get_runtime_context().gcs_address,
        ),
        # The trial's workers have resources of their own; Tune takes no trial that asks for nothing.
        {"CPU": 0.01},
    )
    place = work / "tune"
    if ray_tune.Tuner.can_restore(str(place)):
        print("going on with the unfinished search", flush=True)
        return ray_tune.Tuner.restore(str(place), trainable, resume_unfinished=True, resume_errored=False)
    return ray_tune.Tuner(
        trainable,
        param_space={name: _domain(wanted) for name, wanted in search.space.items()},
        tune_config=ray_tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=settings.trials,
            max_concurrent_trials=settings.concurrent or _room(search.base),
            time_budget_s=settings.time_budget_s,
            search_alg=_optuna(settings.seed),
            scheduler=_asha(search) if settings.stop_early else None,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(work),
            callbacks=[tune_report.Table(list(search.space)), *_trackers(settings)],
            verbose=0,
        ),
    )


def _domain(wanted: Any) -> Any:
    from ray import tune as ray_tune

    if isinstance(wanted, list):
        return ray_tune.choice(wanted)
    low, high = wanted["low"], wanted["high"]
    return ray_tune.loguniform(low, high) if wanted.get("log") else ray_tune.uniform(low, high)


def _optuna(seed: int) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Together with others still running, parameters that depend on each other, as rate and batch do.
    sampler = optuna.samplers.TPESampler(
        seed=seed, multivariate=True, constant_liar=True, warn_independent_sampling=False
    )
    return OptunaSearch(sampler=sampler, metric=METRIC, mode="min")


def _asha(search: Search) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler

    rows = most_rows(search)
    return AsyncHyperBandScheduler(
        time_attr="rows",
        max_t=rows,
        grace_period=max(1, int(rows * search.settings.grace_share)),
        reduction_factor=search.settings.reduction,
    )


def most_rows(search: Search) -> int:
    """The rows that the longest trial sees."""
    data = Path(storage.absolute(search.settings.output)) / runs.WORK / "data" / "data.json"
    rows = json.loads(data.read_text())["rows"]["train"] * search.base.epochs
    if search.base.max_steps is not None:
        batch = search.space.get("batch", [search.base.batch])
        largest = max(batch) if isinstance(batch, list) else batch["high"]
        rows = min(rows, search.base.max_steps * largest)
    return max(1, int(rows))


def _room(base: CriticConfig) -> int:
    """How many trials the cluster has room for at once."""
    import ray

    have = ray.cluster_resources()
    device = training.choose_device(base.device, have.get("GPU", 0))
    if device == "gpu":
        return max(1, int(have["GPU"] // base.workers))
    cores = os.cpu_count() or 1
    threads = base.threads_per_worker or cores // base.workers
    # On one machine Ray may have been told of more CPUs than there are.
    cpus = have["CPU"] if len(ray.nodes()) > 1 else min(have["CPU"], cores)
    return max(1, int(cpus // (base.workers * max(base.cpus_per_worker, threads))))


def _trackers(settings: TuneConfig) -> list[Any]:
    if settings.track == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        os.environ.setdefault("WANDB_MODE", "offline")
        return [WandbLoggerCallback(project="ecr_ray-critic", dir=settings.output)]
    if settings.track == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        where = os.environ.get("MLFLOW_TRACKING_URI", f"file://{storage.absolute(settings.output)}/mlruns")
        return [MLflowLoggerCallback(tracking_uri=where, experiment_name="ecr_ray-critic")]
    return []


# --- the artifact -----------------------------------------------------------------------------------------


def _finish(search: Search, work: Path, grid: Any, timings: dict[str, float]) -> Result:
    """best.toml, tables, TensorBoard's files, the page and the record; the run record comes last."""
    settings = search.settings
    output = Path(storage.absolute(settings.output))
    trials = [_trial(result, work) for result in grid]
    good = [trial for trial in trials if trial[METRIC] is not None]
    if not good:
        reasons = "; ".join(sorted({trial["reason"] for trial in trials if trial["reason"]}))
        raise training.TrainingError(f"not one of {len(trials)} trials came to a result: {reasons}")
    best = min(good, key=lambda trial: trial[METRIC])
    storage.write_bytes(output / "best.toml", tune_report.best_toml(search.base, best).encode())
    curves = tune_report.curves(work / "trials", [trial["trial"] for trial in trials])
    storage.write_parquet(output / "curves.parquet", curves)
    storage.write_parquet(output / "trials.parquet", tune_report.table(trials))
    _keep_tensorboard(work, output / "tensorboard", [trial["trial"] for trial in trials])
    data = json.loads((work / "data" / "data.json").read_text())
    failed = [trial for trial in trials if trial["status"] == "failed"]
    record = RunRecord(
        stage="tune",
        config=asdict(settings),
        seed=settings.seed,
        inputs=train.fingerprint(search.base)["files"],
        rows={f"{split}_turns": count for split, count in data["rows"].items()} | {"trials": len(trials)},
        failures={f"trial {trial['trial']}: {trial['reason']}": 1 for trial in failed},
        timings=timings,
        details={
            "fingerprint": fingerprint(search),
            "space": search.space,
            "best": best,
            "trials": trials,
            "importance": tune_report.importance(trials, search.space, settings.seed),
        },
    )
    storage.write_bytes(output / "summary.html", tune_report.page(record.as_dict(), curves).encode())
    run = record.write(output)
    shutil.rmtree(work)
    return Result(settings.output, run)


def _trial(result: Any, work: Path) -> dict[str, Any]:
    """A trial in one row: what was drawn, how far it came, and why it ended."""
    metrics = result.metrics or {}
    name = Path(result.path).name
    mine = work / "trials" / name
    ended = (mine / "done.json").is_file()
    reason = str(result.error).strip().splitlines()[-1] if result.error else ""
    return {
        "trial": name,
        "status": "failed" if result.error else "done" if ended else "stopped",
        "reason": reason,
        METRIC: metrics.get(METRIC),
        "valid_spearman": metrics.get("valid_spearman"),
        "step": metrics.get("step"),
        "rows": metrics.get("rows"),
        "seconds": metrics.get("time_total_s"),
        "chosen": json.loads((mine / CHOSEN).read_text()),
    }


def _keep_tensorboard(work: Path, target: Path, trials: list[str]) -> None:
    for trial in trials:
        for file in (work / "tune" / trial).glob("events.out.tfevents.*"):
            (target / trial).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / trial / file.name)
