"""The setting `blocks`, which all strategies read alike."""

import pytest
from encoders.tiny_encoders import CONFIGS

from mtl_cli.encoders import EncoderShape
from mtl_cli.sharing.block_numbers import block_numbers
from mtl_cli.types import UserError


@pytest.mark.parametrize(
    ("blocks", "lowest", "numbers"),
    [
        (None, 0, [0, 1, 2]),
        (None, 1, [1, 2]),
        ([2, 0], 0, [0, 2]),
        ([-1], 0, [2]),
        ([-1, 0], 0, [0, 2]),
        ([-2, -1], 1, [1, 2]),
    ],
)
def test_blocks_are_counted_from_both_ends(blocks, lowest, numbers):
    assert block_numbers(blocks, 3, lowest) == numbers


@pytest.mark.parametrize(
    ("blocks", "lowest"), [([], 0), ([3], 0), ([-4], 0), ([1, 1], 0), ([1, -2], 0), ([0], 1), ([-3], 1)]
)
def test_blocks_that_are_not_there_or_named_twice_are_refused(blocks, lowest):
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[.*\], but the encoder has 3 blocks.* or null"):
        block_numbers(blocks, 3, lowest)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_shape_of_every_family_is_in_its_config(family):
    # Families have names of their own for these; all tiny models are alike.
    assert EncoderShape.of(CONFIGS[family]) == EncoderShape(family, 3, 32, 4)


def test_a_config_without_blocks_has_no_shape():
    assert EncoderShape.of(object()) is None
