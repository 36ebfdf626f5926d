"""Which device and which precision a run computes in."""

from __future__ import annotations

import contextlib
import re
from typing import Literal

import torch

from mtl_cli.distributed.launched import launched
from mtl_cli.types import UserError

Precision = Literal["auto", "bf16", "fp32"]


def choose_device(device: str) -> torch.device:
    """Resolve "auto" to the GPU where there is one, of several processes to one each; refuse one that is not there."""
    if launched().is_one_of_several and device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", launched().local_rank % torch.cuda.device_count())
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.device: found {device!r}, but torch {torch.__version__} sees no GPU; use auto or cpu")
    check_device(device)
    if launched().is_one_of_several and device.startswith("cuda:"):
        raise UserError(
            f"trainer.device: found {device!r}, but each of several processes takes a GPU; use auto or cuda"
        )
    return torch.device(device)


def check_device(device: str) -> None:
    """Refuse a name that is no device; whether it is there is not asked."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", device):
        raise UserError(f"trainer.device: found {device!r}, allowed: auto, cpu, cuda, cuda:N, mps")


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # AMX or AVX512-BF16 on x86; on other processors the gain is not known, and float32 is the safe choice.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx_tile"))


def choose_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """Resolve "auto": bf16 where the hardware is fast at it."""
    if precision == "auto":
        return "bf16" if fast_bf16(device) else "fp32"
    return precision


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are computed in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return the values in `wide_dtype`."""
    return values.to(wide_dtype(values.dtype))


def autocast(precision: Literal["bf16", "fp32"], device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context in which forward passes run: float32 weights, matrix products in bfloat16."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
