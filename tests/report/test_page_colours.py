"""The colours of groups can be told apart, also by people who see two of the three primaries."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from mtl_cli.report import compare_page as module

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
GROUNDS = {"light": "#ffffff", "dark": "#14161a"}


def colours(theme):
    text = Path(module.__file__).with_name("page_files").joinpath("base.js").read_text(encoding="utf-8")
    found = re.search(rf"const COLOURS = {{.*?{theme}: \[(.*?)\]", text, re.DOTALL)
    return re.findall(r"#[0-9a-f]{6}", found[1])


def linear(colour):
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE 1976 L*a*b* of linear RGB."""
    part = TO_XYZ @ rgb / TO_XYZ.sum(axis=1)
    f = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_white_and_black_are_a_hundred_apart():
    assert np.linalg.norm(lab(linear("#ffffff")) - lab(linear("#000000"))) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", GROUNDS)
def test_no_two_colours_look_alike(theme, vision):
    seen = [lab(np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)) for colour in colours(theme)]
    assert len(seen) == 8
    # 2.3 is a difference that is just noticed.
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 12


@pytest.mark.parametrize("theme", GROUNDS)
def test_each_colour_stands_out_from_the_ground(theme):
    luminance = [linear(colour) @ TO_XYZ[1] for colour in [GROUNDS[theme], *colours(theme)]]
    for one in luminance[1:]:
        low, high = sorted((luminance[0], one))
        assert (high + 0.05) / (low + 0.05) > 2.5
