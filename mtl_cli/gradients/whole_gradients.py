"""Weightings that combine the tasks' gradients number by number.

Shapes: K tasks of a step, P numbers of a parameter, U rows of an embedding that a step touches, D their width.
"""

from __future__ import annotations

from mtl_cli.gradients.blocks import RowBlock, pieces
from mtl_cli.gradients.task_gradients import TaskGradients, put
from mtl_cli.precision import wide_dtype
from mtl_cli.weighting import CoordinateWeighting, StepInfo


def combine_coordinates(weighting: CoordinateWeighting, gradients: TaskGradients, info: StepInfo) -> None:
    """Put what the weighting makes of the tasks' gradients into `.grad` of each shared parameter."""
    for name, block in gradients.blocks.items():
        parameter = gradients.shared[name].parameter
        if isinstance(block, RowBlock):
            ids_U, values_KUD = block.touched_rows()
            values_KP = values_KUD.flatten(1)
        else:
            values_KP = block.to_dense().values.flatten(1)
        combined_P = values_KP.new_empty(values_KP.shape[1], dtype=wide_dtype(values_KP.dtype))
        for part in pieces(values_KP):
            combined_P[part] = weighting.combine(values_KP[:, part].to(combined_P.dtype), info)
        if isinstance(block, RowBlock):
            update = combined_P.new_zeros(block.shape)
            update[ids_U] = combined_P.view(values_KUD.shape[1:])
            put(parameter, update)
        else:
            put(parameter, combined_P.view_as(parameter))
