"""Tokenising the rows of a split once, and finding them tokenised the next time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_cli.data.cache import content_key, exclusive
from mtl_cli.data.columns import flat, list_lengths
from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.preparable import PreparableTask
from mtl_cli.types import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

_VERSION = 1
"""Raise it when the same rows, task and tokenizer give other cache files than before."""

_ROWS_PER_CALL = 1000


def tokenise(
    task: PreparableTask,
    examples: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    label_ids: Mapping[str, int] | None,
    *,
    key: str,
    folder: Path,
    place_error: Callable[[int, UserError], UserError],
) -> EncodedSplit:
    """Tokenise examples, or load them from `folder` where any process has tokenised them before.

    Args:
        task: how.
        examples: what: columns as the task reads them.
        tokenizer: by what; its content is part of the cache's key, not its name.
        max_length: tokens a row at most.
        label_ids: id of each label.
        key: stands for the examples in the cache's key.
        folder: of the cache.
        place_error: turns an error about an example (from 0) into one that says where the example was read.
    """
    fingerprint = content_key(
        _VERSION,
        key,
        tokenizer_key(tokenizer),
        [f"{type(task).__module__}.{type(task).__qualname__}", task.encoding_settings()],
        max_length,
        None if label_ids is None else list(label_ids.items()),
    )

    def encode(batch: Mapping[str, list[Any]], indices: list[int]) -> pa.Table:
        try:
            # A dict of lists: what `map` hands over converts a column again each time that it is read.
            columns = task.encode({name: batch[name] for name in batch}, tokenizer, max_length, label_ids)
        except UserError as error:
            offset = getattr(error, "offset", None)
            raise (error if offset is None else place_error(indices[offset], error)) from error
        return _to_table(columns, first_example=indices[0])

    path = folder / f"{fingerprint}.arrow"

    def mapped() -> datasets.Dataset:
        return examples.map(
            encode,
            with_indices=True,
            batched=True,
            batch_size=_ROWS_PER_CALL,
            cache_file_name=str(path),
            load_from_cache_file=True,
            new_fingerprint=fingerprint,
            desc="Tokenising",
        )

    if path.exists():
        encoded = mapped()
    else:
        # `map` writes beside the file and renames; the lock keeps a second process from doing the same work.
        with exclusive(path):
            encoded = mapped()
    return _to_split(encoded.data.table, num_examples=len(examples))


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """A key of all that decides what a tokenizer makes of a text, wherever the tokenizer was loaded from."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    settings = [special, tokenizer.model_input_names, tokenizer.truncation_side]
    versions = [version("transformers"), version("tokenizers")]
    if not tokenizer.is_fast:
        added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
        return content_key(versions, settings, kind, sorted(tokenizer.get_vocab().items()), added)
    backend = tokenizer.backend_tokenizer
    # What an earlier call cut and padded to stays in the backend; each call sets it anew.
    backend.no_truncation()
    backend.no_padding()
    return content_key(versions, settings, backend.to_str())


def _to_table(columns: Mapping[str, list[Any]], first_example: int) -> pa.Table:
    """The rows of one batch with the narrowest types that hold them."""
    import pyarrow as pa

    word_level = "positions" in columns
    types = {
        "input_ids": pa.list_(pa.int32()),
        "token_type_ids": pa.list_(pa.uint8()),
        "positions": pa.list_(pa.int32()),
        "word_numbers": pa.list_(pa.int32()),
    }
    if "labels" in columns:
        scores = not word_level and any(isinstance(label, float) for label in columns["labels"])
        label_type = pa.float32() if scores else pa.int64()
        types["labels"] = pa.list_(label_type) if word_level else label_type
    arrays = {name: pa.array(columns[name], kind) for name, kind in types.items() if name in columns}
    offsets = np.asarray(columns["example_offset"], dtype=np.int64)
    return pa.table({**arrays, "example": pa.array(offsets + first_example)})


def _to_split(table: pa.Table, num_examples: int) -> EncodedSplit:
    def values(name: str, dtype: type) -> np.ndarray | None:
        if name not in table.column_names:
            return None
        column = table.column(name)
        array = flat(column) if hasattr(column.type, "value_type") else column
        return np.asarray(array.to_numpy(), dtype=dtype)

    def starts(name: str) -> np.ndarray | None:
        if name not in table.column_names:
            return None
        return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(list_lengths(table.column(name)))))

    input_ids, row_starts, example_numbers = (
        values("input_ids", np.int32),
        starts("input_ids"),
        values("example", np.int64),
    )
    assert input_ids is not None
    assert row_starts is not None
    assert example_numbers is not None
    scores = "labels" in table.column_names and str(table.schema.field("labels").type) == "float"
    return EncodedSplit(
        input_ids=input_ids,
        row_starts=row_starts,
        token_type_ids=values("token_type_ids", np.uint8),
        labels=values("labels", np.float32 if scores else np.int64),
        positions=values("positions", np.int32),
        label_starts=starts("positions"),
        word_numbers=values("word_numbers", np.int32),
        example_numbers=example_numbers,
        num_examples=num_examples,
    )
