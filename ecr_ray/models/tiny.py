"""A Llama of about five million parameters, with its own tokenizer: untrained from a seed, or trained and bundled.

It has everything the big models have (chat template, padding apart from end-of-sequence, digits as
single tokens), so that every stage runs end to end on two cores without a download. `tiny:SEED` is *untrained*:
what it says is noise, and `is_untrained` lets every report say so. recipe.py trains the bundled ones.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

VOCAB_SIZE = 4096
TINY_SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Part of the cache key: raise it when the recipe below changes.
RECIPE_VERSION = 2
# Trained models, in directories of these names beside this file.
BUNDLED = ("ecr-tiny-chat", "ecr-tiny-judge", "ecr-tiny-judge-a", "ecr-tiny-judge-b")
# Adapters of the first one.
ADAPTERS = ("ecr-tiny-ppo",)
HERE = Path(__file__).parent
TOKENIZER = HERE / "tokenizer"
MARKER = "ecr_ray.json"

# Llama-2's own conversation format. `{% generation %}` marks what a policy is trained on: the answer and
# the end-of-turn token that teaches it to stop.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('roles are system (first), user and assistant') }}{% endif %}"
    "{% endfor %}"
)


def cache_dir() -> Path:
    """Where built models are kept: `ECR_CACHE_DIR`, or `~/.cache/ecr_ray`."""
    return Path(os.environ.get("ECR_CACHE_DIR") or Path.home() / ".cache" / "ecr_ray")


def resolve_model(name: str) -> str:
    """A model's name as a profile gives it → what `from_pretrained` and vLLM take.

    `tiny:SEED` is built on first use and cached, a bundled model is found in the package, a directory is named in
    full, for processes that work elsewhere; anything else (a hub id) is passed on.
    """
    if name in BUNDLED + ADAPTERS:
        return str(HERE / name)
    if not name.startswith("tiny:"):
        return str(Path(name).resolve()) if Path(name).is_dir() else name
    seed = name.removeprefix("tiny:")
    if not seed.isdigit():
        raise ValueError(f"model {name!r}: the tiny model is named 'tiny:SEED' with a whole number, e.g. tiny:0")
    return str(build(int(seed)))


def is_untrained(model_dir: str) -> bool:
    """Whether the model at `model_dir` says of itself that it was never trained."""
    marker = Path(model_dir) / MARKER
    return marker.is_file() and bool(json.loads(marker.read_text())["untrained"])


def judge_labels(model_dir: str, rubric: str) -> dict[str, str] | None:
    """Aspect → what a judge of ours learnt it from, `proxy: ` before it where people rated something else.

    None for a model that says nothing of the kind: somebody else's, or an untrained one. A rubric that it did not
    learn gives `not learnt` for every aspect.
    """
    marker = Path(model_dir) / MARKER
    learnt = json.loads(marker.read_text()).get("judge") if marker.is_file() else None
    if learnt is None:
        return None
    from ecr_ray.prompts import RUBRICS

    found = learnt.get(rubric, {})
    return {
        aspect: ("proxy: " if found[aspect]["proxy"] else "") + found[aspect]["learnt_from"]
        if aspect in found
        else "not learnt"
        for aspect in RUBRICS[rubric].aspects
    }


def build(seed: int) -> Path:
    """Build the tiny model (or find it in the cache) and return its directory.

    The directory appears whole or not at all, so that several processes may ask for it at once.
    """
    target = cache_dir() / "models" / f"tiny-v{RECIPE_VERSION}-{seed}"
    if (target / MARKER).is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        tokenizer = load_tokenizer()
        tokenizer.save_pretrained(staging)
        build_model(seed, tokenizer).save_pretrained(staging)
        marker = {"untrained": True, "seed": seed, "recipe": RECIPE_VERSION}
        (staging / MARKER).write_text(json.dumps(marker))
        try:
            staging.rename(target)
        except OSError:
            # Another process was first; its model is the same, bit for bit.
            if not (target / MARKER).is_file():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def load_tokenizer() -> "PreTrainedTokenizerFast":  # noqa: F821
    """The tokenizer of all tiny models; recipe.py made it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(TOKENIZER)


def build_tokenizer(corpus: Iterator[str]) -> "PreTrainedTokenizerFast":  # noqa: F821
    """A byte-level BPE in which every digit is a token of its own, learnt from `corpus`.

    A tokenizer that merges digits would answer the four digits of a judgment in fewer than four tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(seed: int, tokenizer: "PreTrainedTokenizerFast", **shape: int) -> "LlamaForCausalLM":  # noqa: F821
    """A randomly initialised Llama for `tokenizer`, the same for the same seed.

    Args:
        seed: of the weights.
        tokenizer: decides the special tokens' ids.
        shape: fields of `LlamaConfig` in place of the tiny ones, for a model of another size.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=2048,
        # Untied, so that safetensors never meets two names for one tensor.
        tie_word_embeddings=False,
        # Wide enough that different texts get visibly different digits before any training.
        initializer_range=0.06,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **(TINY_SHAPE | shape),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
