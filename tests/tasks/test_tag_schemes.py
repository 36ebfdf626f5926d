from __future__ import annotations

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, IOBES, Entities

from mtl_cli.tasks.tag_schemes import TagError, TagScheme, iob2_labels, repair_iob2, split_tag, to_iob2

Span = tuple[str, int, int]


@pytest.mark.parametrize(
    ("scheme", "tags", "expected"),
    [
        # Two persons side by side, then an organisation: IOB1 writes B- only between neighbours of one type.
        ("iob1", "I-PER I-PER B-PER O I-ORG", "B-PER I-PER B-PER O B-ORG"),
        ("iob1", "I-PER I-ORG I-ORG", "B-PER B-ORG I-ORG"),
        ("iob2", "B-PER I-PER B-PER O B-ORG", "B-PER I-PER B-PER O B-ORG"),
        ("iob2", "I-PER I-ORG B-ORG", "B-PER B-ORG B-ORG"),
        ("io", "I-PER I-PER O I-PER I-ORG", "B-PER I-PER O B-PER B-ORG"),
        ("io", "person person O art-film art-film", "B-person I-person O B-art-film I-art-film"),
        ("iobes", "B-PER E-PER S-PER O B-LOC I-LOC E-LOC", "B-PER I-PER B-PER O B-LOC I-LOC I-LOC"),
        ("iobes", "B-PER L-PER U-PER O B-LOC M-LOC L-LOC", "B-PER I-PER B-PER O B-LOC I-LOC I-LOC"),
        # Broken: an end without a beginning, an inside after an end, an inside of another type.
        ("iobes", "E-PER I-PER E-LOC", "B-PER B-PER B-LOC"),
        ("iob2", "B I O B", "B-SPAN I-SPAN O B-SPAN"),
        ("iobes", "B E S", "B-SPAN I-SPAN B-SPAN"),
        ("none", "NOUN B-x -", "NOUN B-x -"),
        ("iob2", "B-a-b I-a-b", "B-a-b I-a-b"),
    ],
)
def test_conversion_of_cases_worked_by_hand(scheme: TagScheme, tags: str, expected: str) -> None:
    assert to_iob2(tags.split(), scheme) == expected.split()


@pytest.mark.parametrize(("scheme", "prefixes"), [("iob1", "BI"), ("iob2", "BI"), ("iobes", "BIES")])
def test_conversion_keeps_the_spans_that_seqeval_reads_in_any_sequence(scheme: TagScheme, prefixes: str) -> None:
    generator = random.Random(0)
    names = ["O", *(f"{prefix}-{name}" for prefix in prefixes for name in ("PER", "LOC"))]
    for _ in range(2000):
        tags = [generator.choice(names) for _ in range(generator.randint(0, 8))]
        converted = to_iob2(tags, scheme)
        assert get_entities(converted) == get_entities(tags), tags


def random_spans(generator: random.Random, num_words: int) -> list[Span]:
    spans, word = [], 0
    while word < num_words:
        end = min(num_words, word + generator.randint(1, 3))
        if generator.random() < 0.6:
            spans.append((generator.choice(["PER", "LOC"]), word, end))
        word = end
    return spans


def write(spans: list[Span], num_words: int, scheme: TagScheme) -> list[str]:
    """Spans in a scheme, by its definition."""
    tags = ["O"] * num_words
    for number, (name, begin, end) in enumerate(spans):
        touches = number > 0 and spans[number - 1][0] == name and spans[number - 1][2] == begin
        for word in range(begin, end):
            prefix = "B" if word == begin else "I"
            if scheme == "iob1":
                prefix = "B" if word == begin and touches else "I"
            if scheme == "iobes" and word == end - 1:
                prefix = "S" if word == begin else "E"
            tags[word] = f"{prefix}-{name}"
    return tags


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "iobes"])
def test_conversion_is_exact_for_every_set_of_spans(scheme: TagScheme) -> None:
    generator = random.Random(1)
    for _ in range(500):
        num_words = generator.randint(1, 12)
        spans = random_spans(generator, num_words)
        assert to_iob2(write(spans, num_words, scheme), scheme) == write(spans, num_words, "iob2")


def test_converted_iobes_has_the_spans_of_seqeval_in_its_strict_mode() -> None:
    generator = random.Random(2)
    for _ in range(200):
        num_words = generator.randint(1, 12)
        tags = write(random_spans(generator, num_words), num_words, "iobes")
        strict = [
            Entities([sequence], scheme).entities
            for sequence, scheme in ((tags, IOBES), (to_iob2(tags, "iobes"), IOB2))
        ]
        assert strict[0] == strict[1]


def test_repair_gives_a_valid_sequence_with_the_spans_that_are_scored() -> None:
    generator = random.Random(3)
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    for _ in range(500):
        tags = [generator.choice(names) for _ in range(generator.randint(0, 8))]
        repaired = repair_iob2(tags)
        assert get_entities(repaired) == get_entities(tags)
        # Valid: strict and lenient reading agree.
        strict = [(entity.tag, entity.start, entity.end - 1) for entity in Entities([repaired], IOB2).entities[0]]
        assert strict == get_entities(repaired)
        assert repair_iob2(repaired) == repaired


@pytest.mark.parametrize(
    ("tag", "scheme"),
    [("X-PER", "iob2"), ("B-", "iob2"), ("", "iob2"), ("PER", "iob1"), ("S-PER", "iob2"), ("Q", "iobes"), ("", "io")],
)
def test_a_string_that_is_no_tag_is_refused_with_the_tags_there_are(tag: str, scheme: TagScheme) -> None:
    with pytest.raises(TagError, match=f"'{tag}' is no tag of the scheme `{scheme}`: O, "):
        split_tag(tag, scheme)


def test_a_number_is_no_tag() -> None:
    with pytest.raises(TagError, match="3, which is no text"):
        to_iob2([3], "iob2")  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("names", "scheme", "keep_order", "expected"),
    [
        (["I-PER", "O", "B-LOC"], "iob2", False, "O B-LOC I-LOC B-PER I-PER"),
        (["O", "I-PER", "I-LOC"], "iob1", False, "O B-LOC I-LOC B-PER I-PER"),
        (["S-PER", "E-LOC", "B-LOC"], "iobes", False, "O B-LOC I-LOC B-PER I-PER"),
        (["O", "person", "art"], "io", True, "O B-person I-person B-art I-art"),
        # The user's order stays; what is missing follows.
        (["B-PER", "I-PER", "B-LOC", "O"], "iob2", True, "B-PER I-PER B-LOC O I-LOC"),
        (["B-PER", "I-PER"], "iob2", True, "B-PER I-PER O"),
    ],
)
def test_the_label_list_has_outside_and_both_tags_of_each_type(
    names: list[str], scheme: TagScheme, keep_order: bool, expected: str
) -> None:
    assert iob2_labels(names, scheme, keep_order) == expected.split()
