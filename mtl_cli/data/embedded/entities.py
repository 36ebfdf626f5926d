"""Entities: the names of people, organisations and places as IOB2 spans.

One pool of names serves all kinds, so that a name tells nothing: its kind comes from the noun before it ("the bank
Tarvo") or from a preposition of place ("near Tarvo"). The sentences are those of the other two tasks.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtl_cli.data.embedded.grammar import Grammar, Words, sentence, text
from mtl_cli.data.embedded.lexicon import KINDS
from mtl_cli.data.embedded.sentiment import clause, join

TAGS = ["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI")]
JOINED = ["{0} , but {1}", "{0} and {1}", "although {0} , {1}", "{1} while {0}"]


def make_rows(grammar: Grammar) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (key, row) without end."""
    rng = grammar.rng
    while True:
        words = _event(grammar)
        form = rng.random()
        if form < 0.3:
            words = join(rng.choice(JOINED), words, clause(grammar, rng.choice((-1, 0, 1)), long=False))
        elif form < 0.6:
            words = clause(grammar, rng.choice((-1, 0, 1)), long=True)
        words = sentence(words)
        yield text(words), {"tokens": [word for word, _ in words], "tags": [tag for _, tag in words]}


def _event(grammar: Grammar) -> Words:
    event = grammar.event(with_detail=grammar.rng.random() < 0.5)
    return event.words(grammar.adverb(grammar.rng.choice((-1, 0, 1))), passive=grammar.rng.random() < 0.5)
