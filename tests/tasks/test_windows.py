from __future__ import annotations

import random
from itertools import pairwise

import pytest

from mtl_cli.tasks.windows import Window, cut_windows


def test_a_text_that_fits_is_one_window() -> None:
    assert cut_windows([2, 1, 3], capacity=6, overlap=2) == [Window(0, 3, 0, 3)]


def test_a_text_without_words_is_one_window() -> None:
    assert cut_windows([], capacity=6, overlap=2) == [Window(0, 0, 0, 0)]


def test_windows_of_a_case_worked_by_hand() -> None:
    # Ten words of one token, rows of six, two shared: words 0-5 and 4-9. Word 4 has 1 token to its right in the first
    # window and 0 to its left in the second: first. Word 5 has 0 to its right in the first and 1 to its left in the
    # second: second.
    assert cut_windows([1] * 10, capacity=6, overlap=2) == [Window(0, 6, 0, 5), Window(4, 10, 5, 10)]


def test_no_more_than_half_a_window_is_repeated() -> None:
    # Rows of four: two shared, whatever is asked for. 0-3, 2-5, 4-7.
    windows = cut_windows([1] * 8, capacity=4, overlap=100)
    assert [(window.begin, window.end) for window in windows] == [(0, 4), (2, 6), (4, 8)]


def test_a_window_repeats_less_where_the_next_word_needs_the_room() -> None:
    # The last word fills five of six tokens: one word of one token can stand before it.
    assert cut_windows([1, 1, 1, 1, 1, 1, 5], capacity=6, overlap=3)[1] == Window(5, 7, 6, 7)


def test_without_overlap_windows_follow_each_other() -> None:
    assert cut_windows([1] * 5, capacity=2, overlap=0) == [Window(0, 2, 0, 2), Window(2, 4, 2, 4), Window(4, 5, 4, 5)]


def context(lengths: list[int], window: Window, word: int) -> int:
    return min(sum(lengths[window.begin : word]), sum(lengths[word + 1 : window.end]))


@pytest.mark.parametrize("seed", range(300))
def test_each_word_is_labelled_once_where_it_has_most_context(seed: int) -> None:
    generator = random.Random(seed)
    capacity = generator.randint(1, 20)
    lengths = [
        generator.randint(1, generator.choice([1, 3, capacity]) if capacity > 3 else capacity) for _ in range(40)
    ]
    lengths = [min(length, capacity) for length in lengths]
    overlap = generator.randint(0, 20)
    windows = cut_windows(lengths, capacity, overlap)

    labelled = [word for window in windows for word in range(window.labelled_begin, window.labelled_end)]
    assert labelled == list(range(40))
    for window in windows:
        assert window.begin <= window.labelled_begin < window.labelled_end <= window.end
        assert sum(lengths[window.begin : window.end]) <= capacity
    for previous, following in pairwise(windows):
        assert sum(lengths[following.begin : previous.end]) <= min(overlap, capacity // 2)
    for window in windows:
        for word in range(window.labelled_begin, window.labelled_end):
            rivals = [other for other in windows if other.begin <= word < other.end]
            assert context(lengths, window, word) == max(context(lengths, rival, word) for rival in rivals)
