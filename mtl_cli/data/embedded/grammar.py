"""The grammar that all three tasks speak: mentions, clauses and sentences, as tagged words.

A clause is content plus an adverb's reading: +1 it holds, -1 it does not, 0 it is left open. Content is of two kinds:

* an event, perhaps with its place or time: "the poet Golu hired the union Mesta near Trin";
* a judgement of a thing ("the report of the bank Tarvo was careful", "the bank Tarvo praised the report") or, with an
  adjective whose polarity depends on what it describes, of a mention ("the port Tarvo was quiet").
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mtl_cli.data.embedded.lexicon import (
    EVENT_VERBS,
    KINDS,
    PLACE_PREPOSITIONS,
    SEASONS,
    TYPED_ADJECTIVES,
    Kind,
    Vocabulary,
)

Words = list[tuple[str, str]]
"""Words with their IOB2 tags."""

DOUBLE_NAME = 0.2
"""Share of names of two words."""


def plain(text: str) -> Words:
    """Return the words of `text` tagged as outside every entity."""
    return [(word, "O") for word in text.split()]


def sentence(words: Words) -> Words:
    """Return the words with a capital at the start and a full stop."""
    (first, tag), *rest = words
    return [(first[0].upper() + first[1:], tag), *rest, (".", "O")]


def text(words: Words) -> str:
    """Return the words as running text."""
    return " ".join(word for word, _ in words).replace(" ,", ",").replace(" .", ".")


@dataclass(frozen=True)
class Mention:
    """An entity: a noun that tells its kind, then a name of one or two words that tells nothing ("the bank Tarvo").

    Without a name it is any entity of this kind ("some organisation").
    """

    kind: Kind
    noun: str
    name: tuple[str, ...]

    @property
    def words(self) -> Words:
        """The mention as tagged words; the name alone is the span."""
        return [*plain(f"{'the' if self.name else 'some'} {self.noun}"), *tag_name(self.name, self.kind)]


@dataclass(frozen=True)
class Event:
    """`agent` did `verb` to `patient`; `detail` says when or where."""

    agent: Mention
    verb: str
    patient: Mention
    detail: Words

    def words(self, adverb: Words, passive: bool) -> Words:
        """Return the clause in the active ("the poet Golu never sued ...") or the passive voice."""
        if passive:
            voice = [*plain("was"), *adverb, *plain(f"{self.verb} by")]
            return [*self.patient.words, *voice, *self.agent.words, *self.detail]
        return [*self.agent.words, *adverb, *plain(self.verb), *self.patient.words, *self.detail]


@dataclass(frozen=True)
class Judgement:
    """A `polarity` of +1 (praise) or -1 (blame), put on the subject by `predicate`."""

    subject: Words
    verb: str
    predicate: Words
    polarity: int

    def words(self, adverb: Words) -> Words:
        """Return the clause: "the report was hardly careful", "the bank Tarvo hardly praised the report"."""
        if self.verb == "was":
            return [*self.subject, *plain(self.verb), *adverb, *self.predicate]
        return [*self.subject, *adverb, *plain(self.verb), *self.predicate]


def tag_name(name: tuple[str, ...], kind: Kind) -> Words:
    """Return a name's words as one span."""
    return [(word, f"{'B' if index == 0 else 'I'}-{kind}") for index, word in enumerate(name)]


class Grammar:
    """Draws mentions and clauses from a vocabulary."""

    def __init__(self, vocabulary: Vocabulary, rng: random.Random) -> None:
        self.vocabulary = vocabulary
        self.rng = rng

    def name(self) -> tuple[str, ...]:
        """Draw a name of one or two words."""
        return tuple(self.rng.sample(self.vocabulary.names, 2 if self.rng.random() < DOUBLE_NAME else 1))

    def mention(self) -> Mention:
        """Draw an entity; its kind shows in its noun alone."""
        kind = self.rng.choice(KINDS)
        return Mention(kind, self.rng.choice(self.vocabulary.entity_nouns[kind]), self.name())

    def adverb(self, reading: int) -> Words:
        """Draw an adverb with this reading; a clause that holds mostly does without one."""
        if reading == 1 and self.rng.random() < 0.7:
            return []
        return plain(self.rng.choice(self.vocabulary.adverbs[reading]))

    def detail(self) -> Words:
        """Draw a time ("in spring") or a place ("near Tarvo": a place by its preposition, without a noun)."""
        if self.rng.random() < 0.5:
            return plain(f"in {self.rng.choice(SEASONS)}")
        return [*plain(self.rng.choice(PLACE_PREPOSITIONS)), *tag_name(self.name(), "LOC")]

    def event(self, detail: Words) -> Event:
        """Draw an event between two entities of unlike kinds."""
        agent, patient = self.mention(), self.mention()
        while patient.kind == agent.kind or patient.name == agent.name:
            patient = self.mention()
        return Event(agent, self.rng.choice(EVENT_VERBS), patient, detail)

    def thing(self, owned: bool) -> Words:
        """Draw something that can be judged: "the report", "the report of the bank Tarvo"."""
        words = plain(f"the {self.rng.choice(self.vocabulary.nouns)}")
        return [*words, *plain("of"), *self.mention().words] if owned else words

    def described(self, polarity: int, owned: bool) -> Judgement:
        """Draw a judgement of a thing by an adjective."""
        adjective = self.rng.choice(self.vocabulary.adjectives[polarity])
        return Judgement(self.thing(owned), "was", plain(adjective), polarity)

    def opined(self, polarity: int) -> Judgement:
        """Draw a judgement of a thing by an entity."""
        verb = self.rng.choice(self.vocabulary.opinion_verbs[polarity])
        return Judgement(self.mention().words, verb, self.thing(owned=False), polarity)

    def typed(self, polarity: int) -> Judgement:
        """Draw a judgement of an entity by an adjective that needs the entity's kind."""
        mention = self.mention()
        fitting = [word for word, signs in TYPED_ADJECTIVES.items() if signs[mention.kind] == polarity]
        return Judgement(mention.words, "was", plain(self.rng.choice(fitting)), polarity)
