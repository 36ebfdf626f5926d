"""Print the tables of docs/embedded_corpus.md: how far guessing and counting words get on the embedded corpus.

    python scripts/describe_embedded.py

Every baseline is fitted on the training split; the strength of its regularisation is chosen on the validation split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from scipy.sparse import csr_matrix, hstack
from seqeval.metrics import f1_score
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from mtl_cli.data.embedded import EmbeddedSource
from mtl_cli.data.embedded.lexicon import TaskName
from mtl_cli.data.embedded.source import Row

Splits = dict[str, list[Row]]
Texts = Callable[[Row], str]

# More rows than the default's 500, on which a score is known to within 4 points only.
NUM_SCORED = 3000
RELATEDNESS = (1.0, 0.5, 0.0)
INVERSE_REGULARISATION = (0.01, 0.1, 1.0)


def make_splits(task: TaskName, relatedness: float) -> Splits:
    source = EmbeddedSource(task=task, relatedness=relatedness, num_validation=NUM_SCORED, num_test=NUM_SCORED)
    return {"train": source.rows("train"), "validation": source.rows("validation"), "test": source.rows("test")}


def classify_majority(splits: Splits) -> dict[str, float]:
    (label, _), *_ = Counter(row["label"] for row in splits["train"]).most_common()
    return {split: sum(row["label"] == label for row in splits[split]) / len(splits[split]) for split in _SCORED}


def classify_counts(splits: Splits, views: Iterable[Texts], max_words: int = 1) -> dict[str, float]:
    """Logistic regression on counts of the n-grams of up to `max_words` words, apart in each view of a row."""
    counts: dict[str, list[csr_matrix]] = defaultdict(list)
    for view in views:
        vectorizer = CountVectorizer(ngram_range=(1, max_words))
        counts["train"].append(vectorizer.fit_transform(map(view, splits["train"])))
        for split in _SCORED:
            counts[split].append(vectorizer.transform(map(view, splits[split])))
    features = {split: hstack(parts).tocsr() for split, parts in counts.items()}
    labels = {split: [row["label"] for row in rows] for split, rows in splits.items()}
    models = [
        LogisticRegression(C=inverse, max_iter=2000).fit(features["train"], labels["train"])
        for inverse in INVERSE_REGULARISATION
    ]
    best = max(models, key=lambda model: model.score(features["validation"], labels["validation"]))
    return {split: float(best.score(features[split], labels[split])) for split in _SCORED}


def tag_majority(splits: Splits) -> dict[str, float]:
    return _score_tags(splits, lambda _: "O")


def tag_words(splits: Splits) -> dict[str, float]:
    """Give each word its most frequent tag in training, O if it is new."""
    tags: dict[str, Counter[str]] = defaultdict(Counter)
    for row in splits["train"]:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            tags[word][tag] += 1
    frequent = {word: counter.most_common(1)[0][0] for word, counter in tags.items()}
    return _score_tags(splits, lambda word: frequent.get(word, "O"))


def describe(relatedness: float) -> list[tuple[str, str, dict[str, float]]]:
    """Return (task, baseline, score a split)."""
    sentiment, entities, inference = (make_splits(task, relatedness) for task in ("sentiment", "entities", "inference"))
    text, pair = [lambda row: row["text"]], [lambda row: f"{row['premise']} {row['hypothesis']}"]
    sides: list[Texts] = [lambda row: row["premise"], lambda row: row["hypothesis"]]
    return [
        ("sentiment", "majority guess", classify_majority(sentiment)),
        ("sentiment", "bag of words", classify_counts(sentiment, text)),
        ("sentiment", "words and pairs of words", classify_counts(sentiment, text, max_words=2)),
        ("entities", "majority guess (O)", tag_majority(entities)),
        ("entities", "most frequent tag of the word", tag_words(entities)),
        ("inference", "majority guess", classify_majority(inference)),
        ("inference", "bag of words, both texts together", classify_counts(inference, pair)),
        ("inference", "bag of words, each text apart", classify_counts(inference, sides)),
        ("inference", "bag of words, hypothesis alone", classify_counts(inference, sides[1:])),
        ("inference", "words and pairs of words, each text apart", classify_counts(inference, sides, max_words=2)),
    ]


def main() -> None:
    for relatedness in RELATEDNESS:
        print(f"### relatedness {relatedness:g}\n\n| task | baseline | validation | test |\n|---|---|---|---|")
        for task, baseline, scores in describe(relatedness):
            print(f"| {task} | {baseline} | {scores['validation']:.3f} | {scores['test']:.3f} |")
        print()


_SCORED = ("validation", "test")


def _score_tags(splits: Splits, tag: Callable[[str], str]) -> dict[str, float]:
    """F1 of exact spans; 0 where none is predicted."""
    return {
        split: float(
            f1_score(
                [row["tags"] for row in splits[split]],
                [[tag(word) for word in row["tokens"]] for row in splits[split]],
                zero_division=0,
            )
        )
        for split in _SCORED
    }


if __name__ == "__main__":
    main()
