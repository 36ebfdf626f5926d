import numpy as np
import pytest

from mtl_cli.data.splits import carve, limit


def test_carved_and_remaining_rows_are_all_rows_in_order():
    rows = np.arange(100, 300)
    stay, carved = carve(rows, 0.1, seed=1)
    assert (len(stay), len(carved)) == (180, 20)
    assert np.array_equal(np.union1d(stay, carved), rows)
    assert np.all(np.diff(stay) > 0)
    assert np.all(np.diff(carved) > 0)


def test_the_seed_alone_decides():
    rows = np.arange(1000)
    np.random.seed(0)  # the global generator must not matter
    first = carve(rows, 0.1, seed=1)[1]
    assert np.array_equal(first, carve(rows, 0.1, seed=1)[1])
    assert not np.array_equal(first, carve(rows, 0.1, seed=2)[1])


@pytest.mark.parametrize(("num_rows", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2), (5, 0.5, 2)])
def test_at_least_one_row_is_carved_and_one_stays(num_rows, fraction, expected):
    stay, carved = carve(np.arange(num_rows), fraction, seed=0)
    assert (len(stay), len(carved)) == (num_rows - expected, expected)


def test_classes_are_carved_in_proportion():
    # 60 : 30 : 10 rows; a tenth of them is 6 : 3 : 1.
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    for seed in range(5):
        _, carved = carve(np.arange(100), 0.1, seed, classes)
        assert np.bincount(classes[carved]).tolist() == [6, 3, 1]


def test_the_only_row_of_a_class_stays():
    classes = np.array([0] * 10 + [1])
    for seed in range(20):
        stay, carved = carve(np.arange(11), 0.5, seed, classes)
        # round(11 * 0.5) = round(5.5) = 6, Python rounding halves to even.
        assert (10 in stay, len(carved)) == (True, 6)


def test_more_classes_than_carved_rows_still_carve_as_many_as_asked():
    classes = np.repeat(np.arange(50), 2)
    stay, carved = carve(np.arange(100), 0.1, seed=0, classes=classes)
    assert len(carved) == 10
    assert set(classes[stay]) == set(range(50))


def test_all_classes_with_one_row_are_carved_all_the_same():
    assert len(carve(np.arange(10), 0.3, seed=0, classes=np.arange(10))[1]) == 3


def test_a_smaller_limit_is_part_of_a_greater_one():
    rows = np.arange(500)
    small, large = limit(rows, None, 20, seed=3), limit(rows, 0.5, None, seed=3)
    assert (len(small), len(large)) == (20, 250)
    assert set(small) < set(large)
    assert not np.array_equal(small, rows[:20])


def test_the_narrower_of_both_limits_holds():
    rows = np.arange(100)
    assert len(limit(rows, 0.5, 10, seed=0)) == 10
    assert len(limit(rows, 0.05, 10, seed=0)) == 5
    assert len(limit(rows, 0.001, None, seed=0)) == 1
    assert np.array_equal(limit(rows, 1.0, 1000, seed=0), rows)
