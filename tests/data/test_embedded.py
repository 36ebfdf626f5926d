"""The embedded corpus is checked by readers of its sentences, written here, and by scikit-learn and seqeval."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from scipy.sparse import hstack
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from mtl_cli.data.embedded import EmbeddedSource
from mtl_cli.data.embedded.lexicon import (
    ADJECTIVES,
    ADVERBS,
    ENTITY_NOUNS,
    NOUNS,
    NUM_TEST_NAMES,
    NUM_TRAIN_NAMES,
    OPINION_VERBS,
    TYPED_ADJECTIVES,
    make_vocabulary,
    redeal,
)
from mtl_cli.data.embedded.sentiment import CONTRASTS
from mtl_cli.types import SPLITS, UserError

TASKS = ("sentiment", "entities", "inference")
CONF = Path(__file__).parents[2] / "conf" / "task" / "embedded"
SMALL = {"num_train": 600, "num_validation": 150, "num_test": 150}


def sentences(task, row):
    """The parts of a row that a model sees, as one key."""
    columns = {"sentiment": ["text"], "entities": ["tokens"], "inference": ["premise", "hypothesis"]}[task]
    return tuple(str(row[column]) for column in columns)


def words(task, rows):
    text = " ".join(part for row in rows for part in sentences(task, row))
    return {word.strip("[]',.\"") for word in text.lower().split()}


@pytest.mark.parametrize("task", TASKS)
def test_rows_do_not_depend_on_the_process(task):
    program = (
        "import json, sys; from mtl_cli.data.embedded import EmbeddedSource;"
        "source = EmbeddedSource(task=sys.argv[1], relatedness=0.5, label_noise=0.2, num_train=50);"
        "print(json.dumps(source.rows('train')))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program, task],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    here = EmbeddedSource(task=task, relatedness=0.5, label_noise=0.2, num_train=50).rows("train")
    assert printed[0] == printed[1]
    assert json.loads(printed[0]) == here


def test_worlds_of_two_seeds_differ():
    first, second = (EmbeddedSource(task="sentiment", seed=seed, **SMALL).rows("train") for seed in (0, 1))
    assert not {row["text"] for row in first} & {row["text"] for row in second}


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_distinct_and_no_sentence_is_in_two_splits(task):
    source = EmbeddedSource(task=task)
    splits = {split: source.rows(split) for split in SPLITS}
    assert [len(rows) for rows in splits.values()] == [4000, 500, 500]
    for rows in splits.values():
        assert len({sentences(task, row) for row in rows}) == len(rows)
    keys = [{sentences(task, row)[0] for row in rows} for rows in splits.values()]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


@pytest.mark.parametrize("task", TASKS)
def test_a_smaller_split_is_the_start_of_a_larger_and_leaves_the_others_alone(task):
    large = EmbeddedSource(task=task, **SMALL)
    small = EmbeddedSource(task=task, num_train=100, num_validation=150, num_test=150)
    assert small.rows("train") == large.rows("train")[:100]
    assert small.rows("validation") == large.rows("validation")
    assert small.rows("test") == large.rows("test")


@pytest.mark.parametrize("task", TASKS)
def test_the_test_split_alone_has_the_held_out_words(task):
    source = EmbeddedSource(task=task, num_train=2000, num_validation=500, num_test=1000)
    found = {split: words(task, source.rows(split)) for split in SPLITS}
    names = {split: set(map(str.lower, make_vocabulary(task, split, 1.0, 0).names)) for split in ("train", "test")}
    assert len(names["train"]) == NUM_TRAIN_NAMES
    assert len(names["test"]) == NUM_TEST_NAMES
    own = {
        "sentiment": [*ADJECTIVES.values(), *OPINION_VERBS.values()],
        "entities": [*ENTITY_NOUNS.values()],
        "inference": [*ADVERBS.values()],
    }[task]
    # The last quarter: 2 of 8 adjectives, 1 of 4 verbs, 2 of 8 entity nouns, 1 of 6 adverbs, 3 of 12 nouns.
    held_out = {word for listed in [*own, NOUNS] for word in listed[-(len(listed) // 4) :] if " " not in word}
    for split in ("train", "validation"):
        assert not found[split] & (names["test"] | held_out)
    assert not found["test"] & names["train"]
    assert held_out <= found["test"]
    assert names["test"] <= found["test"]


def test_what_one_task_holds_out_another_trains_on():
    inference = words("inference", EmbeddedSource(task="inference").rows("train"))
    sentiment = words("sentiment", EmbeddedSource(task="sentiment").rows("train"))
    assert {*ADJECTIVES[1][-2:], *ADJECTIVES[-1][-2:]} <= inference
    assert {noun for nouns in ENTITY_NOUNS.values() for noun in nouns[-2:]} <= inference & sentiment
    assert {ADVERBS[1][-1], ADVERBS[0][-1]} <= sentiment


def test_names_are_no_words():
    lexicon = words("sentiment", EmbeddedSource(task="sentiment").rows("train")) | set(NOUNS)
    names = {name.lower() for split in ("train", "test") for name in make_vocabulary("sentiment", split, 1.0, 0).names}
    known = {
        word
        for table in (ADJECTIVES, ADVERBS, ENTITY_NOUNS, OPINION_VERBS)
        for listed in table.values()
        for word in listed
    }
    assert not names & (known | set(NOUNS))
    assert lexicon & names  # so that the comparison above is one of like with like


# --- labels, read back from the text


READINGS = {adverb: reading for reading, adverbs in ADVERBS.items() for adverb in adverbs}
POLARITIES = {
    word: polarity for table in (ADJECTIVES, OPINION_VERBS) for polarity, listed in table.items() for word in listed
}
KIND_OF = {noun: kind for kind, nouns in ENTITY_NOUNS.items() for noun in nouns}


def read_reading(clause):
    return next((reading for adverb, reading in READINGS.items() if f" {adverb} " in f" {clause} "), 1)


def read_value(clause):
    """What a judging clause says: its opinion word's polarity, turned or voided by its adverb."""
    found = [word for word in clause.split() if word in POLARITIES or word in TYPED_ADJECTIVES]
    assert len(found) == 1, clause
    polarity = POLARITIES.get(found[0]) or TYPED_ADJECTIVES[found[0]][KIND_OF[clause.split()[1]]]
    return polarity * read_reading(clause)


def read_sentiment(text):
    text = text[:-1].lower()
    if ", but " in text or ", yet " in text:
        counts = text.replace(", yet ", ", but ").split(", but ")[1]
    elif text.startswith(("although ", "while ")):
        counts = text.split(", ")[1]
    else:
        counts = text.split(", ")[0]
    return ("negative", "neutral", "positive")[read_value(counts) + 1]


def test_sentiment_labels_follow_from_polarity_adverb_and_contrast():
    assert len(CONTRASTS) == 6  # those that the reader knows
    for split in SPLITS:
        for row in EmbeddedSource(task="sentiment", **SMALL).rows(split):
            assert row["label"] == read_sentiment(row["text"]), row


def test_entity_tags_are_strict_iob2_and_follow_from_the_noun_before_the_name():
    kinds = Counter()
    for row in EmbeddedSource(task="entities", **SMALL).rows("train"):
        tags, tokens = row["tags"], row["tokens"]
        strict = [(entity.tag, entity.start, entity.end) for entity in Entities([tags], IOB2).entities[0]]
        # seqeval's lenient reading finds the same spans only where no I- begins one.
        assert strict == [(kind, start, end + 1) for kind, start, end in get_entities(tags)]
        for kind, start, end in strict:
            before = tokens[start - 1]
            assert kind == ("LOC" if before in ("near", "outside") else KIND_OF[before])
            assert end - start in (1, 2)
            kinds[kind] += 1
    assert min(kinds.values()) > 200


def read_event(sentence):
    """(agent, verb, patient, season, reading) of a sentence about one event."""
    reading = read_reading(sentence)
    for adverb in READINGS:
        sentence = f" {sentence} ".replace(f" {adverb} ", " ").strip()
    season = None
    if " in " in sentence:
        sentence, season = sentence.split(" in ")
    passive = " by " in sentence
    verb = next(word for word in sentence.split() if word.endswith(("ed", "paid")) and word not in KIND_OF)
    first, second = sentence.replace(f" was {verb} by ", "|").replace(f" {verb} ", "|").split("|")
    agent, patient = (second, first) if passive else (first, second)
    return agent, verb, patient, season, reading


def expected_of_events(premise, hypothesis):
    """The label by the rules of the corpus, from the two sentences alone."""
    agent, verb, patient, season, holds = premise
    h_agent, h_verb, h_patient, h_season, h_holds = hypothesis
    general = {"person": "PER", "organisation": "ORG", "place": "LOC"}
    same = (agent, verb, patient) == (h_agent, h_verb, h_patient)
    if holds == -1:
        # It settles only events that it covers: the same one, in its season or, where it names none, in any.
        relation = int(same and (season is None or season == h_season))
    elif verb != h_verb:
        relation = 0
    elif h_agent.startswith("some "):
        relation = 1 if general[h_agent.split()[1]] == KIND_OF[agent.split()[1]] else -1
    elif not same:
        relation = -1
    elif h_season is None or h_season == season:
        relation = 1
    else:
        relation = 0 if season is None else -1
    return ("contradiction", "neutral", "entailment")[relation * holds * h_holds + 1]


def expected_of_judgements(premise, hypothesis):
    noun, h_noun = premise.split()[1], hypothesis.split()[1]
    last = hypothesis.split()[-1]
    if noun != h_noun or last not in ("good", "bad"):
        return "neutral"
    relation = read_value(premise) * (1 if last == "good" else -1) * read_reading(hypothesis)
    return ("contradiction", "neutral", "entailment")[relation + 1]


def test_inference_labels_follow_from_the_two_sentences():
    seen = Counter()
    for row in EmbeddedSource(task="inference", num_train=2000).rows("train"):
        premise, hypothesis = row["premise"][:-1].lower(), row["hypothesis"][:-1].lower()
        if any(word in premise for word in (", but ", ", and ", " while ")):
            continue
        judged = not POLARITIES.keys().isdisjoint(premise.split())
        if judged:
            expected = expected_of_judgements(premise, hypothesis)
        else:
            expected = expected_of_events(read_event(premise), read_event(hypothesis))
        assert row["label"] == expected, row
        seen[judged, expected] += 1
    assert len(seen) == 6
    assert min(seen.values()) > 150


def test_each_premise_has_a_hypothesis_of_each_label():
    labels = defaultdict(list)
    for row in EmbeddedSource(task="inference", num_train=3000).rows("train"):
        labels[row["premise"]].append(row["label"])
    complete = [sorted(found) == ["contradiction", "entailment", "neutral"] for found in labels.values()]
    # Only a premise whose last row the size cut off may lack one.
    assert sum(not whole for whole in complete) <= 1


def test_the_same_words_occur_with_opposite_labels():
    rows = EmbeddedSource(task="inference", num_train=4000).rows("train")
    same_words = [
        row
        for row in rows
        if sorted(row["premise"].lower()[:-1].split()) == sorted(row["hypothesis"].lower()[:-1].split())
    ]
    found = Counter(row["label"] for row in same_words)
    assert found["entailment"] > 50
    assert found["contradiction"] > 50
    # An adverb or a voice that differs adds words, so what contradicts with the same words has its roles swapped.
    assert all(row["premise"] != row["hypothesis"] for row in same_words if row["label"] == "contradiction")


# --- relatedness


CLASSES = {"sentiment": [ADJECTIVES, OPINION_VERBS], "entities": [ENTITY_NOUNS], "inference": [ADVERBS]}


@pytest.mark.parametrize("table", [table for tables in CLASSES.values() for table in tables])
@pytest.mark.parametrize("relatedness", [1.0, 0.7, 0.5, 0.2, 0.0])
def test_redealing_permutes_the_chosen_share_of_a_class(table, relatedness):
    dealt = redeal(table, relatedness, random.Random(5))
    num_slots, num_readings = len(next(iter(table.values()))), len(table)
    chosen = round((1 - relatedness) * num_slots)
    moved = [
        slot for slot in range(num_slots) if any(dealt[reading][slot] != table[reading][slot] for reading in table)
    ]
    # The first of every K chosen slots keeps its place.
    assert len(moved) == chosen - -(-chosen // num_readings)
    for slot in range(num_slots):
        assert {listed[slot] for listed in dealt.values()} == {listed[slot] for listed in table.values()}


def test_lower_relatedness_moves_what_higher_moves():
    high, low = (redeal(ADJECTIVES, value, random.Random(5)) for value in (0.5, 0.25))
    moved = [{word for word in ADJECTIVES[1] if word not in dealt[1]} for dealt in (high, low)]
    assert moved[0] < moved[1]


@pytest.mark.parametrize("task", TASKS)
def test_at_relatedness_0_a_task_is_the_same_up_to_a_permutation_of_its_own_words(task):
    related, unrelated = (EmbeddedSource(task=task, relatedness=value, **SMALL).rows("test") for value in (1.0, 0.0))
    own = {word for table in CLASSES[task] for listed in table.values() for word in listed}
    label = "tags" if task == "entities" else "label"
    mapping = {}
    for before, after in zip(related, unrelated, strict=True):
        assert before[label] == after[label]
        for old, new in zip(sentences(task, before), sentences(task, after), strict=True):
            for phrase in sorted((word for word in own if " " in word), key=len):
                old, new = old.replace(phrase, phrase.replace(" ", "_")), new.replace(phrase, phrase.replace(" ", "_"))
            for left, right in zip(old.lower().split(), new.lower().split(), strict=True):
                left, right = left.strip("[]',.\""), right.strip("[]',.\"")
                assert mapping.setdefault(left, right) == right
    changed = {old for old, new in mapping.items() if old != new}
    assert changed
    assert changed <= {word.replace(" ", "_") for word in own}


def test_at_relatedness_0_the_dictionary_says_nothing_of_the_task():
    vocabulary = make_vocabulary("sentiment", "test", 0.0, 0)
    kept = sum(word in vocabulary.adjectives[1] for word in ADJECTIVES[1])
    assert kept == 4  # of 8
    nouns = make_vocabulary("entities", "test", 0.0, 0).entity_nouns
    # Slots 0, 3 and 6 of the 8 in their drawn order keep their kind.
    assert [sum(noun in nouns[kind] for noun in ENTITY_NOUNS[kind]) for kind in nouns] == [3, 3, 3]


# --- noise


@pytest.mark.parametrize("task", ["sentiment", "inference"])
def test_label_noise_makes_exactly_its_share_of_the_training_labels_wrong(task):
    clean, noisy = (EmbeddedSource(task=task, label_noise=noise, **SMALL) for noise in (0.0, 0.25))
    wrong = sum(a["label"] != b["label"] for a, b in zip(clean.rows("train"), noisy.rows("train"), strict=True))
    assert wrong == 150  # 0.25 * 600
    assert [sentences(task, row) for row in clean.rows("train")] == [
        sentences(task, row) for row in noisy.rows("train")
    ]
    for split in ("validation", "test"):
        assert clean.rows(split) == noisy.rows(split)


def test_label_noise_gives_names_another_kind_and_leaves_spans_whole():
    clean, noisy = (EmbeddedSource(task="entities", label_noise=noise, **SMALL).rows("train") for noise in (0.0, 0.5))
    pairs = [
        (old, new)
        for a, b in zip(clean, noisy, strict=True)
        for old, new in zip(get_entities(a["tags"]), get_entities(b["tags"]), strict=True)
    ]
    assert all(old[1:] == new[1:] for old, new in pairs)
    assert sum(old[0] != new[0] for old, new in pairs) == round(0.5 * len(pairs))


# --- difficulty


def test_a_bag_of_words_does_not_solve_inference():
    source = EmbeddedSource(task="inference", num_train=4000, num_validation=1500)
    rows = {split: source.rows(split) for split in ("train", "validation")}
    counts = {split: [] for split in rows}
    for side in ("premise", "hypothesis"):
        vectorizer = CountVectorizer()
        counts["train"].append(vectorizer.fit_transform(row[side] for row in rows["train"]))
        counts["validation"].append(vectorizer.transform(row[side] for row in rows["validation"]))
    labels = {split: [row["label"] for row in found] for split, found in rows.items()}
    model = LogisticRegression(C=0.1, max_iter=2000).fit(hstack(counts["train"]).tocsr(), labels["train"])
    majority = max(Counter(labels["validation"]).values()) / 1500
    assert majority == pytest.approx(1 / 3, abs=0.01)
    assert model.score(hstack(counts["validation"]).tocsr(), labels["validation"]) < majority + 0.17


@pytest.mark.parametrize("task", ["sentiment", "inference"])
def test_labels_are_balanced(task):
    counts = Counter(row["label"] for row in EmbeddedSource(task=task).rows("train"))
    assert len(counts) == 3
    assert max(counts.values()) < 0.36 * 4000


# --- the source


@pytest.mark.parametrize("task", TASKS)
def test_loading_gives_typed_columns_with_the_same_fingerprint_each_time(task):
    first, second = (EmbeddedSource(task=task, num_train=20, num_validation=5, num_test=5).load() for _ in range(2))
    assert list(first) == list(SPLITS)
    assert [data.num_rows for data in first.values()] == [20, 5, 5]
    assert [data._fingerprint for data in first.values()] == [data._fingerprint for data in second.values()]
    if task != "entities":
        names = {
            "sentiment": ["negative", "neutral", "positive"],
            "inference": ["entailment", "neutral", "contradiction"],
        }
        assert first["train"].features["label"].names == names[task]


@pytest.mark.parametrize("task", TASKS)
def test_what_was_generated_is_found_in_the_cache_under_its_settings(task, monkeypatch):
    settings = {"task": task, "num_train": 21, "num_validation": 5, "num_test": 5}
    first = EmbeddedSource(**settings).load()
    expected = EmbeddedSource(**settings).rows("train")
    assert first["train"].column_names == list(expected[0])
    column = first["train"].column_names[0]
    assert list(first["train"][column]) == [row[column] for row in expected]
    monkeypatch.setattr(EmbeddedSource, "rows", lambda self, split: pytest.fail("generated again"))
    again = EmbeddedSource(**settings).load()
    assert [again[split].to_list() for split in SPLITS] == [first[split].to_list() for split in SPLITS]
    assert again["train"].features == first["train"].features
    monkeypatch.undo()
    others = EmbeddedSource(**{**settings, "seed": 1}).load()
    assert others["train"].to_list() != first["train"].to_list()


def test_locating_counts_rows_from_1():
    assert EmbeddedSource(task="sentiment").locate("train", 17) == "embedded sentiment (train), row 18"


def test_generation_is_fast():
    source = EmbeddedSource(task="inference", num_train=2000)
    started = time.process_time()
    for split in SPLITS:
        source.rows(split)
    assert time.process_time() - started < 2  # about 0.4 s on the machine this was written on


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match=r"`task` .* sentiment, entities, inference. Found 'sentimental'"):
        EmbeddedSource(task="sentimental")
    with pytest.raises(UserError, match=r"`relatedness` .* between 0 and 1. Found 1.5"):
        EmbeddedSource(task="sentiment", relatedness=1.5)
    with pytest.raises(UserError, match=r"`label_noise` .* Found -0.1"):
        EmbeddedSource(task="sentiment", label_noise=-0.1)


@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_yaml_holds_the_defaults(task):
    text = (CONF / f"{task}.yaml").read_text()
    header = text.partition("_target_")[0].splitlines()
    assert f"# @package tasks.{task}" in header
    assert any(line.startswith("# Embedded corpus") for line in header[:2])
    settings = yaml.safe_load(text)["source"]
    assert settings.pop("_target_") == "mtl_cli.data.EmbeddedSource"
    assert EmbeddedSource(**settings) == EmbeddedSource(task=task)
