"""Inference: does the hypothesis follow from the premise (entailment), clash with it (contradiction), or neither (neutral)?

A premise states one or two facts; a hypothesis varies one of them. Each premise comes with three hypotheses, one a label,
so that a premise alone tells nothing, and hypotheses of all labels are made of the same words:

* an event that happened contradicts the same event with roles swapped, at another time or place, or with an agent of
  another kind ("some person" for "the bank Tarvo"), whatever the voice; it entails the event in the other voice, with its
  detail left out, or with an agent of the right kind left unnamed; a detail added is neutral;
* an event that did not happen says the same of the event with a detail added, and nothing of any other;
* a judgement carries over to a general adjective of its polarity ("good") and clashes with one of the other;
* negating the hypothesis swaps entailment and contradiction; what the premise leaves open stays neutral.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mtl_cli.data.embedded.grammar import Event, Grammar, Judgement, Mention, Words, plain, sentence, text
from mtl_cli.data.embedded.lexicon import EVENT_VERBS, KINDS, SEASONS, Kind
from mtl_cli.data.embedded.sentiment import join

LABELS = ["entailment", "neutral", "contradiction"]

GENERAL_ADJECTIVES = {+1: ["good"], -1: ["bad"]}
GENERAL_NOUNS: dict[Kind, str] = {"PER": "person", "ORG": "organisation", "LOC": "place"}
CONNECTIVES = ["{0} , but {1}", "{0} , and {1}", "{0} while {1}"]

FORMS = [("event",), ("event",), ("event",), ("judgement",), ("judgement",), ("event", "judgement")]
SETTLED = (1, 1, 1, 1, 1, -1)
READINGS = (1, 1, -1, 0)
HYPOTHESIS_READINGS = (1, 1, 1, 1, 1, -1)
POLARITIES = (1, 1, -1)

Fact = tuple[Event | Judgement, int]
"""Content and whether it holds (1), does not (-1) or is left open (0)."""
Variant = tuple[Event | Judgement, int]
"""Content of a hypothesis and what it is to a premise: 1 the same, -1 its opposite, 0 unrelated."""


def make_rows(grammar: Grammar) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (key, row) without end: a premise's three rows one after the other, in random order."""
    rng = grammar.rng
    while True:
        facts = _draw_facts(grammar)
        premise = text(sentence(_state(grammar, facts)))
        for label in rng.sample(LABELS, 3):
            yield premise, {"premise": premise, "hypothesis": _hypothesis(grammar, facts, label), "label": label}


def _draw_facts(grammar: Grammar) -> list[Fact]:
    """Draw the facts of a premise; at least one is settled, since one left open entails nothing."""
    rng = grammar.rng
    form = rng.choice(FORMS)
    readings = [rng.choice(SETTLED)]
    if len(form) == 2:
        readings.insert(rng.randrange(2), rng.choice(READINGS))
    first = _event(grammar) if form[0] == "event" else _judgement(grammar, owned=True)
    if len(form) == 1:
        return [(first, readings[0])]
    second = _judgement(grammar, owned=False)
    while isinstance(first, Judgement) and _noun(first) == _noun(second):
        second = _judgement(grammar, owned=False)
    return [(first, readings[0]), (second, readings[1])]


def _event(grammar: Grammar) -> Event:
    return replace(grammar.event(with_detail=False), detail=plain(f"in {grammar.rng.choice(SEASONS)}") if grammar.rng.random()<.5 else [])


def _judgement(grammar: Grammar, owned: bool) -> Judgement:
    return grammar.described(grammar.rng.choice(POLARITIES), owned)


def _noun(judgement: Judgement) -> str:
    return judgement.subject[1][0]


def _state(grammar: Grammar, facts: list[Fact]) -> Words:
    clauses = [_clause(grammar, content, reading) for content, reading in facts]
    return clauses[0] if len(clauses) == 1 else join(grammar.rng.choice(CONNECTIVES), *clauses)


def _clause(grammar: Grammar, content: Event | Judgement, reading: int) -> Words:
    adverb = grammar.adverb(reading)
    if isinstance(content, Event):
        return content.words(adverb, passive=grammar.rng.random() < 0.5)
    return content.words(adverb)


def _hypothesis(grammar: Grammar, facts: list[Fact], label: str) -> str:
    """Draw a variant of a fact and an adverb's reading that together have this label."""
    rng = grammar.rng
    nouns = {_noun(content) for content, _ in facts if isinstance(content, Judgement)}
    while True:
        content, reading = rng.choice(facts)
        if isinstance(content, Event):
            variants = _vary_event(grammar, content)
        else:
            variants = _vary_judgement(grammar, content, nouns)
        variant, relation = rng.choice(variants[reading])
        adverb = rng.choice(HYPOTHESIS_READINGS)
        if LABELS[1 - reading * relation * adverb] == label:
            return text(sentence(_clause(grammar, variant, adverb)))


def _vary_judgement(grammar: Grammar, fact: Judgement, nouns: set[str]) -> dict[int, list[Variant]]:
    """Return the variants of a judgement, whatever its reading; a noun that the premise lacks makes an unrelated one."""
    rng = grammar.rng
    polarity = rng.choice((-1, 1))
    subject = fact.subject[:2]
    general = replace(fact, subject=subject, predicate=plain(rng.choice(GENERAL_ADJECTIVES[polarity])), polarity=polarity)
    unused = rng.choice([noun for noun in grammar.vocabulary.nouns if noun not in nouns])
    unrelated = replace(general, subject=plain(f"the {unused}"))
    variants = [(general, polarity * fact.polarity), (unrelated, 0)]
    return {1: variants, -1: variants, 0: variants}


def _vary_event(grammar: Grammar, fact: Event) -> dict[int, list[Variant]]:
    """Return the variants of an event that happened (1), did not (-1), or is left open (0)."""
    swapped = replace(fact, agent=fact.patient, patient=fact.agent)
    right = replace(fact, agent=_unnamed(fact.agent.kind))
    absent = [kind for kind in KINDS if kind not in (fact.agent.kind, fact.patient.kind)]
    wrong = replace(fact, agent=_unnamed(grammar.rng.choice(absent)))
    happened = [(fact, 1), (swapped, -1), (right, 1), (wrong, -1), (right, 1), (wrong, -1)]
    deed = replace(fact, verb=grammar.rng.choice([verb for verb in EVENT_VERBS if verb != fact.verb]))
    happened.append((deed, 0))
    did_not = [(deed, 0), (fact, 1), (swapped, 0), (right, 0), (wrong, 0)]
    if fact.detail:
        other = replace(fact, detail=plain(f"in {grammar.rng.choice([x for x in SEASONS if x != fact.detail[1][0]])}"))
        without = replace(fact, detail=[])
        happened += [(other, -1), (without, 1)]
        did_not += [(other, 0), (without, 0)]
    else:
        added = replace(fact, detail=plain(f"in {grammar.rng.choice(SEASONS)}"))
        happened += [(added, 0)]
        did_not += [(added, 1)]
    return {1: happened, -1: did_not, 0: did_not}


def _unnamed(kind: Kind) -> Mention:
    return Mention(kind, GENERAL_NOUNS[kind], ())
