"""Keeps API keys, tokens and passwords out of every file and message of a run.

Two nets. By name: a value whose key ends in `key`, `token`, `password`, ... is replaced. By value: so is whatever a
like-named environment variable holds, wherever it turns up. The environment itself is never written anywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"

_SECRET_NAME = re.compile(
    r"(?:^|[._-]|(?-i:(?<=[a-z])(?=[A-Z])))(?:api)?(?:keys?|token|passwords?|passwd|secrets?|credentials?)$",
    re.IGNORECASE,
)
# Tokens of a tokenizer are settings, not secrets; a config.yaml without them could not be run again.
_TOKENIZER_NAMES = re.compile(r"(?:pad|unk|cls|sep|mask|bos|eos|start|end|image|first|last)_token$", re.IGNORECASE)
_SHORTEST_SECRET = 8
# `key: value` inside an override such as logger={wandb:{api_key:...}}.
_PAIR = re.compile(r"(?P<key>[\w.\-]+)(?P<equals>\s*:\s*)(?P<value>\"[^\"]*\"|'[^']*'|[^\s,{}\[\]]+)")


def is_secret_name(name: str) -> bool:
    """Whether a key, option or variable of this name (its last dotted part) holds a secret by the look of it."""
    last = name.rsplit(".", 1)[-1].lstrip("+~-")
    return _SECRET_NAME.search(last) is not None and _TOKENIZER_NAMES.search(last) is None


def mask_text(text: str) -> str:
    """Replace whatever an environment variable with a secret's name holds."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and is_secret_name(name):
            text = text.replace(value, MASK)
    return text


def mask_config(config: Any) -> Any:
    """Return a copy of a nested configuration with secrets replaced. Empty values, numbers and null stay."""
    if isinstance(config, Mapping):
        return {
            key: MASK if isinstance(value, str) and value and is_secret_name(str(key)) else mask_config(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [mask_config(value) for value in config]
    return mask_text(config) if isinstance(config, str) else config


def mask_argument(argument: str) -> str:
    """Return one word of a command line (`logger.wandb.api_key=...`, `--token=...`, `+x={password:...}`) masked."""
    key, equals, _ = argument.partition("=")
    if equals and is_secret_name(key):
        return f"{key}={MASK}"

    def mask_pair(pair: re.Match[str]) -> str:
        secret = is_secret_name(pair["key"])
        return pair["key"] + pair["equals"] + (MASK if secret else pair["value"])

    return mask_text(_PAIR.sub(mask_pair, argument))


def mask_command(arguments: Sequence[str]) -> list[str]:
    """Return a command line masked, `--token VALUE` in two words included."""
    masked: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        follows_option = previous.startswith("-") and "=" not in previous and is_secret_name(previous)
        masked.append(MASK if follows_option else mask_argument(argument))
    return masked
