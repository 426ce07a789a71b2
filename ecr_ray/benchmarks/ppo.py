"""How fast PPO is, against TRL 1.12's `PPOTrainer` (the last one there is) on the same model, prompts and settings.

Both train all weights of the tiny chat model, with the same untrained model of its size as reward. TRL comes into a
directory of its own beside this environment's packages. Every arm is a process of its own with all cores;
episodes/s are counted from the end of the first step on.
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
from pathlib import Path
from typing import Any

from ecr_ray import benchmarks, prompts, training
from ecr_ray.config import PpoConfig
from ecr_ray.models import tiny
from ecr_ray.policy import engines, weights
from ecr_ray.policy.engines import EngineSettings
from ecr_ray.policy.ppo import networks, report, run, worker
from ecr_ray.policy.ppo.delivery import Delivery
from ecr_ray.policy.ppo.networks import LoraShape

MODULE = "ecr_ray.benchmarks.ppo"
TRL = "trl==1.12.0"
STEPS, BATCH, MICRO = 5, 32, 8
REWARD_SEED = 7
PARTS = ("rollout", "reward", "learn", "sync")


def settings(folder: Path, **changes: Any) -> PpoConfig:
    """The settings of all arms of ours."""
    real = bool(os.environ.get("ECR_DATA_DIR"))
    return dataclasses.replace(
        PpoConfig(
            input="redial:train" if real else "sample",
            limit=2000 if real else None,
            output=str(folder / "run"),
            method="full",
            reward=f"{MODULE}:reward",
            no_end_cost=1.0,
            repetition_cost=0.0,
            steps=STEPS,
            batch=BATCH,
            minibatch=BATCH,
            micro_batch=MICRO,
            epochs=4,
            learning_rate=3e-6,
            value_warmup=0,
            # TRL's default, where the hardware has it.
            bf16=_bf16(),
            max_prompt=192,
            max_new_tokens=53,
            scale_samples=8,
            # A look at held-out prompts is not part of a step, nor are checkpoints.
            eval_prompts=1,
            eval_every=10_000,
            save_every=10_000,
        ),
        **changes,
    )


def _bf16() -> bool:
    import torch

    return training.computes_bf16("gpu" if torch.cuda.is_available() else "cpu")


def measure(rounds: int) -> list[dict[str, Any]]:
    """All rows of the record. With ReDial's train split where it is, else with the embedded sample."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = settings(folder)
        tokenizer = run.check(chosen)
        work = folder / "work"
        work.mkdir()
        run.prepare(chosen, tokenizer, work)
        overlay = folder / "trl"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(overlay), TRL], check=True
        )
        theirs = {"PYTHONPATH": os.pathsep.join([str(overlay), *filter(None, [os.environ.get("PYTHONPATH")])])}
        arms = {
            arm: lambda arm=arm: benchmarks.run_arm(MODULE, arm, name, env=theirs if arm == "trl" else None)
            for arm in ("ours", "one-process", "async", "trl")
        }
        found = benchmarks.in_turn(arms, rounds)
    return _rows(found, "ReDial train turns" if chosen.input != "sample" else "turns of the embedded sample")


def _rows(found: dict[str, list[dict[str, Any]]], data: str) -> list[dict[str, Any]]:
    def each(arm: str, key: str = "episodes_per_s") -> list[float]:
        return [result[key] for result in found[arm]]

    work = (
        f"{STEPS - 2} steps of {BATCH} answers of at most 53 tokens, 4 epochs, {data}, ecr-tiny-chat, all weights, "
        f"{'bfloat16' if _bf16() else 'float32'}"
    )
    peer = "TRL 1.12 `PPOTrainer`, run directly"
    seconds = {name: round(sum(each("ours", f"{name}_s")) / len(found["ours"]), 3) for name in (*PARTS, "other")}
    return [
        benchmarks.row(peer, "episodes/s, on Ray, ZeRO-2", each("ours"), each("trl"), work, seconds_a_step=seconds),
        benchmarks.row(peer, "episodes/s, in one process", each("one-process"), each("trl"), work),
        benchmarks.row("`sync` (ours)", "episodes/s, `one_step_async`", each("async"), each("ours"), work),
        benchmarks.row("the whole step (ours)", "seconds outside rollout, reward, learning",
                       each("ours", "outside_s"), each("ours", "step_s"), work),
    ]  # fmt: skip


def measure_sync(rounds: int) -> list[dict[str, Any]]:
    """What a new version's way to an engine costs: the adapter, against the policy with it merged in."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    found = {"adapter": _delivery(LoraShape(16, 32, PpoConfig.lora_targets)), "merged": _delivery(None)}
    times: dict[str, list[float]] = {name: [] for name in found}
    # The first of each warms up.
    for number in range(rounds + 1):
        for name, deliver in found.items():
            begin = time.perf_counter()
            sent = deliver(number)
            if number:
                times[name].append(1000 * (time.perf_counter() - begin))
            times.setdefault(f"{name} bytes", []).append(len(sent.payload))
    work = "ecr-tiny-chat, float32; packed, digested, loaded by an engine of transformers in the same process"
    return [
        benchmarks.row("shipping merged weights", "bytes a version", *_pair(times, " bytes", rounds), work),
        benchmarks.row("shipping merged weights", "ms a version", *_pair(times, "", rounds), work),
    ]


def _pair(times: dict[str, list[float]], what: str, rounds: int) -> tuple[list[float], list[float]]:
    return times[f"adapter{what}"][-rounds:], times[f"merged{what}"][-rounds:]


def _delivery(lora: LoraShape | None) -> Callable[[int], Delivery]:
    """What delivers a version of the policy to an engine."""
    tokenizer, base = weights.load_tokenizer("ecr-tiny-chat", None), tiny.resolve_model("ecr-tiny-chat")
    engine = engines.make(
        EngineSettings(
            "transformers", base, tokenizer.eos_token_id, tokenizer.pad_token_id, lora=lora, threads=os.cpu_count() or 1
        )
    )
    built = networks.build(base, lora)
    learnt = {name: p.detach() for name, p in built.named_parameters() if p.requires_grad}

    def deliver(version: int) -> Delivery:
        sent = Delivery.of(networks.policy_weights(learnt), version)
        engine.load(sent)
        return sent

    return deliver


# --- arms -------------------------------------------------------------------------------------------------


def main(arm: str, name: str) -> dict[str, Any]:
    """Run one arm in this process."""
    folder = Path(name)
    if arm == "trl":
        return _trl(folder)
    mode = "one_step_async" if arm == "async" else "sync"
    chosen = settings(folder, mode=mode, zero_stage=0 if arm == "one-process" else 2)
    work = folder / f"run-{arm}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for file in ("learn.parquet", "held_out.parquet", "data.json"):
        shutil.copy(folder / "work" / file, work)
    tokenizer = run.check(chosen)
    if arm == "one-process":
        import torch

        worker.plain(run.make_job(chosen, tokenizer, work, "gpu" if torch.cuda.is_available() else "cpu"))
    else:
        from ecr_ray.cluster import connect

        connect.connect()
        run.train(chosen, tokenizer, work)
    # Without the first step, which starts things, and the last, after which `one_step_async` samples nothing.
    lines = report.read_curve(work / worker.CURVE).to_pylist()[1:-1]
    spent = {f"{part}_s": sum(line[f"seconds_{part}"] for line in lines) / len(lines) for part in PARTS}
    whole = sum(line["seconds"] for line in lines) / len(lines)
    outside = whole - spent["rollout_s"] - spent["reward_s"] - spent["learn_s"]
    return {
        "episodes_per_s": BATCH / whole,
        "tokens": sum(line["tokens"] for line in lines) / len(lines),
        "step_s": whole,
        "outside_s": outside,
        "other_s": outside - spent["sync_s"],
        **spent,
    }


_reward_model: dict[str, Any] = {}


def reward(dialogues: Sequence[Sequence[dict[str, str]]], responses: Sequence[str]) -> list[float]:
    """An untrained model's opinion, the same in both arms; what it says does not matter, what it costs does."""
    import torch

    if not _reward_model:
        _reward_model["tokenizer"] = weights.load_tokenizer("ecr-tiny-chat", None)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        _reward_model["model"] = _scorer(_reward_model["tokenizer"].pad_token_id).eval().to(device)
    tokenizer, model = _reward_model["tokenizer"], _reward_model["model"]
    chats = [
        [*prompts.policy_messages(dialogue), {"role": "assistant", "content": response}]
        for dialogue, response in zip(dialogues, responses, strict=True)
    ]
    ids = [tokenizer.apply_chat_template(chat)["input_ids"][-245:] for chat in chats]
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    found = [0.0] * len(ids)
    with torch.inference_mode():
        for begin in range(0, len(order), 16):
            picked = order[begin : begin + 16]
            padded = tokenizer.pad({"input_ids": [ids[n] for n in picked]}, return_tensors="pt")
            scores = model(**padded.to(model.device)).logits[:, 0].tolist()
            for n, score in zip(picked, scores, strict=True):
                found[n] = score
    return found


def _scorer(pad: int) -> Any:
    """A sequence classifier of the tiny model's shape."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(tiny.resolve_model("ecr-tiny-chat"), num_labels=1)
    config.pad_token_id = pad
    torch.manual_seed(REWARD_SEED)
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def _trl(folder: Path) -> dict[str, Any]:
    """TRL's trainer as its documentation runs it."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = weights.load_tokenizer("ecr-tiny-chat", None)
    tokenizer.padding_side = "left"
    base = tiny.resolve_model("ecr-tiny-chat")
    asked = worker.read_questions(folder / "work" / "learn.parquet")
    policy, reference = (AutoModelForCausalLM.from_pretrained(base, dtype="float32") for _ in range(2))
    value = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype="float32")
    gpu = torch.cuda.is_available()
    curve = folder / "trl.jsonl"
    curve.unlink(missing_ok=True)
    arguments = PPOConfig(
        output_dir=str(folder / "trl-run"),
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=BATCH // MICRO,
        num_mini_batches=1,
        num_ppo_epochs=4,
        total_episodes=STEPS * BATCH,
        response_length=53,
        temperature=1.0,
        stop_token="eos",
        missing_eos_penalty=1.0,
        kl_coef=0.05,
        learning_rate=3e-6,
        num_sample_generations=0,
        local_rollout_forward_batch_size=BATCH,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=_bf16(),
        gradient_checkpointing=False,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        seed=0,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=_scorer(tokenizer.pad_token_id),
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": question.ids} for question in asked]),
        callbacks=[benchmarks.step_times(curve)],
    )
    trainer.train()
    times = [json.loads(line)["at"] for line in curve.read_text().splitlines()]
    return {"episodes_per_s": BATCH * (len(times) - 1) / (times[-1] - times[0]), "steps": len(times)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
