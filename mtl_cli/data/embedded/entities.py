"""Entities: the names of people, organisations and places as IOB2 spans.

One pool of names serves all kinds, so that a name tells nothing: its kind comes from the noun before it ("the bank
Tarvo") or from a preposition of place ("near Tarvo"). The sentences are those of the other two tasks.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtl_cli.data.embedded.grammar import Grammar, Words, sentence, text
from mtl_cli.data.embedded.lexicon import KINDS
from mtl_cli.data.embedded.sentiment import VALUES, clause, join

TAGS = ["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI")]
JOINED = ["{0} , but {1}", "{0} and {1}", "although {0} , {1}", "{1} while {0}"]


def make_rows(grammar: Grammar) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (key, row) without end."""
    rng = grammar.rng
    while True:
        form = rng.choice(("event", "event", "judgement", "both"))
        if form == "both":
            judgement = clause(grammar, rng.choice(VALUES), long=False)
            words = join(rng.choice(JOINED), _event(grammar, with_detail=False), judgement)
        elif form == "judgement":
            words = clause(grammar, rng.choice(VALUES), long=True)
        else:
            words = _event(grammar, with_detail=rng.random() < 0.5)
        words = sentence(words)
        yield text(words), {"tokens": [word for word, _ in words], "tags": [tag for _, tag in words]}


def _event(grammar: Grammar, with_detail: bool) -> Words:
    event = grammar.event(grammar.detail() if with_detail else [])
    return event.words(grammar.adverb(grammar.rng.choice(VALUES)), passive=grammar.rng.random() < 0.5)
