"""Cells of a rating sheet: no text in one is ever a formula, and every text comes back as it was."""

import re

# Excel takes at most 32,767 characters in a cell.
LONGEST = 30_000
# What a spreadsheet may read as a formula, and (OWASP, "CSV Injection") what some strip before they look; quotes before
# it, so that a text that begins like an escaped one is told from one that is.
_FORMULA = re.compile(r"'*(\s*[=+\-@＝＋－＠]|[\t\r])")


def escaped(text: str) -> str:
    """The text, with a quote before it if it begins like a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescaped(text: str) -> str:
    """What `escaped` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
