import pytest

from mtl_cli.data.label_names import LabelNames, in_order
from mtl_cli.errors import UserError


@pytest.mark.parametrize(
    ("values", "declared", "labels", "expected"),
    [
        # Without labels of the user's: the data's own names.
        (["pos", "neg"], None, None, ["pos", "neg"]),
        ([1, 0], None, None, ["1", "0"]),
        ([1, 0], ["neg", "pos"], None, ["pos", "neg"]),
        ([True, False], None, None, ["True", "False"]),
        ([1.0, 0.0], None, None, ["1", "0"]),
        # By name.
        ([1, 0], ["neg", "pos"], ["pos", "neg"], ["pos", "neg"]),
        (["1", "2"], None, ["2", "1"], ["1", "2"]),
        ([1, 2], None, ["2", "1"], ["1", "2"]),
        ([True, False], None, ["true", "false"], ["true", "false"]),
        # By index: plain integers, also as text, and names that merely number the classes.
        ([1, 0], None, ["no", "yes"], ["yes", "no"]),
        (["1", "0"], None, ["no", "yes"], ["yes", "no"]),
        ([1, 0], ["0", "1"], ["different", "paraphrase"], ["paraphrase", "different"]),
        ([1, 0], ["1", "2"], ["negative", "positive"], ["positive", "negative"]),
        ([True, False], None, ["no", "yes"], ["yes", "no"]),
        (["true", "FALSE"], None, ["no", "yes"], ["yes", "no"]),
        # One name that matches settles it: the others are names too, and unknown.
        (["no", "1"], None, ["no", "yes"], ["no", "1"]),
        ([0, 5], None, ["no", "yes"], ["0", "5"]),
    ],
)
def test_values_become_names(values, declared, labels, expected):
    names = LabelNames(values, declared, labels)
    assert [names(value) for value in values] == expected


def test_null_nan_empty_and_minus_one_are_no_label():
    names = LabelNames([0, 1], None, ["no", "yes"])
    assert [names(value) for value in (None, float("nan"), "", -1, "-1", -1.0)] == [None] * 6
    assert LabelNames([], ["no", "yes"], None)(-1) is None


def test_minus_one_is_a_label_where_the_user_lists_it():
    names = LabelNames([-1, 0, 1], None, ["-1", "0", "1"])
    assert [names(value) for value in (-1, "0", 1)] == ["-1", "0", "1"]


def test_labels_that_have_nothing_to_do_with_the_declared_ones_are_refused():
    with pytest.raises(UserError, match=r"`labels` \(a, b, c\) has no name of the data set's own labels \(no, yes\)"):
        LabelNames([0], ["no", "yes"], ["a", "b", "c"])


def test_names_that_are_numbers_sort_as_numbers():
    assert in_order(["10", "9", "0"]) == ["0", "9", "10"]
    assert in_order(["b", "10", "9"]) == ["10", "9", "b"]
