"""Base models and their adapters: loaded, checked before any worker starts, and saved once, as safetensors."""

import json
import shutil
from pathlib import Path
from typing import Any

from ecr_ray.errors import UserError
from ecr_ray.models import tiny

ADAPTER_CONFIG = "adapter_config.json"
# Of a trainer's checkpoint, what belongs to the model. The rest is the trainer's own state.
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class ModelError(UserError):
    """A model or adapter that cannot be used as asked."""


def load_tokenizer(base: str, pad_token: str | None) -> Any:
    """The tokenizer of a base model, with a padding token that is not its end of turn.

    Raises:
        ModelError: there is no such model, or nothing to pad with.
    """
    tokenizer = load_tokenizer_of(base)
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ModelError(f"--pad-token {pad_token!r} is not a token of {base}")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the tokenizer of {base} has no pad token: name one of its tokens that answers never hold with "
            "--pad-token (for Llama-2: <unk>)"
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ModelError(
            f"the tokenizer of {base} pads with its end-of-turn token {tokenizer.eos_token!r}, so that stopping could "
            "not be learnt: name another one with --pad-token"
        )
    return tokenizer


def load_tokenizer_of(base: str) -> Any:
    """The tokenizer of a base model as it is.

    Raises:
        ModelError: there is no such model.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(tiny.resolve_model(base))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokenizer of --base {base}: {_first_line(error)}") from error


def check_adapter(adapter: str, base: str) -> None:
    """Make sure that an adapter is one, and of this base.

    Raises:
        ModelError: it is not.
    """
    path = Path(adapter) / ADAPTER_CONFIG
    if not path.is_file():
        raise ModelError(f"--adapter {adapter} has no {ADAPTER_CONFIG}: it is not a PEFT adapter")
    theirs = json.loads(path.read_text()).get("base_model_name_or_path")
    if theirs not in (base, tiny.resolve_model(base)):
        raise ModelError(f"--adapter {adapter} was made for the base model {theirs}, not for {base}")


def base_of(name: str) -> str:
    """The base model of an adapter's directory; of any other model itself.

    Raises:
        ModelError: the adapter does not say what it is of.
    """
    path = Path(tiny.resolve_model(name)) / ADAPTER_CONFIG
    if not path.is_file():
        return name
    base = json.loads(path.read_text()).get("base_model_name_or_path")
    # A base that jobs/ppo.py made, from an adapter that it went on from, lies beside the new one.
    beside = path.parent.parent / "base"
    if not base and (beside / "config.json").is_file():
        return str(beside)
    if not base:
        raise ModelError(f"{path} does not name a base model")
    return base


def merged(name: str, target: Path) -> str:
    """A model as one: of an adapter's directory, its base with the adapter merged in, written to `target`.

    Returns:
        What from_pretrained and vLLM take: a directory or hub id.
    """
    adapter = tiny.resolve_model(name)
    if not (Path(adapter) / ADAPTER_CONFIG).is_file():
        return adapter
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tiny.resolve_model(base_of(name))
    model = AutoModelForCausalLM.from_pretrained(base)
    whole = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    staging = target.with_name(f".{target.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    whole.save_pretrained(staging)
    load_tokenizer_of(base).save_pretrained(staging)
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    return str(target)


def check_lora(base: str, targets: tuple[str, ...], rank: int) -> None:
    """Make sure that an adapter has a rank, and a model the modules that are to get it.

    Raises:
        ModelError: it has none, or naming the first module that is not there.
    """
    if rank < 1:
        raise ModelError(f"--lora-r {rank}: an adapter has a rank of at least 1")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny.resolve_model(base))
    with torch.device("meta"):
        names = {name.rpartition(".")[2] for name, _ in AutoModelForCausalLM.from_config(config).named_modules()}
    for target in targets:
        if target not in names:
            raise ModelError(f"--lora-targets {target}: {base} has no module of that name")


def save_model(checkpoint: Path, target: Path, dtype: str, base: str | None = None) -> None:
    """Copy the model or adapter out of a trainer's checkpoint, its weights stored as `dtype`.

    Args:
        checkpoint: has weights as safetensors.
        target: must not exist; appears whole or not at all.
        dtype: float32, bfloat16 or float16.
        base: an adapter's base model, by the name that others know it by.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    staging = target.with_name(f".{target.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name in _MODEL_FILES:
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, staging / name)
    for file in sorted(checkpoint.glob("*.safetensors*")):
        if file.suffix != ".safetensors":
            shutil.copy(file, staging / file.name)
            continue
        with safe_open(file, "pt") as weights:
            tensors = {name: weights.get_tensor(name).to(getattr(torch, dtype)) for name in weights.keys()}  # noqa: SIM118
            save_file(tensors, staging / file.name, metadata={"format": "pt"})
            # Others load it, too.
            (staging / file.name).chmod(0o644)
    _rewrite(staging / "config.json", {"dtype": dtype})
    _rewrite(staging / ADAPTER_CONFIG, {"base_model_name_or_path": base})
    staging.rename(target)


def _rewrite(path: Path, changes: dict[str, Any]) -> None:
    if path.is_file():
        path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
