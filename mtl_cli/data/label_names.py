"""From the values of a label column, in whatever form a data set has them, to label names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mtl_cli.types import UserError


class LabelNames:
    """Maps each value of a label column to the name of its label, or to None where it says that there is no label.

    Values may be names, ids for which the data set declares names (`ClassLabel`), plain integers (also written as text,
    as in a csv file), whole floating-point numbers, or booleans. Null, NaN, an empty text and -1 are no label, unless
    the user lists that name.

    Where the user gives `labels`, values are matched by name. Where no name matches, `labels` are new names: for the
    declared ones in their order, for plain integers as indices into `labels`, for false and true as 0 and 1.

    Attributes:
        renamed: the new name of each name of the data, where `labels` are new names.

    Args:
        values: distinct values of the column in all splits; they decide between names and indices.
        declared: names that the data set declares, by id.
        labels: names that the user gives, by id.

    Raises:
        UserError: the user's labels and the declared ones have nothing to do with each other.
    """

    def __init__(self, values: Iterable[object], declared: Sequence[str] | None, labels: Sequence[str] | None) -> None:
        self._declared = declared
        self._listed = set(labels or ())
        self.renamed: dict[str, str] = {}
        found = {name: None for value in values if (name := self._plain_name(value)) is not None}
        if labels is None or self._listed & set(declared if declared is not None else found):
            return
        if declared is not None:
            if len(declared) != len(labels):
                raise UserError(
                    f"`labels` ({_shown(labels)}) has no name of the data set's own labels ({_shown(declared)}). "
                    "Give those in the order you want, or new names for all of them, in their order."
                )
            self.renamed = dict(zip(declared, labels, strict=True))
        elif all(name.lower() in ("false", "true") for name in found):
            by_lower = {label.lower(): label for label in labels}
            for index, name in enumerate(("false", "true")):
                label = by_lower.get(name, labels[index] if len(labels) == 2 else name)
                self.renamed.update(dict.fromkeys((name, name.capitalize(), name.upper()), label))
        elif all(name.isdecimal() and int(name) < len(labels) for name in found):
            self.renamed = {name: labels[int(name)] for name in found}

    def __call__(self, value: object) -> str | None:
        """Give the name of the label that `value` stands for, or None for no label."""
        name = self._plain_name(value)
        return None if name is None else self.renamed.get(name, name)

    def _plain_name(self, value: object) -> str | None:
        """The name that the data set itself has for a value."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if self._declared is not None and isinstance(value, int):
            if value < 0:
                return None
            return self._declared[value] if value < len(self._declared) else str(value)
        name = str(value)
        return None if name in ("", "-1") and name not in self._listed else name


def in_order(names: Iterable[str]) -> list[str]:
    """Sort label names: as numbers where all are, else as text."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)


def _shown(names: Sequence[str], limit: int = 20) -> str:
    rest = f", ... {len(names)} in all" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
