"""Schemes that write spans of words as one tag a word, and their conversion to IOB2.

IOB2: the first word of a span is B-TYPE, its others are I-TYPE, words outside are O. Every tagging task is learnt in
IOB2 whatever its data use. Source: Sang and Veenstra, Representing Text Chunks (EACL 1999), where the schemes are
compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mtl_cli.types import UserError

TagScheme = Literal["none", "io", "iob1", "iob2", "iobes"]
"""How data write spans.

`none`: tags stand for themselves (parts of speech).
`io`: the type alone, or I-TYPE; neighbouring spans of one type are one.
`iob1`: I-TYPE, and B-TYPE only where a span directly follows one of its type.
`iob2` (also called BIO): every span begins with B-TYPE.
`iobes`: as `iob2`, with E- (or L-) for the last word of a span, S- (or U-) for a span of one word; M- may stand for I-.
"""

OUTSIDE = "O"
UNTYPED = "SPAN"
"""The type of spans in data that write B and I alone."""

_PREFIXES: dict[str, dict[str, str]] = {
    "iob1": {"B": "B", "I": "I"},
    "iob2": {"B": "B", "I": "I"},
    "iobes": {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"},
}


class TagError(UserError):
    """A string that is no tag of its scheme."""


def to_iob2(tags: Sequence[str], scheme: TagScheme) -> list[str]:
    """Convert the tags of one text.

    Spans are read as seqeval (in its default mode) and conlleval read them: a tag that should continue a span but
    follows none of its type begins one. The result is a valid IOB2 sequence with these spans; valid IOB2 stays as it
    is.

    Raises:
        TagError: a string is no tag of the scheme.
    """
    if scheme == "none":
        return list(tags)
    converted = []
    open_type = None  # the type of the span that the next word may continue
    for tag in tags:
        prefix, span_type = split_tag(tag, scheme)
        if prefix == OUTSIDE:
            converted.append(OUTSIDE)
        elif prefix in ("I", "E") and span_type == open_type:
            converted.append(f"I-{span_type}")
        else:
            converted.append(f"B-{span_type}")
        open_type = span_type if prefix in ("B", "I") else None
    return converted


def repair_iob2(tags: Sequence[str]) -> list[str]:
    """Make predicted tags valid IOB2: an I- that continues no span of its type becomes B-. Spans stay those scored."""
    return to_iob2(tags, "iob2")


def iob2_labels(names: Iterable[str], scheme: TagScheme, keep_order: bool) -> list[str]:
    """Give the IOB2 label list for the tags of a data set: O, and for every type both B- and I-.

    Args:
        names: tags of the data, in their scheme.
        scheme: their scheme.
        keep_order: `names` are in the user's order: IOB tags keep theirs, and tags that are missing follow at the
            end; from `io` and `iobes`, types keep their order. Otherwise O, then B- and I- of each type, types
            sorted.

    Raises:
        TagError: a name is no tag of the scheme.
    """
    names = list(names)
    split = [split_tag(name, scheme) for name in names]
    types = list(dict.fromkeys(span_type for _, span_type in split if span_type is not None))
    wanted = [
        OUTSIDE,
        *(f"{prefix}-{span_type}" for span_type in (types if keep_order else sorted(types)) for prefix in "BI"),
    ]
    if keep_order and scheme in ("iob1", "iob2"):
        given = [prefix if span_type is None else f"{prefix}-{span_type}" for prefix, span_type in split]
        return list(dict.fromkeys([*given, *wanted]))
    return wanted


def split_tag(tag: str, scheme: TagScheme) -> tuple[str, str | None]:
    """Read one tag as its prefix (O, B, I, E or S) and its type; None for O.

    Raises:
        TagError: it is no tag of the scheme.
    """
    if not isinstance(tag, str):
        raise TagError(f"A tag is {tag!r}, which is no text. Tags of the scheme `{scheme}` are names.")
    if tag == OUTSIDE:
        return OUTSIDE, None
    if scheme == "io":
        span_type = tag.removeprefix("I-")
        if span_type:
            return "I", span_type
    else:
        prefix, separator, span_type = tag.partition("-")
        if prefix in _PREFIXES[scheme] and bool(separator) == bool(span_type):
            return _PREFIXES[scheme][prefix], span_type or UNTYPED
    raise TagError(
        f"'{tag}' is no tag of the scheme `{scheme}`: {_allowed(scheme)}. Mend it, or set `scheme` to that of the data."
    )


def is_tag(tag: str, scheme: TagScheme) -> bool:
    """Whether a string is a tag of the scheme."""
    try:
        split_tag(tag, scheme)
    except TagError:
        return False
    return True


def _allowed(scheme: TagScheme) -> str:
    if scheme == "io":
        return "O, a type, or I- and a type"
    return f"O, or one of {', '.join(f'{prefix}-' for prefix in _PREFIXES[scheme])} and a type"
