"""The share of padding that benchmarks show."""

import numpy as np
import pytest
from gradients.steps import model_of

from mtl_cli.bench.our_training import padding_of
from mtl_cli.sharing import CrossStitch

# 64 rows of 8 tokens and 64 of 128: 8,704 tokens. One pass has 128 x 128 places, two by length have the tokens' own.
PASSES = [{"mood": np.array([8] * 64), "tags": np.array([128] * 64)}]
ONE_PASS = 1 - 8704 / (128 * 128)


@pytest.mark.parametrize(
    ("packed", "sharing", "linear", "attention"),
    [
        (False, None, 0.0, 0.0),
        (False, CrossStitch(), ONE_PASS, ONE_PASS),  # whose layers may mix tasks: all rows stay together
        (True, None, 0.0, 0.0),  # attention takes rows in groups of like length
    ],
)
def test_padding_is_that_of_the_passes_that_are_made(packed, sharing, linear, attention):
    found = padding_of(PASSES, model_of(packed=packed, sharing=sharing))
    assert found == pytest.approx((linear, attention))


def test_packed_rows_are_padded_in_attention_alone():
    # Two rows are one group: 3 + 5 tokens in 2 x 5 places.
    found = padding_of([{"mood": np.array([3, 5])}], model_of(packed=True))
    assert found == pytest.approx((0.0, 0.2))
