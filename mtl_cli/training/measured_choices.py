"""Choices of how to compute that follow from measuring the machine, made once and kept by the run.

They change the last digits of results, so whatever a run began with holds when it goes on, elsewhere too.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from mtl_cli.data.cache import content_key, dataset_cache, make_once
from mtl_cli.distributed.ranks import from_main, gather, is_main, num_ranks
from mtl_cli.encoders import Encoder, Layout
from mtl_cli.encoders.attention import packed_attention
from mtl_cli.encoders.attention_choice import LENGTHS, LONGEST, measure_fused_from, use_fused_from
from mtl_cli.errors import UserError
from mtl_cli.tracking import RunFolder

_FUSED_FROM = "fused_attention_from_tokens"


def measured_once(folder: RunFolder, key: str, measure: Callable[[], int]) -> int:
    """Return what the run measured under this name, or measure it now and write it down.

    Of several processes, the least that one of them measured holds for all.
    """
    measured: dict[str, int] = from_main(folder.read_measured() if is_main() else None)
    if key not in measured:
        measured[key] = min(gather(measure()))
        if is_main():
            folder.write_measured(measured)
    return int(measured[key])


def of_so_many_processes(key: str) -> str:
    """Return the name of a value that depends on how many processes share a machine: with others it is another one."""
    return key if num_ranks() == 1 else f"{key}_of_{num_ranks()}_processes"


def lower_measured(folder: RunFolder, key: str, value: int) -> None:
    """Put a lower value in the place of what was measured, for when the run goes on; the least of several processes."""
    measured = folder.read_measured()
    folder.write_measured({**measured, key: min(value, measured.get(key, value))})


def use_choices_of(folder: RunFolder) -> None:
    """Compute as a run did, so that its figures come out again to the last digit."""
    use_fused_from(int(folder.read_measured().get(_FUSED_FROM, LONGEST)))


def fused_attention_from(
    folder: RunFolder, encoder: Encoder, precision: Literal["bf16", "fp32"], device: torch.device, longest_row: int
) -> int:
    """Return from which length on attention is fused: timed where it matters, once a machine, so that runs repeat."""
    num_heads = getattr(encoder.model.config, "num_attention_heads", None)
    if device.type != "cpu" or not encoder.packed or longest_row < LENGTHS[0] or not isinstance(num_heads, int):
        return LONGEST
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    width = encoder.hidden_size // num_heads
    return measured_once(folder, _FUSED_FROM, lambda: _of_machine(dtype, width))


def _of_machine(dtype: torch.dtype, head_width: int) -> int:
    name = content_key("packed_attention", _processor(), torch.__version__, str(dtype), head_width)
    path = dataset_cache() / "machine" / f"{name}.json"
    try:
        make_once(path, lambda temporary: _write(temporary, measure_fused_from(_attend, dtype, head_width)))
        return int(json.loads(path.read_text(encoding="utf-8")))
    except (UserError, OSError, ValueError):  # without a place to keep it, runs would differ from one to the next
        return LONGEST


def _attend(query_1HNE: torch.Tensor, key_1HNE: torch.Tensor, value_1HNE: torch.Tensor, layout: Layout) -> torch.Tensor:
    return packed_attention(nn.Module(), query_1HNE, key_1HNE, value_1HNE, None, layout=layout)[0]


def _write(path: Path, tokens: int) -> None:
    path.write_text(f"{tokens}\n", encoding="utf-8")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
