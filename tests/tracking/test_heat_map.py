"""The page is read back with the standard library's parser."""

import math
from html.parser import HTMLParser
from itertools import product

import pytest

from mtl_cli.tracking.heat_map import (
    colour_of,
    cosine_heat_map,
    cosine_table,
    heat_table,
    hex_of,
    limits_of,
    number_text,
    text_colour_on,
)


class Table(HTMLParser):
    """The cells of a page as (text, style), row by row."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.links, self._open = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        self._open = tag in ("td", "th")
        if self._open:
            self.rows[-1].append(["", attributes.get("style", "")])

    def handle_endtag(self, tag):
        self._open = False

    def handle_data(self, data):
        if self._open:
            self.rows[-1][-1][0] += data

    def texts(self):
        return [[text for text, _ in row] for row in self.rows]

    def style(self, row, column):
        return self.rows[row + 1][column + 1][1]


def test_the_matrix_is_symmetric_and_names_its_rows_and_columns():
    page = cosine_heat_map(["a", "b", "c"], {("a", "b"): 0.25, ("c", "a"): -1.0}, "caption")
    assert Table(page).texts() == [
        ["", "a", "b", "c"],
        ["a", "1", "0.25", "-1.00"],
        ["b", "0.25", "1", ""],
        ["c", "-1.00", "", "1"],
    ]
    assert "<caption>caption</caption>" in page


def test_the_colour_says_sign_and_size():
    # White (255 each) mixed with red (178, 24, 43) or blue (33, 102, 172).
    # Half of the way to blue: (144, 178.5, 213.5), rounded to even numbers: 90, b2, d6.
    cosines = {("a", "b"): -1.0, ("a", "c"): 0.0, ("a", "d"): 0.5, ("b", "c"): 1.0, ("b", "d"): 1.0 + 1e-9}
    table = Table(cosine_heat_map(["a", "b", "c", "d"], cosines, ""))
    assert table.style(0, 1) == "background:#b2182b;color:#fff"
    assert table.style(0, 2) == "background:#ffffff;color:#000"
    assert table.style(0, 3) == "background:#90b2d6;color:#000"
    assert table.style(1, 2) == table.style(1, 3) == "background:#2166ac;color:#fff"


def test_a_cosine_that_is_not_a_number_looks_like_one_that_is_missing():
    missing, nan = (cosine_heat_map(["a", "b"], cosines, "") for cosines in ({}, {("a", "b"): math.nan}))
    assert missing == nan


def test_names_and_caption_are_text_whatever_they_hold():
    name = '<script>alert("x")</script>&'
    page = cosine_heat_map([name, "b"], {(name, "b"): 0.5}, "<b>")
    assert "<script>" not in page
    assert "<b>" not in page
    assert Table(page).texts()[0] == ["", name, "b"]


def test_the_page_fetches_nothing():
    page = cosine_heat_map(["a", "b"], {("a", "b"): 0.5}, "")
    assert Table(page).links == []
    assert "url(" not in page
    assert "http" not in page


def test_the_page_holds_the_table():
    cosines = {("a", "b"): 0.5}
    assert cosine_table(["a", "b"], cosines, "caption") in cosine_heat_map(["a", "b"], cosines, "caption")


def test_rows_and_columns_may_differ():
    table = Table(heat_table(["r"], ["x", "y", "z"], [[0.25, None, math.inf]], "share", "caption"))
    assert table.texts() == [["", "x", "y", "z"], ["r", "0.25", "", ""]]
    assert table.style(0, 1) == table.style(0, 2) == "background:#e0e0e0"


@pytest.mark.parametrize(("scale", "limits"), [("signed", (-4.0, 4.0)), ("share", (0.0, 1.0)), ("plain", (-4.0, 3.0))])
def test_what_the_ends_of_the_colours_stand_for_follows_from_the_scale(scale, limits):
    assert limits_of([[1.0, None], [-4.0, 3.0], [math.nan, math.inf]], scale) == limits


def test_a_matrix_without_a_number_or_with_one_alone_has_colours():
    assert limits_of([[None]], "signed") == limits_of([[0.0]], "signed") == (-1.0, 1.0)
    assert limits_of([[None]], "plain") == (0.0, 0.0)
    assert colour_of(3.0, "plain", 3.0, 3.0) == (255, 255, 255)


def test_colours_run_from_white_to_blue_for_shares_and_to_purple_for_others():
    assert [hex_of(colour_of(value, "share", 0.0, 1.0)) for value in (-0.1, 0.0, 1.0, 1.1)] == [
        "#ffffff",
        "#ffffff",
        "#2166ac",
        "#2166ac",
    ]
    # (255 + 84) / 2, (255 + 39) / 2, (255 + 143) / 2
    assert [colour_of(value, "plain", 2.0, 6.0) for value in (2.0, 4.0, 6.0)] == [
        (255, 255, 255),
        (170, 147, 199),
        (84, 39, 143),
    ]


def test_every_number_can_be_read_on_its_colour():
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for scale, step in product(("signed", "share", "plain"), range(-20, 21)):
        colour = colour_of(step / 20, scale, -1.0, 1.0)
        on = 1.0 if text_colour_on(colour) == "#fff" else 0.0
        bright, dark = max(luminance(colour), on), min(luminance(colour), on)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("value", "limits", "text"),
    [
        (0.123, (0.0, 1.0), "0.12"),
        (0.00123, (-0.002, 0.002), "0.0012"),
        (123456.0, (0.0, 123456.0), "1.2e+05"),
        (0.0, (0.0, 0.0), "0"),
    ],
)
def test_a_number_is_as_long_as_a_cell_has_room_for(value, limits, text):
    assert number_text(value, *limits) == text
