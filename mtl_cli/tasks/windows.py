"""Windows over a text that is longer than a row: where they lie, and which of them each word is labelled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Window:
    """Words that stand in one row.

    Attributes:
        begin, end: the words that the encoder sees, end excluded.
        labelled_begin, labelled_end: those of them whose label belongs to this window.
    """

    begin: int
    end: int
    labelled_begin: int
    labelled_end: int


def cut_windows(word_lengths: Sequence[int], capacity: int, overlap: int) -> list[Window]:
    """Cut a text at word boundaries into windows of at most `capacity` tokens; each word is labelled in exactly one.

    A window repeats the last words of the one before, so that no word is read without context: at most `overlap` tokens
    and at most half of `capacity`, fewer where the next word needs the room. Of the windows that hold a word, the one
    where the smaller of its contexts to the left and right, in tokens, is greatest has its label (the rule of BERT's
    SQuAD code, Devlin et al., NAACL 2019, there for documents); of equals, the first.

    Args:
        word_lengths: tokens of each word, each from 1 to `capacity`.
        capacity: tokens of a window.
        overlap: tokens that two neighbouring windows share.

    Returns:
        Windows in order, each with at least one labelled word; a single one without words for a text without words.
    """
    num_words = len(word_lengths)
    starts = np.concatenate(([0], np.cumsum(word_lengths, dtype=np.int64)))  # first token of each word, and the end
    spans = _spans(starts, capacity, min(overlap, capacity // 2))
    if len(spans) == 1:
        return [Window(0, num_words, 0, num_words)]
    best_context = np.full(num_words, -1, dtype=np.int64)
    best_window = np.zeros(num_words, dtype=np.int64)
    for number, (begin, end) in enumerate(spans):
        left = starts[begin:end] - starts[begin]
        right = starts[end] - starts[begin + 1 : end + 1]
        better = begin + np.flatnonzero(np.minimum(left, right) > best_context[begin:end])
        best_context[better] = np.minimum(left, right)[better - begin]
        best_window[better] = number
    # A later window has less context to the left and more to the right, so that its advantage grows from word to
    # word: the words labelled in one window are neighbours, and windows follow each other.
    labelled = np.searchsorted(best_window, np.arange(len(spans) + 1))
    return [
        Window(begin, end, int(first), int(last))
        for (begin, end), first, last in zip(spans, labelled[:-1], labelled[1:], strict=True)
        if first < last
    ]


def _spans(starts: np.ndarray, capacity: int, overlap: int) -> list[tuple[int, int]]:
    """First and last word (excluded) of each window."""
    num_words = len(starts) - 1
    begin, spans = 0, []
    while True:
        end = int(np.searchsorted(starts, starts[begin] + capacity, side="right")) - 1
        spans.append((begin, end))
        if end == num_words:
            return spans
        # Where a long word follows, a window may begin later than this one and end with it. All its words have less
        # context than here, so that none is labelled in it and it is left out in the end.
        begin = max(begin + 1, int(np.searchsorted(starts, starts[end] - overlap)))
