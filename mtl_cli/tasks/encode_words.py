"""Texts given as words, with a label a word, as rows of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mtl_cli.tasks.encode_texts import check_room, unknown_token
from mtl_cli.tasks.windows import cut_windows
from mtl_cli.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_PROBE = "a"
"""A word to learn a tokenizer's ways from."""


@dataclass(frozen=True, slots=True)
class WordRow:
    """One row of a text.

    Attributes:
        input_ids: token ids, special ones included.
        token_type_ids: segments, or None where the tokenizer has none.
        positions: for each labelled word, the place of its first token in the row.
        word_numbers: for each labelled word, its number in the text.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None
    positions: list[int]
    word_numbers: list[int]


class WordEncoder:
    """Turns words into rows with a tokenizer's own special tokens around them.

    Words are tokenised one by one, as `is_split_into_words=True` does. Where the space belongs to the token (GPT-2,
    RoBERTa, Gemma), each word gets one in front, the first too and whatever the tokenizer's `add_prefix_space`: words
    follow spaces in the text that such an encoder was trained on. A word that gives no token (a control character,
    say) becomes the unknown token, and a word longer than a row keeps its beginning.

    Args:
        tokenizer: a fast tokenizer of transformers.
        max_length: tokens a row at most, special ones included. None: no limit.
        overlap: tokens that neighbouring windows of a longer text share (see `cut_windows`).

    Raises:
        UserError: the tokenizer is not a fast one or knows too little, or `max_length` leaves no room for a word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None, overlap: int) -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"The tokenizer {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) is not a fast one, which "
                "labels on words need. Choose an encoder with a tokenizer.json."
            )
        self._tokenizer = tokenizer
        self._overlap = overlap
        self._space = " " if _needs_space(tokenizer) else ""
        # The template, from a text of one word: special tokens before and after, and the segments of all three parts.
        probe = _backend(tokenizer).encode([f"{self._space}{_PROBE}"], is_pretokenized=True)
        inside = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
        if not inside:
            raise UserError(
                f"The tokenizer {tokenizer.name_or_path!r} gives no token for the word {_PROBE!r}. "
                "Give it an unknown token."
            )
        before, after = slice(0, inside[0]), slice(inside[-1] + 1, None)
        self._before, self._after = probe.ids[before], probe.ids[after]
        self._types = None
        if "token_type_ids" in tokenizer.model_input_names:
            self._types = probe.type_ids[before], probe.type_ids[inside[0]], probe.type_ids[after]
        num_special = len(self._before) + len(self._after)
        check_room(max_length, num_special, 1)
        self._capacity = None if max_length is None else max_length - num_special

    def rows(self, texts: Sequence[Sequence[str]]) -> list[list[WordRow]]:
        """Give the rows of each text: every word labelled in exactly one of them, in ascending order."""
        pieces = self._pieces(word for words in texts for word in words)
        return [self._rows_of([pieces[word] for word in words]) for words in texts]

    def _pieces(self, words: Iterable[str]) -> dict[str, list[int]]:
        """Token ids of each distinct word."""
        distinct = list(dict.fromkeys(words))
        encodings = _backend(self._tokenizer).encode_batch(
            [[self._space + word] for word in distinct], is_pretokenized=True, add_special_tokens=False
        )
        return {
            word: (encoding.ids or [unknown_token(self._tokenizer)])[: self._capacity]
            for word, encoding in zip(distinct, encodings, strict=True)
        }

    def _rows_of(self, words: list[list[int]]) -> list[WordRow]:
        lengths = [len(word) for word in words]
        first_tokens = [0, *accumulate(lengths)]
        capacity = max(1, first_tokens[-1]) if self._capacity is None else self._capacity
        rows = []
        for window in cut_windows(lengths, capacity, self._overlap):
            tokens = [token for word in words[window.begin : window.end] for token in word]
            if not (tokens or self._before or self._after):
                tokens = [unknown_token(self._tokenizer)]
            labelled = slice(window.labelled_begin, window.labelled_end)
            begin = len(self._before) - first_tokens[window.begin]
            rows.append(
                WordRow(
                    input_ids=[*self._before, *tokens, *self._after],
                    token_type_ids=None
                    if self._types is None
                    else [*self._types[0], *[self._types[1]] * len(tokens), *self._types[2]],
                    positions=[begin + first_token for first_token in first_tokens[labelled]],
                    word_numbers=list(range(window.labelled_begin, window.labelled_end)),
                )
            )
        return rows


def columns_of_rows(rows_of_examples: Sequence[Sequence[WordRow]]) -> dict[str, list[Any]]:
    """Lay rows out as the columns that `Task.encode` gives, without labels."""
    rows = [row for example in rows_of_examples for row in example]
    columns: dict[str, list[Any]] = {
        "input_ids": [row.input_ids for row in rows],
        "positions": [row.positions for row in rows],
        "word_numbers": [row.word_numbers for row in rows],
        "example_offset": [offset for offset, example in enumerate(rows_of_examples) for _ in example],
    }
    if rows and rows[0].token_type_ids is not None:
        columns["token_type_ids"] = [row.token_type_ids for row in rows]
    return columns


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The tokenizer of the tokenizers library, without the limits that an earlier call may have left on it."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _needs_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a word within a text is what the tokenizer makes of a space and the word, and not of the word alone."""
    backend = _backend(tokenizer)

    def ids(text: str | list[str]) -> list[int]:
        return list(backend.encode(text, is_pretokenized=isinstance(text, list), add_special_tokens=False).ids)

    text, first, spaced = ids(f"{_PROBE} {_PROBE}"), ids([_PROBE]), ids([f" {_PROBE}"])
    return text != first + first and text == first + spaced
