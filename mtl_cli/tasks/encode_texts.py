"""Texts and pairs of texts as rows of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtl_cli.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_texts(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> dict[str, list[Any]]:
    """Tokenise texts, or pairs, by the tokenizer's own template: one row each, cut at `max_length`, without padding.

    The longer text of a pair is cut first. Where the template puts nothing between the texts of a pair (GPT-2), an
    end-of-text token separates them; where a text gives no token at all, it stands alone, since a row needs one.

    Args:
        texts: the texts, or the first ones of the pairs.
        pairs: the second texts.
        tokenizer: a tokenizer of transformers.
        max_length: tokens a row at most, special ones included. None: no limit.

    Returns:
        `input_ids` and, where the tokenizer has segments, `token_type_ids`.

    Raises:
        UserError: `max_length` leaves no room for a token of each text.
    """
    num_special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    separator = [filler_token(tokenizer)] if pairs is not None and num_special == 0 else []
    check_room(max_length, num_special + len(separator), 1 if pairs is None else 2)
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        truncation="longest_first" if max_length is not None else False,
        max_length=None if max_length is None else max_length - len(separator),
        return_attention_mask=False,
        # Whoever encodes decides the length: a longer text than the encoder takes is not worth a warning here.
        verbose=False,
    )
    rows = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
    if separator:
        _separate(rows, [encoding.sequence_ids for encoding in encoded.encodings], separator[0])
    for row, input_ids in enumerate(rows["input_ids"]):
        if not input_ids:
            for key in rows:
                rows[key][row] = [filler_token(tokenizer) if key == "input_ids" else 0]
    return rows


def filler_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the token that stands where there is none, an end-of-text token if there is one.

    Raises:
        UserError: the tokenizer has no special token at all.
    """
    return _first_token(tokenizer, ("eos", "bos", "sep", "cls", "unk", "pad"))


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the token for a word that the tokenizer makes nothing of.

    Raises:
        UserError: the tokenizer has no special token at all.
    """
    return _first_token(tokenizer, ("unk", "eos", "bos", "sep", "cls", "pad"))


def check_room(max_length: int | None, num_special: int, num_needed: int) -> None:
    """Refuse a limit that special tokens alone fill: transformers would exceed it without a word."""
    if max_length is not None and max_length < num_special + num_needed:
        raise UserError(
            f"`max_length` is {max_length}, but a row has {num_special} special tokens and needs {num_needed} of the "
            f"text. Set it to {num_special + num_needed} or more."
        )


def _first_token(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> int:
    for role in roles:
        token_id = getattr(tokenizer, f"{role}_token_id")
        if token_id is not None:
            return int(token_id)
    raise UserError(
        f"The tokenizer {tokenizer.name_or_path!r} has no special token, and a text gave no token. "
        "Give it one, for example `eos_token` in its tokenizer_config.json."
    )


def _separate(rows: dict[str, list[Any]], sequence_ids: list[list[int | None]], separator: int) -> None:
    """Put a separator where the second text begins."""
    for row, sides in enumerate(sequence_ids):
        place = sides.index(1) if 1 in sides else len(sides)
        for key in rows:
            rows[key][row] = [*rows[key][row][:place], separator if key == "input_ids" else 0, *rows[key][row][place:]]
