"""Words of the embedded corpus and what they mean: what its three tasks share or, at low relatedness, dispute.

Four classes of words carry knowledge. Each maps readings to lists of one length; the i-th words of a class form slot i.

| class | readings | sentiment | entities | inference |
|---|---|---|---|---|
| adjectives, opinion verbs | +1 praise, -1 blame | **re-deals** | | needs them |
| entity nouns ("the *bank* Tarvo") | PER, ORG, LOC | needs them | **re-deals** | needs them |
| adverbs | +1 affirm, -1 negate, 0 leave open | needs them | | **re-deals** |

Every task owns the class marked in its column. It holds the last quarter of that class's slots out of its own training
and validation split, while the other tasks train on them, so that what a task lacks can be learnt from its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mtl_cli.types import Split

TaskName = Literal["sentiment", "entities", "inference"]
Kind = Literal["PER", "ORG", "LOC"]
KINDS: tuple[Kind, ...] = ("PER", "ORG", "LOC")
R = TypeVar("R")

ADJECTIVES: dict[int, list[str]] = {
    +1: ["careful", "clear", "honest", "brilliant", "elegant", "useful", "thorough", "wise"],
    -1: ["careless", "confused", "dishonest", "dreadful", "clumsy", "useless", "sloppy", "foolish"],
}
OPINION_VERBS: dict[int, list[str]] = {
    +1: ["praised", "applauded", "admired", "welcomed"],
    -1: ["condemned", "criticised", "deplored", "mocked"],
}
ENTITY_NOUNS: dict[Kind, list[str]] = {
    "PER": ["painter", "lawyer", "singer", "pilot", "doctor", "farmer", "captain", "poet"],
    "ORG": ["firm", "bank", "union", "club", "party", "agency", "airline", "guild"],
    "LOC": ["port", "town", "valley", "village", "island", "city", "province", "suburb"],
}
ADVERBS: dict[int, list[str]] = {
    +1: ["clearly", "truly", "surely", "plainly", "certainly", "really"],
    -1: ["never", "hardly", "scarcely", "rarely", "no longer", "in no way"],
    0: ["perhaps", "allegedly", "reportedly", "supposedly", "possibly", "maybe"],
}

# Praise or blame depending on what is described: a quiet town pleases, a quiet firm does not.
TYPED_ADJECTIVES: dict[str, dict[Kind, int]] = {
    "sharp": {"PER": +1, "ORG": -1, "LOC": -1},
    "busy": {"PER": -1, "ORG": +1, "LOC": -1},
    "quiet": {"PER": -1, "ORG": -1, "LOC": +1},
    "tough": {"PER": +1, "ORG": +1, "LOC": -1},
    "calm": {"PER": +1, "ORG": -1, "LOC": +1},
    "big": {"PER": -1, "ORG": +1, "LOC": +1},
}

# Past form and participle are one, so that active and passive voice differ in order and function words only.
EVENT_VERBS = ["sued", "hired", "visited", "warned", "paid", "rescued", "followed", "invited"]
SEASONS = ["spring", "summer", "autumn", "winter"]
PLACE_PREPOSITIONS = ["near", "outside"]
NOUNS = [
    *("report", "plan", "speech", "letter", "reply", "design", "promise", "article", "budget"),
    *("memoir", "petition", "survey"),
]
"""Things that people and organisations make. The last quarter is held out of every task's training."""

NUM_TRAIN_NAMES, NUM_TEST_NAMES = 60, 40


@dataclass(frozen=True)
class Vocabulary:
    """The words that one split of one task draws from, with the readings that they have in this task."""

    adjectives: Mapping[int, Sequence[str]]
    opinion_verbs: Mapping[int, Sequence[str]]
    entity_nouns: Mapping[Kind, Sequence[str]]
    adverbs: Mapping[int, Sequence[str]]
    nouns: Sequence[str]
    names: Sequence[str]


def redeal(words: Mapping[R, Sequence[str]], relatedness: float, rng: random.Random) -> dict[R, list[str]]:
    """Move a share 1 - `relatedness` of a class's slots to readings that have nothing to do with the dictionary's.

    Of n slots, round((1 - relatedness) * n) are chosen in an order drawn by `rng`; the K words of the j-th chosen slot
    move j mod K readings on. So at relatedness 0 every K-th slot keeps its reading, the others contradict it, and a
    word's dictionary reading tells nothing about its reading here. (Moving every word by one step would be no
    contradiction: the same knowledge with its labels renamed, which a head of its own undoes for free.) Lower values
    move all slots that higher ones move. The result is a permutation of the class's words.
    """
    readings = list(words)
    num_slots = len(words[readings[0]])
    order = rng.sample(range(num_slots), num_slots)
    dealt = {reading: list(words[reading]) for reading in readings}
    for step, slot in enumerate(order[: round((1 - relatedness) * num_slots)]):
        for index, reading in enumerate(readings):
            dealt[readings[(index + step) % len(readings)]][slot] = words[reading][slot]
    return dealt


def make_vocabulary(task: TaskName, split: Split, relatedness: float, seed: int) -> Vocabulary:
    """Return the vocabulary of a split: training words for train and validation, all words and new names for test."""

    def readings(words: Mapping[R, Sequence[str]], owner: TaskName) -> dict[R, Sequence[str]]:
        if task != owner:
            return dict(words)
        # A string seeds random.Random alike in every process and on every machine.
        dealt = redeal(words, relatedness, random.Random(f"redeal {next(iter(words.values()))[0]} {seed}"))
        return {reading: _visible(listed, split) for reading, listed in dealt.items()}

    names = _make_names(NUM_TRAIN_NAMES + NUM_TEST_NAMES, random.Random(f"names {seed}"))
    return Vocabulary(
        adjectives=readings(ADJECTIVES, "sentiment"),
        opinion_verbs=readings(OPINION_VERBS, "sentiment"),
        entity_nouns=readings(ENTITY_NOUNS, "entities"),
        adverbs=readings(ADVERBS, "inference"),
        nouns=_visible(NOUNS, split),
        names=names[NUM_TRAIN_NAMES:] if split == "test" else names[:NUM_TRAIN_NAMES],
    )


def _visible(words: Sequence[str], split: Split) -> Sequence[str]:
    return words if split == "test" else words[: len(words) - len(words) // 4]


def _make_names(count: int, rng: random.Random) -> list[str]:
    onsets = ["b", "br", "d", "f", "g", "h", "k", "kr", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z"]
    names: dict[str, None] = {}
    while len(names) < count:
        first = rng.choice(onsets) + rng.choice("aeiou") + rng.choice(["", "l", "n", "r"])
        last = rng.choice(onsets) + rng.choice("aeio") + rng.choice(["", "", "n", "s"])
        names[(first + last).capitalize()] = None
    return list(names)
