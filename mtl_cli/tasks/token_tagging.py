"""Token tagging: a label for each word, such as its part of speech or its place in a named entity.

Shapes: M labels (words), C classes (tags).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.tasks import metrics
from mtl_cli.tasks.class_task import ClassTask, softmax
from mtl_cli.tasks.encode_words import WordEncoder, columns_of_rows
from mtl_cli.tasks.records import input_values, rounded
from mtl_cli.tasks.tag_schemes import OUTSIDE, TagError, TagScheme, iob2_labels, is_tag, repair_iob2, to_iob2
from mtl_cli.tasks.task import ExampleError
from mtl_cli.types import IGNORE_INDEX, NonNegativeInt, UserError

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

_SPAN_METRICS = ("span_f1", "span_precision", "span_recall")
_TAG_METRICS = ("token_accuracy", "f1_macro")


@dataclass(kw_only=True)
class TokenTagging(ClassTask):
    """A tag for each word of a text.

    The tag is predicted at the word's first sub-word. A text longer than `max_length` is cut at word boundaries into
    overlapping rows, and each word is labelled and scored in one of them (see `cut_windows`).

    With a `scheme` other than `none`, tags describe spans: they are converted to IOB2 and learnt so, `labels` become
    IOB2 tags, and spans are scored by seqeval in its default mode, as conlleval does: a predicted I- that continues
    no span of its type begins one. Records show predictions with such tags written as B-.

    Args:
        words: column of the words, a list of texts.
        tags: column of the tags, a list as long as that of the words.
        scheme: how the data write spans; `none` for tags that are no spans.
        window_overlap: tokens that neighbouring rows of a long text share, at most half a row.
    """

    level = "word"
    label_kind = "tags"

    words: str = "tokens"
    tags: str = "tags"
    scheme: TagScheme = "iob2"
    window_overlap: NonNegativeInt = 32

    def columns(self) -> dict[str, str]:
        """Give the column of each role."""
        return {"words": self.words, "tags": self.tags}

    @property
    def label_column(self) -> str:
        """The column of the tags."""
        return self.tags

    def allowed_metrics(self) -> Sequence[str]:
        """Names that `metrics` may hold: those of spans only where the tags describe spans."""
        return _TAG_METRICS if self.scheme == "none" else (*_SPAN_METRICS, *_TAG_METRICS)

    def default_metrics(self) -> Sequence[str]:
        """Span F1, its parts and the accuracy of tags; for plain tags the accuracy alone."""
        return ("token_accuracy",) if self.scheme == "none" else (*_SPAN_METRICS, "token_accuracy")

    def label_list(self, found: Iterable[str]) -> list[str]:
        """Give the tags in the order of their ids: from `labels`, or as found; spans in IOB2.

        Raises:
            UserError: a tag of `labels`, or all that was found but O, does not belong to the scheme.
        """
        labels = self._converted_labels(found if self.labels is None else self.labels)
        self._check_labels(labels)
        return labels

    def encoding_settings(self) -> dict[str, Any]:
        """Whatever changes the result of `encode` besides its arguments."""
        return {
            "kind": "words",
            "version": 1,
            "columns": self.columns(),
            "scheme": self.scheme,
            "window_overlap": self.window_overlap,
        }

    def encode(
        self,
        examples: Mapping[str, list[Any]],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
        label_ids: Mapping[str, int] | None,
    ) -> dict[str, list[Any]]:
        """Tokenise a batch of examples, one row each or, where a text is too long, several (see `Task.encode`)."""
        texts = examples[self.words]
        rows_of_examples = WordEncoder(tokenizer, max_length, self.window_overlap).rows(texts)
        encoded = columns_of_rows(rows_of_examples)
        if label_ids is not None and self.tags in examples:
            ids_of_examples = [
                self._tag_ids(tags, len(words), offset, label_ids)
                for offset, (words, tags) in enumerate(zip(texts, examples[self.tags], strict=True))
            ]
            encoded["labels"] = [
                [ids[number] for number in row.word_numbers]
                for ids, rows in zip(ids_of_examples, rows_of_examples, strict=True)
                for row in rows
            ]
        return encoded

    def compute_metrics(
        self, predictions_M: np.ndarray, labels_M: np.ndarray, split: EncodedSplit, labels: Sequence[str] | None
    ) -> dict[str, float]:
        """Compute `metrics` over a split; spans within each example, whatever rows it was cut into."""
        assert labels is not None
        assert self.metrics is not None
        confusion_CC = self.confusion_matrix(predictions_M, labels_M, labels)
        scores = {"token_accuracy": metrics.accuracy(confusion_CC), "f1_macro": metrics.f1_macro(confusion_CC)}
        if any(name in _SPAN_METRICS for name in self.metrics):
            names, gold, predicted = np.array(labels, dtype=object), [], []
            for words in _words_of_examples(split):
                valid = labels_M[words] != IGNORE_INDEX
                gold.append(names[labels_M[words][valid]].tolist())
                predicted.append(names[predictions_M[words][valid]].tolist())
            scores |= metrics.span_scores(gold, predicted)
        return {name: scores[name] for name in self.metrics}

    def prediction_records(
        self, logits_MC: np.ndarray, split: EncodedSplit, examples: "datasets.Dataset", labels: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Give one record an example: its words, `label` and `prediction` (a tag a word), and `scores`.

        Spans are in IOB2; predicted sequences that are not valid are repaired (see `repair_iob2`). `scores` holds the
        probability of the tag that the model chose for each word.
        """
        assert labels is not None
        predictions_M, scores_M = self.predict(logits_MC), softmax(logits_MC).max(axis=1)
        inputs = input_values(examples, self.input_columns())
        for index, (values, slots) in enumerate(zip(inputs, _words_of_examples(split), strict=True)):
            record = {"index": index, **values}
            if split.labels is not None:
                gold = split.labels[slots].tolist()
                record["label"] = [None if label == IGNORE_INDEX else labels[label] for label in gold]
            predicted = [labels[prediction] for prediction in predictions_M[slots]]
            record["prediction"] = predicted if self.scheme == "none" else repair_iob2(predicted)
            record["scores"] = rounded(scores_M[slots])
            yield record

    def metric_of_counts(
        self, metric: str, records: Sequence[Mapping[str, Any]], labels: Sequence[str] | None
    ) -> Callable[[np.ndarray], float]:
        """Prepare a metric to be computed again with other numbers of each example (see `Task.metric_of_counts`).

        Words count as often as their example. Records hold predicted sequences repaired, which changes no span.
        """
        assert labels is not None
        if metric in _SPAN_METRICS:
            spans_E3 = np.array([metrics.span_counts(*_labelled(record)) for record in records], dtype=np.int64)
            return lambda counts_E: metrics.span_score_of_counts(metric, *(counts_E @ spans_E3).tolist())
        pairs = [list(zip(*_labelled(record), strict=True)) for record in records]
        # A repaired tag need not be among the labels.
        names = dict.fromkeys([*labels, *(tag for words in pairs for pair in words for tag in pair)])
        ids = {name: number for number, name in enumerate(names)}
        cells_M = np.array([ids[gold] * len(ids) + ids[predicted] for words in pairs for gold, predicted in words])
        sizes_E = np.array([len(words) for words in pairs])
        of_confusion = metrics.accuracy if metric == "token_accuracy" else metrics.f1_macro

        def of_counts(counts_E: np.ndarray) -> float:
            counts_M = np.repeat(counts_E, sizes_E)
            return of_confusion(metrics.confusion_matrix_of_counts(cells_M, counts_M, len(ids)))

        return of_counts

    def _label_hint(self) -> str:
        return f"Mend it, or list all tags in `labels`; is `{self.tags}` the right column?"

    def _converted_labels(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        if self.scheme == "none":
            return names
        if self.labels is None:
            # One broken tag among good ones is refused by `encode`, which knows where it stands.
            good = [name for name in names if is_tag(name, self.scheme)]
            names = good if set(good) - {OUTSIDE} else names
        try:
            return iob2_labels(names, self.scheme, keep_order=self.labels is not None)
        except TagError as error:
            where = f"column `{self.tags}`" if self.labels is None else "`labels`"
            raise UserError(f"{where}: {error}") from None

    def _tag_ids(self, tags: Sequence[str], num_words: int, offset: int, label_ids: Mapping[str, int]) -> list[int]:
        if len(tags) != num_words:
            raise ExampleError(
                offset,
                self.tags,
                f"there are {len(tags)} tags for {num_words} words (column `{self.words}`). Give each word one.",
            )
        try:
            converted = to_iob2(tags, self.scheme)
        except TagError as error:
            raise ExampleError(offset, self.tags, str(error)) from None
        return [self._label_id(tag, offset, label_ids) for tag in converted]


def _labelled(record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Tags and predictions of the words of a prediction record that have a label."""
    pairs = [pair for pair in zip(record["label"], record["prediction"], strict=True) if pair[0] is not None]
    return [gold for gold, _ in pairs], [predicted for _, predicted in pairs]


def _words_of_examples(split: EncodedSplit) -> Iterator[slice]:
    """For each example the place of its words among the split's labels, where rows and their words are in order."""
    assert split.label_starts is not None
    examples_M = np.repeat(split.example_numbers, np.diff(split.label_starts))
    bounds = np.searchsorted(examples_M, np.arange(split.num_examples + 1)).tolist()
    return (slice(begin, end) for begin, end in pairwise(bounds))
