"""Conditions that choose runs: `sharing=hard`, `score>0.8`, `optimizer.lr<=1e-4`, `tasks~sst2`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mtl_cli.errors import UserError
from mtl_cli.report.choices import class_name
from mtl_cli.report.fields import Fields, value_of
from mtl_cli.report.run_record import RunRecord

_CONDITION = re.compile(r"^\s*(?P<name>[^<>=!~\s]+)\s*(?P<sign><=|>=|!=|==|=|<|>|~)\s*(?P<value>.*?)\s*$", re.DOTALL)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        key: full name of what is looked at.
        sign: =, !=, <, <=, >, >=, or ~ (holds: a part of a text, an item of a list).
        value: what it is compared with; a list: any of these.
        raw: the value as it was typed.
        text: the condition as it was typed.
    """

    key: str
    sign: str
    value: Any
    raw: str
    text: str

    def holds(self, run: RunRecord) -> bool:
        """Whether a run meets it. What a run lacks equals null, and is neither less nor more than anything."""
        found = value_of(run, self.key)
        if self.sign in _ORDERS:
            return self._in_order(found)
        if self.sign == "~":
            return _contains(found, self.value)
        return self._equals(run, found) == (self.sign == "=")

    def _equals(self, run: RunRecord, found: Any) -> bool:
        values = [found]
        target = run.settings.get(f"{self.key}._target_")
        if isinstance(target, str):  # a chosen option goes by the name of its class, too
            values += [target, target.rpartition(".")[2], class_name(target)]
        if self.raw in values:  # text that looks like a number, such as a name 007
            return True
        wanted = self.value if isinstance(self.value, list) and not isinstance(found, list) else [self.value]
        return any(_same(value, one) for value in values for one in wanted)

    def _in_order(self, found: Any) -> bool:
        if found is None or (isinstance(found, float) and math.isnan(found)):
            return False
        if _is_number(found) != _is_number(self.value) or not isinstance(found, str | int | float):
            raise UserError(
                f"where: {self.text!r} compares {self.value!r} with {found!r} (of a run); "
                "numbers go with numbers, text with text"
            )
        return _ORDERS[self.sign](found, self.value)


def parse_conditions(texts: Sequence[str], fields: Fields) -> list[Condition]:
    """Read conditions, all of which a run must meet.

    Raises:
        UserError: what is wrong with any of them.
    """
    found, problems = [], []
    for text in texts:
        match = _CONDITION.match(text)
        if match is None:
            problems.append(
                f"where: found {text!r}; a condition looks like sharing=hard, status!=failed, score>0.8, "
                "optimizer.lr<=1e-4 or tasks~sst2"
            )
            continue
        try:
            sign = "=" if match["sign"] == "==" else match["sign"]
            raw = match["value"]
            found.append(Condition(fields.resolve(match["name"], "where"), sign, _value(raw), raw, text))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return found


def _value(text: str) -> Any:
    try:
        return float(text)  # YAML takes 1e-4 for text
    except ValueError:
        pass
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # A date and the like stays what was typed.
    return value if value is None or isinstance(value, bool | list) else text.strip("'\"")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(value: Any, wanted: Any) -> bool:
    if _is_number(value) and _is_number(wanted):
        return bool(value == wanted)
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted
    if isinstance(value, list) or isinstance(wanted, list):
        both = isinstance(value, list) and isinstance(wanted, list) and len(value) == len(wanted)
        return both and all(map(_same, value, wanted))
    return str(value) == (f"{wanted:g}" if isinstance(wanted, float) else str(wanted))


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(found, list):
        return any(_same(item, wanted) for item in found)
    text = f"{wanted:g}" if isinstance(wanted, float) else str(wanted)
    return found is not None and text in str(found)
