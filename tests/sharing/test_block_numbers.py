"""The setting `blocks`, which all strategies read alike."""

from functools import partial

import pytest
from encoders.tiny_encoders import CONFIGS

from mtl_cli.encoders import EncoderShape
from mtl_cli.sharing import PLE, AdaShare, MMoE, MoE
from mtl_cli.sharing.block_numbers import block_numbers, has_lowest
from mtl_cli.sharing.task_modules import TaskModules
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


@pytest.mark.parametrize(
    ("blocks", "num_blocks", "expected"),
    [
        (None, 3, True),
        ([0, 2], 3, True),
        ([-3], 3, True),
        ([1], 3, False),
        ([-2, -1], 3, False),
        ([-2, -1], 2, True),
        (None, None, True),
        ([0, -1], None, True),
        ([-3], None, False),  # of any depth
    ],
)
def test_the_lowest_block_is_recognised_from_both_ends(blocks, num_blocks, expected):
    assert has_lowest(blocks, num_blocks) == expected


@pytest.mark.parametrize("strategy", [MoE, AdaShare, MMoE, partial(PLE, experts="block")])
@pytest.mark.parametrize(("blocks", "is_shared"), [([-3], False), ([0, 1], False), ([-2], True), ([1, 2], True)])
def test_tasks_have_a_representation_in_common_below_the_lowest_block_of_their_own(
    make_encoder, strategy, blocks, is_shared
):
    strategy = strategy(blocks=blocks)
    assert (strategy.why_no_representation(3) is None) == is_shared
    # The blocks themselves say the same.
    encoder = make_encoder("bert")
    strategy.attach(encoder, ["a", "b"])
    own = [any(isinstance(m, TaskModules) and len(m) for m in block.modules()) for block in encoder.blocks]
    assert own[0] != is_shared


def test_levels_behind_the_last_block_have_a_representation_below_where_there_are_several_blocks():
    assert PLE().why_no_representation(3) is None
    assert PLE().why_no_representation(1) is not None


@pytest.mark.parametrize("family", CONFIGS)
def test_the_shape_of_every_family_is_in_its_config(family):
    # Families have names of their own for these; all tiny models are alike.
    assert EncoderShape.of(CONFIGS[family]) == EncoderShape(family, 3, 32, 4)


def test_a_config_without_blocks_has_no_shape():
    assert EncoderShape.of(object()) is None
