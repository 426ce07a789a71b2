"""What strangers write, before a model reads it: nothing in it can pass for the prompt's own structure. Pure functions.

A chat template marks roles and turns with control tokens. Text that spells one out would be read as one. Here it is
pulled apart, so that it is read as the letters that it is made of; what a person sees hardly changes.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable

# Of the templates in use; what else the served model's own tokenizer has, `policy.py` adds.
CONTROL = ("<s>", "</s>", "<pad>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<bos>", "<eos>")
_CHATML = re.compile(r"<\|([^|<>\n]{0,64})\|>")
_ROLE = re.compile(
    r"^([^\S\n]*(?:\W{0,3}[^\S\n]*)?(?:system|user|assistant|human|seeker|recommender|tool|developer))([^\S\n]*):",
    re.I | re.M,
)
# Joiners that emoji and some scripts need; other invisible characters only hide things.
_KEPT_INVISIBLE = {"\u200c", "\u200d", "\n", "\t"}


def neutral(text: str) -> str:
    """The text without invisible characters, its control tokens pulled apart and its role markers defused."""
    seen = "".join(c for c in _lines(text) if c in _KEPT_INVISIBLE or unicodedata.category(c) not in _HIDDEN)
    broken = apart(_CHATML.sub(r"< |\1| >", seen), CONTROL)
    return _ROLE.sub(r"\1\2 -", broken).strip()


def apart(text: str, control: tuple[str, ...]) -> str:
    """The text with these tokens pulled apart, and nothing else changed."""
    pattern = _pattern(control)
    # Pulling one apart cannot make another, but for tokens that hold spaces.
    for _ in range(len(control)):
        if not pattern.search(text):
            break
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def more_control(tokens: Iterable[str]) -> tuple[str, ...]:
    """Those of a tokenizer's special tokens that `neutral` leaves whole."""
    return tuple(token for token in tokens if len(token.strip()) > 1 and token in neutral(token))


_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")


@functools.lru_cache
def _pattern(control: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted({token for token in control if len(token) > 1}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.I)
