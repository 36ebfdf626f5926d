"""Texts as values in Hydra's grammar."""

import re
from collections.abc import Sequence


def quoted(text: str) -> str:
    """Return any text as a value that Hydra's grammar, and interpolation after it, give back unchanged."""
    text = re.sub(r"(\\*)\$\{", lambda match: f"{match[1] * 2}\\${{", text)
    text = re.sub(r"(\\*)'", lambda match: f"{match[1] * 2}\\'", text)
    text = re.sub(r"\\+$", lambda match: match[0] * 2, text)
    return f"'{text}'"


def quoted_list(texts: Sequence[str]) -> str:
    """Return texts as a list in Hydra's grammar."""
    return f"[{','.join(map(quoted, texts))}]"
