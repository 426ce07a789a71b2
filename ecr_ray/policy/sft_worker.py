"""What one Ray Train worker does in supervised fine-tuning: TRL's SFTTrainer on rows that the driver has packed."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecr_ray import training
from ecr_ray.config import SftConfig

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import SFTConfig

# Written last into a checkpoint: one without it was being written when its worker died.
COMPLETE = "complete.json"
CURVE = "curve.jsonl"
_NO_LIMIT = -1
# On a CPU a kernel is compiled for every length, and only so many are kept: with a few lengths a step takes two thirds
# of the time. Not measured on GPUs.
PAD_TO = 64


def train(job: Mapping[str, Any]) -> None:
    """The training function.

    Args:
        job: `settings`, `work` (a directory that all nodes share), `model` and `adapter` (directories), `tokenizer`,
            `device`, `threads`, `cache`.
    """
    settings = SftConfig(**job["settings"])
    training.prepare_worker(job["device"], job["threads"])
    import ray.train
    import torch
    from datasets import Dataset
    from trl import SFTTrainer

    work = Path(job["work"])
    context = ray.train.get_context()
    workers, rank = context.get_world_size(), context.get_world_rank()
    torch.manual_seed(settings.seed)
    valid = work / "valid.parquet"
    cache = str(Path(job["cache"]))
    trainer = SFTTrainer(
        model=load_model(job["model"], settings, job["adapter"]),
        args=arguments(settings, work, job["device"], workers, has_valid=valid.exists()),
        train_dataset=Dataset.from_parquet(str(work / "train.parquet"), cache_dir=cache),
        eval_dataset=Dataset.from_parquet(str(valid), cache_dir=cache) if valid.exists() else None,
        processing_class=job["tokenizer"],
        callbacks=[make_reporter(work, rank, workers)],
    )
    trainer.train(resume_from_checkpoint=latest_checkpoint(work))
    if rank == 0:
        best = trainer.state.best_model_checkpoint or str(latest_checkpoint(work))
        done = {"checkpoint": best, "steps": trainer.state.global_step, "valid_loss": trainer.state.best_metric}
        (work / "done.json").write_text(json.dumps(done))


def load_model(model: str, settings: SftConfig, adapter: str | None) -> Any:
    """The base model, with the adapter that is to be trained where the method is LoRA: a new one, or this one."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if settings.bf16 and settings.method == "lora" else torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    if settings.method == "full":
        return loaded
    import peft

    if adapter:
        return peft.PeftModel.from_pretrained(loaded, adapter, is_trainable=True)
    return peft.get_peft_model(
        loaded,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=list(settings.lora_targets),
        ),
    )


def arguments(
    settings: SftConfig, work: Path, device: training.Device, workers: int, *, has_valid: bool
) -> "SFTConfig":
    """The trainer's settings: the same global batch, and so the same curve, on any number of workers."""
    import torch.distributed
    from trl import SFTConfig as TrainerConfig

    # Ray makes the process group; a trainer that is run without it (the benchmark's peer) has none.
    grouped = torch.distributed.is_initialized()
    backend = "gloo" if device == "cpu" else "nccl"
    cut = training.batching(settings.batch, settings.micro_batch, workers)
    if settings.zero_stage:
        # The trainer starts DeepSpeed with these settings.
        training.compile_nothing()
    return TrainerConfig(
        output_dir=str(work / "checkpoints"),
        num_train_epochs=settings.epochs,
        max_steps=_NO_LIMIT if settings.max_steps is None else settings.max_steps,
        per_device_train_batch_size=cut.micro,
        per_device_eval_batch_size=cut.micro,
        gradient_accumulation_steps=cut.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_share,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_clip,
        adam_beta2=0.95 if settings.method == "full" else 0.999,
        max_length=settings.max_length,
        packing=settings.packing,
        eval_packing=settings.packing,
        # Never beyond the longest length, where a model's positions may end.
        pad_to_multiple_of=math.gcd(PAD_TO, settings.max_length),
        # The driver has tokenized and packed, once for all workers.
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=device == "cpu",
        ddp_backend=backend if grouped else None,
        bf16=settings.bf16,
        gradient_checkpointing=settings.gradient_checkpointing,
        deepspeed=training.deepspeed_config(settings.zero_stage, bf16=settings.bf16) if settings.zero_stage else None,
        eval_strategy="steps" if has_valid else "no",
        eval_steps=settings.eval_every,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        metric_for_best_model="eval_loss" if has_valid else None,
        greater_is_better=False if has_valid else None,
        logging_steps=settings.log_every,
        # A first batch that is not part of the curve would not be the same on another number of workers.
        logging_first_step=True,
        disable_tqdm=True,
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=device == "gpu",
        include_num_input_tokens_seen="all",
    )


def latest_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    found = [path.parent for path in (work / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")]
    return max(map(str, found), key=step_of, default=None)


def step_of(checkpoint: str) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.rpartition("-")[2])


def make_reporter(work: Path, rank: int, workers: int) -> "TrainerCallback":
    """A callback that writes the curve, marks whole checkpoints, and saves at once when the node is about to go."""
    import ray.train
    import torch.distributed
    from transformers import TrainerCallback

    from ecr_ray.cluster import metrics

    class Reporter(TrainerCallback):
        """Rank 0 writes; all ranks report to Ray Train, as often as each other."""

        def __init__(self) -> None:
            self.told = False
            self.began = time.time()
            self.meter = metrics.Training("sft")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if rank == 0:
                self.meter.stepped(args.per_device_train_batch_size * args.gradient_accumulation_steps * workers)
            if not self.told:
                # A barrier: every rank asks after every step, and all hear the same.
                self.told = ray.train.get_preemption_info() is not None
                control.should_save = control.should_save or self.told
            if state.global_step == state.max_steps:
                # The last step is a checkpoint whatever the interval.
                control.should_save = True
                control.should_evaluate = args.eval_strategy != "no"

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if rank == 0:
                now = time.time()
                entry = {"step": state.global_step, "at": now, "seconds": now - self.began, **logs}
                with (work / CURVE).open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                self.meter.looked(
                    train=logs.get("loss"), valid=logs.get("eval_loss"),
                    learning_rate=logs.get("learning_rate"), gradient_norm=logs.get("grad_norm"),
                )  # fmt: skip
            if "eval_loss" in logs or state.global_step == state.max_steps:
                # Waits until Ray's controller has fetched the one before, up to half a second: not after every step.
                ray.train.report({"step": state.global_step, **logs})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.distributed.is_initialized():
                # Each rank has written its own part.
                torch.distributed.barrier()
            if rank == 0:
                saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                (saved / COMPLETE).write_text(json.dumps({"step": state.global_step, "workers": workers}))
                self.meter.saved()

    return Reporter()
