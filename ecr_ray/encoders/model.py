"""An encoder, its pooled output, and two numbers a head: what it expects, and how unsure it is.

It is a directory: `heads.json` (encoder, heads, shape), `model.safetensors` with the weights that differ from the
encoder's own, and nothing else is needed. So one on the packaged encoder carries only what was trained.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecr_ray import storage
from ecr_ray.encoders.text import EncoderError, Reader, load_tokenizer, resolve_encoder
from ecr_ray.errors import UserError
from ecr_ray.models import tiny

if TYPE_CHECKING:
    import torch

SHAPE, WEIGHTS = "heads.json", "model.safetensors"


class HeadsError(UserError):
    """A directory that holds no encoder with heads, or not the one that is asked for."""


@dataclass(frozen=True)
class Shape:
    """What it is, apart from its weights."""

    encoder: str
    heads: tuple[str, ...]
    rubric: str
    """What the heads are of: a rubric's name, `emotions`, or nothing for a reaction reader."""
    pooling: Literal["mean", "cls"] = "mean"
    head_hidden: int = 0
    """Units of the layer between pooling and outputs; 0: none."""
    dropout: float = 0.1
    max_length: int = 128
    lora_r: int = 0
    """Rank of the adapters on the encoder's linear layers; 0: none, its own weights are trained."""


def build(shape: Shape) -> "torch.nn.Module":
    """The encoder with its own weights, and heads that expect 0.5 of everything.

    Raises:
        EncoderError: the encoder cannot be loaded.
    """
    import torch
    from torch import nn
    from transformers import AutoModel

    class WithHeads(nn.Module):
        """ids, mask (B, T) → raw outputs (B, 2K); losses.squash makes them means and log-variances."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = load_encoder(AutoModel, shape.encoder)
            if shape.lora_r:
                _add_adapters(self.encoder, shape.lora_r)
            width = self.encoder.config.hidden_size
            outputs = nn.Linear(shape.head_hidden or width, 2 * len(shape.heads))
            nn.init.zeros_(outputs.bias)
            nn.init.normal_(outputs.weight, std=0.02)
            hidden = [nn.Linear(width, shape.head_hidden), nn.GELU()] if shape.head_hidden else []
            self.head = nn.Sequential(nn.Dropout(shape.dropout), *hidden, outputs)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            return self.head(pool(states, mask, shape.pooling))

    return WithHeads()


def example(device: "torch.device") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Something that it can be called with."""
    import torch

    ids = torch.ones(1, 4, dtype=torch.long, device=device)
    return ids, torch.ones_like(ids)


def load_encoder(auto: Any, name: str) -> Any:
    """The encoder without its pooler.

    Raises:
        EncoderError: it cannot be loaded.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    # It reports the weights of the pooler, a head of its own that nothing here uses.
    logging.set_verbosity_error()
    try:
        return auto.from_pretrained(resolve_encoder(name), add_pooling_layer=False)
    except TypeError:
        return auto.from_pretrained(resolve_encoder(name))
    except (OSError, ValueError) as error:
        raise EncoderError(f"cannot load --encoder {name}: {str(error).splitlines()[0]}") from error
    finally:
        logging.set_verbosity(level)


def _add_adapters(encoder: Any, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), encoder)


def pool(states_BTH: "torch.Tensor", mask_BT: "torch.Tensor", how: str) -> "torch.Tensor":
    """(B, T, H) → (B, H): the mean over real tokens, or the first token's state."""
    if how == "cls":
        return states_BTH[:, 0]
    weights = mask_BT[..., None].to(states_BTH.dtype)
    return (states_BTH * weights).sum(1) / weights.sum(1)


def freeze(model: Any, layers: int | None, *, embeddings: bool) -> None:
    """Leave only the last `layers` of the encoder (None: all of them), perhaps its embeddings, and the heads to learn.

    Where it has adapters, they learn in place of these layers' own weights.

    Raises:
        HeadsError: the encoder has fewer layers, or hides them.
    """
    stack = getattr(getattr(model.encoder, "encoder", model.encoder), "layer", None)
    if stack is None:
        raise HeadsError(f"{type(model.encoder).__name__} has no list of layers that could be frozen")
    count = len(stack) if layers is None else layers
    if count > len(stack):
        raise HeadsError(f"--train-layers {layers}, but the encoder has only {len(stack)} layers")
    adapted = any("lora_" in name for name, _ in model.encoder.named_parameters())
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(False)
    for layer in list(stack)[len(stack) - count :]:
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_("lora_" in name or not adapted)
    if embeddings:
        for parameter in model.encoder.embeddings.parameters():
            parameter.requires_grad_(True)


def save(directory: Path, shape: Shape, tensors: dict[str, "torch.Tensor"], dtype: str) -> None:
    """Write it: its shape and the weights that were trained.

    Args:
        directory: where; it appears whole file by whole file, the shape last.
        shape: what the weights are of.
        tensors: the trained weights by name.
        dtype: `float32`, `bfloat16` or `float16`: how they are stored.
    """
    import torch
    from safetensors.torch import save as as_bytes

    directory.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in tensors.items()}
    # safetensors' own file would be the user's alone, on a file system that several share.
    storage.write_bytes(directory / WEIGHTS, as_bytes(stored))
    (directory / SHAPE).write_text(json.dumps(asdict(shape), indent=2) + "\n")


def convert(source: Path, target: Path, dtype: str) -> None:
    """The same with its weights stored in another type."""
    from safetensors.torch import load_file

    save(target, read_shape(source), load_file(source / WEIGHTS), dtype)


def find(name: str, what: str = "critic") -> Path:
    """The directory of a critic, reader or classifier: a bundled one by its name, or any.

    Raises:
        HeadsError: there is none.
    """
    for directory in (tiny.HERE / name if "/" not in name else Path(name), Path(name), Path(name) / "model"):
        if (directory / SHAPE).is_file():
            return directory
    raise HeadsError(f"there is no {what} {name!r}: neither a bundled one nor a directory with {SHAPE}")


def read_shape(directory: Path) -> Shape:
    """What is in a directory."""
    found = json.loads((directory / SHAPE).read_text())
    return Shape(**{**found, "heads": tuple(found["heads"])})


def load(directory: Path) -> tuple["torch.nn.Module", Reader, Shape]:
    """What is in a directory, for prediction, and what encodes its input; adapters are merged into the encoder.

    Raises:
        HeadsError: its weights are not of its shape.
    """
    from safetensors.torch import load_file

    shape = read_shape(directory)
    model = build(shape)
    tensors = load_file(directory / WEIGHTS)
    names = set(dict(model.named_parameters()))
    unknown = set(tensors) - names
    missing = {name for name in names if name.startswith("head.") or "lora_" in name} - set(tensors)
    if unknown or missing:
        raise HeadsError(f"{directory}: {WEIGHTS} does not fit {SHAPE}: {sorted(unknown | missing)[0]}")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    if shape.lora_r:
        _merge_adapters(model)
    return model.eval(), Reader(load_tokenizer(shape.encoder), shape.max_length), shape


def _merge_adapters(model: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
