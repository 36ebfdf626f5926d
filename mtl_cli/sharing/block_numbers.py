"""Which blocks of an encoder a strategy works on: the setting `blocks` of all of them."""

from __future__ import annotations

from collections.abc import Sequence

from mtl_cli.types import UserError


def block_numbers(blocks: Sequence[int] | None, num_blocks: int, lowest: int = 0) -> list[int]:
    """Return the numbers of the chosen blocks, from 0 for the lowest, in ascending order.

    Args:
        blocks: what `sharing.blocks` says: numbers from 0 for the lowest block, or negative ones, from -1 for the
            highest; None: all.
        num_blocks: of the encoder.
        lowest: the lowest block that can be chosen.

    Raises:
        UserError: none is named, one is named twice, or one does not exist.
    """
    if blocks is None:
        return list(range(lowest, num_blocks))
    numbers = [number + num_blocks if number < 0 else number for number in blocks]
    if not numbers or len(set(numbers)) < len(numbers) or any(n not in range(lowest, num_blocks) for n in numbers):
        counted = f", of which the lowest {lowest} are shared" if lowest else ""
        raise UserError(
            f"sharing.blocks: found {list(blocks)}, but the encoder has {num_blocks} blocks{counted}; allowed: one or "
            f"more different numbers from {lowest} (the lowest) to {num_blocks - 1}, or from -1 (the highest) down to "
            f"{lowest - num_blocks}, or null for all"
        )
    return sorted(numbers)


def has_lowest(blocks: Sequence[int] | None, num_blocks: int | None) -> bool:
    """Whether the lowest block is among the chosen ones.

    Args:
        blocks: what `sharing.blocks` says.
        num_blocks: of the encoder; None where it is not known: then numbers from the highest say nothing.

    Raises:
        UserError: as `block_numbers`, where the depth is known.
    """
    if blocks is None or num_blocks is None:
        return blocks is None or 0 in blocks
    return 0 in block_numbers(blocks, num_blocks)
