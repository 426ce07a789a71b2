"""How fast a critic is trained, predicts and is searched for.

Trained: against Hugging Face's `Trainer` on the same rows, model, loss and batch. Predicting: against a plain loop over
batches of 32. Searched for: against the same trials one after the other, none of them stopped early. Every arm is a
process of its own with all cores; rows/s are counted from the end of the first step on.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecr_ray import benchmarks, storage, training
from ecr_ray.config import CriticConfig, load
from ecr_ray.critic import train
from ecr_ray.encoders import losses, model, predict, worker
from ecr_ray.errors import UserError

MODULE = "ecr_ray.benchmarks.critic"
STEPS, TURNS, PREDICTED, PLAIN_BATCH = 12, 3000, 768, 32
# Trials, fewer than Optuna draws before it looks at results: both searches try the same.
TRIALS, SEARCH_STEPS, SEARCH_TURNS = 6, 60, 1500
_CHANGES = {"max_steps": STEPS, "log_every": 1, "save_every": 10_000, "people": "no", "reader": "none", "epochs": 9.0}
_SEARCH = """
[critic]
people = "no"
reader = "none"
max_length = 64
train_layers = 2
batch = 16
max_steps = 60
epochs = 9.0
eval_every = 10
[space]
learning_rate = {low = 3e-6, high = 6e-4, log = true}
pooling = ["mean", "cls"]
dropout = {low = 0.0, high = 0.3}
loss = ["beta-nll", "mse"]
"""
ROOT = Path(__file__).parents[2]


def run(rounds: int) -> list[dict[str, Any]]:
    """How fast it trains and predicts. With ReDial's train split where it is, else with the embedded sample."""
    with tempfile.TemporaryDirectory() as folder:
        data = _scores(Path(folder), TURNS)
        settings = _settings(Path(folder))
        _prepare(settings, Path(folder))
        names = (
            "ours", "ours-2-workers", "trainer", "trainer-grouped", "predict", "predict-plain", "predict-plain-alike",
        )  # fmt: skip
        return _rows(benchmarks.in_turn(_arms(names, folder), rounds), settings, data)


def run_search(rounds: int) -> list[dict[str, Any]]:
    """What stopping trials early is worth."""
    with tempfile.TemporaryDirectory() as folder:
        data = _scores(Path(folder), SEARCH_TURNS)
        Path(folder, "settings.json").write_text(json.dumps(asdict(_settings(Path(folder)))))
        Path(folder, "search.toml").write_text(_SEARCH)
        found = benchmarks.in_turn(_arms(("sweep", "in-turn"), folder), rounds)
    search = f"{TRIALS} trials of at most {SEARCH_STEPS} steps, {data}; best: share of variance not explained"
    peer = "the same trials in turn, none stopped early"
    return [
        benchmarks.row(peer, what, *([result[key] for result in found[arm]] for arm in ("sweep", "in-turn")), search)
        for what, key in (("search's time, s", "seconds"), ("best trial", "best"))
    ]


def _scores(folder: Path, turns: int) -> str:
    real = bool(os.environ.get("ECR_DATA_DIR"))
    what = ["--input", "redial:train", "--limit", str(turns)] if real else ["--input", "sample"]
    _job("score", *what, "--output", str(folder / "scores"))
    return "ReDial train" if real else "the embedded sample"


def _settings(folder: Path) -> CriticConfig:
    return dataclasses.replace(load(CriticConfig, "critic", []), targets=(str(folder / "scores"),), **_CHANGES)


def _arms(names: Sequence[str], folder: str) -> dict[str, Callable[[], dict[str, Any]]]:
    return {name: lambda name=name: benchmarks.run_arm(MODULE, name, folder) for name in names}


def _job(name: str, *words: str) -> None:
    done = subprocess.run([sys.executable, f"jobs/{name}.py", *words], cwd=ROOT, capture_output=True, text=True)
    # 3: done, but some input lines are in quarantine, or some trials failed.
    if done.returncode not in (0, 3):
        raise UserError(f"jobs/{name}.py ended with {done.returncode}: {done.stderr[-2000:]}")


def _prepare(settings: CriticConfig, folder: Path) -> None:
    work = folder / "work"
    work.mkdir()
    reader = train.check(settings)
    train.prepare(settings, reader, work)
    # Looking at held-out rows is the same work in both.
    (work / "valid.parquet").unlink(missing_ok=True)
    (folder / "settings.json").write_text(json.dumps(asdict(settings)))
    shape = train.shape_of(settings, json.loads((work / "data.json").read_text()))
    built = model.build(shape)
    head = {name: tensor for name, tensor in built.state_dict().items() if name.startswith("head.")}
    model.save(folder / "critic", shape, head, "float32")


def _rows(found: dict[str, list[dict[str, Any]]], settings: CriticConfig, data: str) -> list[dict[str, Any]]:
    def each(arm: str, key: str = "rows_per_s") -> list[float]:
        return [result[key] for result in found[arm]]

    what = (
        f"{STEPS} steps of {settings.batch} turns of {data}, at most {settings.max_length} tokens, {settings.encoder}"
    )
    predicted, bf16 = f"{PREDICTED} turns of {data}, tokenizing and all", training.computes_bf16("cpu")
    trainer = "Hugging Face `Trainer`, same model, loss and batch"
    return [
        benchmarks.row(trainer, "rows/s, one worker, ZeRO-1", each("ours"), each("trainer"), what),
        benchmarks.row(
            f"{trainer}, grouped by length", "rows/s, one worker, ZeRO-1", each("ours"), each("trainer-grouped"), what
        ),
        benchmarks.row("two workers (ours) against one", "rows/s", each("ours-2-workers"), each("ours"), what),
        benchmarks.row(
            f"plain transformers loop, batches of {PLAIN_BATCH}", "predicted rows/s", each("predict"),
            each("predict-plain"), f"{predicted}; theirs in float32",
        ),
        benchmarks.row(
            f"plain transformers loop, batches of {PLAIN_BATCH}", "predicted rows/s", each("predict"),
            each("predict-plain-alike"), f"{predicted}; both in {'bfloat16' if bf16 else 'float32'}",
        ),
    ]  # fmt: skip


# --- arms -------------------------------------------------------------------------------------------------


def main(arm: str, folder: str) -> dict[str, Any]:
    """Run one arm in this process."""
    settings = CriticConfig(**json.loads(Path(folder, "settings.json").read_text()))
    if arm.startswith("predict"):
        return _predict(arm, settings, Path(folder))
    if arm in ("sweep", "in-turn"):
        return _search(arm, settings, Path(folder))
    work = Path(folder, "work")
    for name in ("checkpoints", "ray"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in (worker.CURVE, "done.json"):
        (work / name).unlink(missing_ok=True)
    data = json.loads((work / "data.json").read_text())
    if arm.startswith("trainer"):
        _trainer(settings, work, data, grouped=arm.endswith("grouped"))
    else:
        from ecr_ray.cluster import connect

        connect.connect()
        workers = 2 if arm == "ours-2-workers" else 1
        train.train(dataclasses.replace(settings, workers=workers), train.check(settings), work, data)
    lines = [json.loads(line) for line in (work / worker.CURVE).read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    # The last step also saves.
    first, last = steps[0], steps[-2]
    return {"rows_per_s": (last["step"] - first["step"]) * settings.batch / (last["at"] - first["at"])}


def _trainer(settings: CriticConfig, work: Path, data: dict[str, Any], *, grouped: bool) -> None:
    """The trainer as its documentation runs it, with our loss."""
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    reader = train.check(settings)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = dict(reader.tokenizer.pad({"input_ids": [row["ids"] for row in rows]}, return_tensors="pt"))
        return batch | {name: torch.tensor([row[at] for row in rows]) for name, at in _COLUMNS.items()}

    rows = Dataset.from_parquet(str(work / "train.parquet"), cache_dir=str(work / "cache"))
    rows = rows.add_column("length", [len(ids) for ids in rows["ids"]])
    arguments = TrainingArguments(
        output_dir=str(work / "checkpoints"),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.batch // settings.micro_batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_clip,
        train_sampling_strategy="group_by_length" if grouped else "random",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    Trainer(
        _with_loss(settings, data),
        arguments,
        data_collator=collate,
        train_dataset=rows,
        callbacks=[benchmarks.step_times(work / worker.CURVE)],
    ).train()


def _with_loss(settings: CriticConfig, data: dict[str, Any]) -> Any:
    """Our critic as the trainer takes a model: it gives its own loss."""
    import torch

    shape = train.shape_of(settings, data)
    critic = model.build(shape)
    model.freeze(critic, settings.train_layers, embeddings=settings.train_embeddings)
    heads = torch.tensor(train.head_weights(settings, shape.heads))

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critic = critic

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any, weights: Any) -> dict[str, Any]:
            mean, spread = losses.squash(self.critic(input_ids, attention_mask))
            each = losses.regression(mean, spread, labels, settings.loss)
            return {"loss": losses.weighted(each, weights, weights.sum(0), heads), "logits": mean}

    return WithLoss()


_COLUMNS = {"labels": "targets", "weights": "weights"}


def _predict(arm: str, settings: CriticConfig, folder: Path) -> dict[str, Any]:
    contexts, responses = [], []
    for file in storage.list_files(storage.join(settings.targets[0], "turns"), (".parquet",)):
        for turn in storage.read_parquet(file, ["context", "response"]).to_pylist():
            contexts.append(turn["context"])
            responses.append(turn["response"])
    contexts, responses = contexts[:PREDICTED], responses[:PREDICTED]
    if arm == "predict":
        from ecr_ray.cluster import connect

        connect.connect()
        predictor = predict.Pool(str(folder / "critic"), gpus=0).predict
    else:
        predictor = _plain_loop(folder / "critic", bf16=arm.endswith("alike") and training.computes_bf16("cpu"))
    predictor(contexts[:64], responses[:64])
    began = time.perf_counter()
    predictor(contexts, responses)
    return {"rows_per_s": len(responses) / (time.perf_counter() - began)}


def _plain_loop(directory: Path, *, bf16: bool) -> Any:
    import torch

    from ecr_ray import prompts

    critic, reader, shape = model.load(directory)
    tokenizer = reader.tokenizer
    tokenizer.truncation_side = "left"

    def loop(contexts: list[Any], responses: list[str]) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for at in range(0, len(responses), PLAIN_BATCH):
                said = [prompts.dialogue_text(context) for context in contexts[at : at + PLAIN_BATCH]]
                batch = tokenizer(
                    said, responses[at : at + PLAIN_BATCH], truncation="only_first", max_length=shape.max_length,
                    padding=True, return_tensors="pt",
                )  # fmt: skip
                losses.squash(critic(batch["input_ids"], batch["attention_mask"]))

    return loop


def _search(arm: str, settings: CriticConfig, folder: Path) -> dict[str, Any]:
    output = folder / arm
    how = ["--no-stop-early", "--concurrent", "1"] if arm == "in-turn" else ["--concurrent", "1"]
    _job(
        "tune_critic", "--config", str(folder / "search.toml"), "--targets", settings.targets[0], "--trials",
        str(TRIALS), "--output", str(output), "--overwrite", *how,
    )  # fmt: skip
    record = json.loads((output / "run.json").read_text())
    return {"seconds": record["timings_s"]["search"], "best": record["best"]["best_error"]}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
