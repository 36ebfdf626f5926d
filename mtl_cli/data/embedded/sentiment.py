"""Sentiment: what a sentence as a whole says of its subject; negative, neutral (left open) or positive.

One clause, or two of unlike value of which the connective says which one counts. No word decides alone: polarity comes
from an adjective or a verb (sometimes only together with the kind of entity it describes), is turned by a negating
adverb, is voided by one that leaves it open, and is overruled by a contrast.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtl_cli.data.embedded.grammar import Grammar, Judgement, Words, plain, sentence, text

LABELS = ["negative", "neutral", "positive"]
VALUES = (-1, 0, 1)

# {0} is overruled by {1}.
CONTRASTS = [
    *("{0} , but {1}", "{0} , yet {1}", "although {0} , {1}"),
    *("while {0} , {1}", "{1} , although {0}", "{1} , while {0}"),
]
TWO_CLAUSES = 0.5
ADVERB_READINGS = (1, 1, -1)
FORMS = ("described", "described", "described", "opined", "typed")


def make_rows(grammar: Grammar) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (key, row) without end."""
    rng = grammar.rng
    while True:
        value = rng.choice(VALUES)
        if rng.random() < TWO_CLAUSES:
            other = rng.choice([other for other in VALUES if other != value])
            overruled_is_long = rng.random() < 0.5
            clauses = clause(grammar, other, long=overruled_is_long), clause(grammar, value, long=not overruled_is_long)
            words = join(rng.choice(CONTRASTS), *clauses)
        else:
            words = clause(grammar, value, long=True)
        row = text(sentence(words))
        yield row, {"text": row, "label": LABELS[value + 1]}


def clause(grammar: Grammar, value: int, long: bool) -> Words:
    """Draw a judging clause of this value; a long one names an entity, a short one need not."""
    rng = grammar.rng
    adverb = rng.choice(ADVERB_READINGS) if value else 0
    judgement = judge(grammar, value * adverb if value else rng.choice((-1, 1)), long)
    return judgement.words(grammar.adverb(adverb))


def judge(grammar: Grammar, polarity: int, long: bool) -> Judgement:
    """Draw a judgement in one of its three forms."""
    form = grammar.rng.choice(FORMS)
    if form == "described":
        return grammar.described(polarity, owned=long)
    return grammar.opined(polarity) if form == "opined" else grammar.typed(polarity)


def join(pattern: str, *clauses: Words) -> Words:
    """Put clauses into a pattern such as "although {0} , {1}"."""
    words: Words = []
    for piece in pattern.split():
        words.extend(clauses[int(piece[1:-1])] if piece.startswith("{") else plain(piece))
    return words
