"""Inference: a hypothesis follows from a premise (entailment), clashes with it (contradiction), or neither (neutral).

A premise states one or two facts; a hypothesis varies one of them. Each premise comes with a hypothesis of each label,
so that a premise alone tells nothing.

* An event that happened entails itself in either voice, without its season, or with its agent left unnamed ("some
  person" for "the poet Tarvo"). It contradicts itself with roles swapped (the very same words, where the voice
  stays), in another season, or with an agent of a kind that was not there. Another deed and a season added are neutral.
* An event that did not happen settles only itself, also with a season added; every other variant is neutral.
* A judgement entails the general one of its polarity ("good") and contradicts that of the other. What is said of
  another thing, or in words that do not judge ("long"), is neutral.
* Negating the hypothesis swaps entailment and contradiction. What the premise leaves open is neutral.

An event stands for the only one between its two entities: in this world nobody sues those by whom he is sued.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mtl_cli.data.embedded.grammar import Event, Grammar, Judgement, Mention, Words, plain, sentence, text
from mtl_cli.data.embedded.lexicon import EVENT_VERBS, KINDS, SEASONS, Kind
from mtl_cli.data.embedded.sentiment import join

LABELS = ["entailment", "neutral", "contradiction"]

GENERAL_ADJECTIVES = {+1: "good", -1: "bad"}
DESCRIPTIVE_ADJECTIVES = ["long", "short", "public", "secret"]
GENERAL_NOUNS: dict[Kind, str] = {"PER": "person", "ORG": "organisation", "LOC": "place"}
CONNECTIVES = ["{0} , but {1}", "{0} , and {1}", "{0} while {1}"]

# Shares are odds in these lists. Most texts state one plain fact: were every sign as likely as its opposite, no part of
# a text would go with any label, and a model trained from scratch would find nothing to start from.
FORMS = [("event",), ("judgement",)] * 3 + [("event", "judgement")]
FIRST_READINGS = (1, 1, 1, 1, 1, -1)
OTHER_READINGS = (1, 1, -1, 0)
HYPOTHESIS_READINGS = (1, 1, 1, 1, 1, -1)
POLARITIES = (1, 1, -1)
PASSIVE_PREMISES, PASSIVE_HYPOTHESES = 0.1, 0.35
WITH_SEASON = 0.2

Fact = tuple[Event | Judgement, int]
"""Content and whether it holds (1), does not (-1) or is left open (0)."""
Variant = tuple[Event | Judgement, int]
"""Content of a hypothesis and what it is to a premise: 1 the same, -1 its opposite, 0 unrelated."""


def make_rows(grammar: Grammar) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (key, row) without end: a premise's three rows one after the other, in random order."""
    rng = grammar.rng
    used: set[str] = set()
    while True:
        facts = _draw_facts(grammar)
        premise = text(sentence(_state(grammar, facts)))
        if premise in used:
            continue
        used.add(premise)
        for label in rng.sample(LABELS, 3):
            yield premise, {"premise": premise, "hypothesis": _hypothesis(grammar, facts, label), "label": label}


def _draw_facts(grammar: Grammar) -> list[Fact]:
    """Draw the facts of a premise; at least one is settled, since one left open entails nothing."""
    rng = grammar.rng
    form = rng.choice(FORMS)
    readings = [rng.choice(FIRST_READINGS)]
    if len(form) == 2:
        readings.insert(rng.randrange(2), rng.choice(OTHER_READINGS))
    owned = len(form) == 1
    contents = [_draw_event(grammar) if kind == "event" else _draw_judgement(grammar, owned) for kind in form]
    return list(zip(contents, readings, strict=True))


def _draw_event(grammar: Grammar) -> Event:
    season = plain(f"in {grammar.rng.choice(SEASONS)}") if grammar.rng.random() < WITH_SEASON else []
    return grammar.event(season)


def _draw_judgement(grammar: Grammar, owned: bool) -> Judgement:
    return grammar.described(grammar.rng.choice(POLARITIES), owned)


def _state(grammar: Grammar, facts: list[Fact]) -> Words:
    clauses = [_clause(grammar, content, reading, PASSIVE_PREMISES) for content, reading in facts]
    return clauses[0] if len(clauses) == 1 else join(grammar.rng.choice(CONNECTIVES), *clauses)


def _clause(grammar: Grammar, content: Event | Judgement, reading: int, passives: float = PASSIVE_HYPOTHESES) -> Words:
    adverb = grammar.adverb(reading)
    if isinstance(content, Event):
        return content.words(adverb, passive=grammar.rng.random() < passives)
    return content.words(adverb)


def _hypothesis(grammar: Grammar, facts: list[Fact], label: str) -> str:
    """Draw a variant of a fact and an adverb's reading that together have this label."""
    rng = grammar.rng
    while True:
        content, reading = rng.choice(facts)
        if isinstance(content, Judgement):
            variants = _vary_judgement(grammar, content)
        else:
            variants = _vary_denied_event(grammar, content) if reading == -1 else _vary_event(grammar, content)
        variant, relation = rng.choice(variants)
        adverb = rng.choice(HYPOTHESIS_READINGS)
        if LABELS[1 - reading * relation * adverb] == label:
            return text(sentence(_clause(grammar, variant, adverb)))


def _vary_judgement(grammar: Grammar, fact: Judgement) -> list[Variant]:
    """Return the variants of a judgement, whatever its reading; the owner of the judged thing is left out."""
    rng = grammar.rng
    the, (noun, _) = fact.subject[:2]
    polarity = rng.choice((-1, 1))
    general = replace(fact, subject=fact.subject[:2], predicate=plain(GENERAL_ADJECTIVES[polarity]))
    other_noun = rng.choice([other for other in grammar.vocabulary.nouns if other != noun])
    unrelated = replace(general, subject=[the, *plain(other_noun)])
    not_judging = replace(general, predicate=plain(rng.choice(DESCRIPTIVE_ADJECTIVES)))
    return [(general, polarity * fact.polarity), *[(unrelated, 0)] * 2, (not_judging, 0)]


def _vary_event(grammar: Grammar, fact: Event) -> list[Variant]:
    """Return the variants of an event that happened, or that is left open."""
    right = _unname_agent(fact, fact.agent.kind)
    absent = [kind for kind in KINDS if kind not in (fact.agent.kind, fact.patient.kind)]
    wrong = _unname_agent(fact, grammar.rng.choice(absent))
    in_season, relation = _vary_season(grammar, fact)
    variants: list[Variant] = [
        *[(fact, 1), (_swap(fact), -1)] * 3,
        (right, 1),
        (wrong, -1),
        (_other_deed(grammar, fact), 0),
    ]
    variants.append((in_season, relation))
    if fact.detail:
        variants.append((replace(fact, detail=[]), 1))
    return variants


def _vary_denied_event(grammar: Grammar, fact: Event) -> list[Variant]:
    """Return the variants of an event that did not happen: only a season added keeps it settled."""
    in_season, _ = _vary_season(grammar, fact)
    unnamed = _unname_agent(fact, grammar.rng.choice(KINDS))
    settled = 0 if fact.detail else 1
    return [(fact, 1), (in_season, settled), (_swap(fact), 0), (unnamed, 0), (_other_deed(grammar, fact), 0)]


def _vary_season(grammar: Grammar, fact: Event) -> tuple[Event, int]:
    """Return the event in another season (which the given one excludes), or in one where none is given (neutral)."""
    given = fact.detail[1][0] if fact.detail else None
    season = grammar.rng.choice([season for season in SEASONS if season != given])
    return replace(fact, detail=plain(f"in {season}")), -1 if fact.detail else 0


def _swap(fact: Event) -> Event:
    return replace(fact, agent=fact.patient, patient=fact.agent)


def _other_deed(grammar: Grammar, fact: Event) -> Event:
    return replace(fact, verb=grammar.rng.choice([verb for verb in EVENT_VERBS if verb != fact.verb]))


def _unname_agent(fact: Event, kind: Kind) -> Event:
    return replace(fact, agent=Mention(kind, GENERAL_NOUNS[kind], ()))
