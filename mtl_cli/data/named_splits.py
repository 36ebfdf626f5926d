"""Which of a data set's own splits serve as train, validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from mtl_cli.types import SPLITS, UserError


def check_split_settings(splits: Mapping[str, str | None]) -> None:
    """Refuse keys that are not train, validation or test."""
    for key in splits:
        if key not in SPLITS:
            raise UserError(f"splits.{key}: keys are {', '.join(SPLITS)}; their values name the data set's own splits.")


def choose_splits(found: Iterable[str], splits: Mapping[str, str | None], place: str) -> dict[str, str]:
    """Name of the data set's split for each of train, validation, test.

    Args:
        found: the splits that exist.
        splits: the user's choice. None leaves one out; one that is not mentioned is the split of that name, if it is
            there.
        place: the data set, for messages.

    Raises:
        UserError: a split that the user names does not exist.
    """
    found = list(found)
    chosen = {}
    for key in SPLITS:
        name = splits.get(key, key)
        if name in found:
            chosen[key] = name
        elif name is not None and key in splits:
            near = get_close_matches(name, found, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"{place} has no split {name!r} (splits.{key}). Splits: {', '.join(found)}.{hint}")
    if not chosen:
        raise UserError(
            f"{place} has none of the splits train, validation and test. Splits: {', '.join(found)}. "
            "Name those to use in `splits`, for example splits: {train: " + f"{found[0] if found else 'NAME'}" + "}."
        )
    return chosen
