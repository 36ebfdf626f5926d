"""Checkpoints: complete or absent, verified when read, tensors in safetensors and the rest in JSON; nothing is pickled.

checkpoints/step-00000120/  all that a resumed run needs
checkpoints/best-00000080/  the weights of the best evaluation
Each is written as a hidden folder beside its place and renamed, so that a process that dies leaves the former one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from mtl_cli.distributed.divided import is_divided
from mtl_cli.training import fsdp
from mtl_cli.types import UserError

_MODEL, _TENSORS, _STATE, _MANIFEST = "model.safetensors", "training_state.safetensors", "state.json", "manifest.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make sure that a file's bytes, or a folder's entries, are on the disk before the rename that relies on them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder as a whole: beside its place, with a manifest of checksums, then renamed."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    files = sorted(temporary.iterdir())
    manifest = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files}
    (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for file in [*files, temporary / _MANIFEST, temporary]:
        _sync(file)
    replaced = _replaced(folder)
    if folder.exists():  # the same step again, after an evaluation that had been broken off
        folder.rename(replaced)
    temporary.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _recover(parent: Path) -> None:
    """Put back a folder whose replacement was broken off between the two renames."""
    for replaced in parent.glob(".*.replaced"):
        original = parent / replaced.name.removeprefix(".").removesuffix(".replaced")
        if original.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(original)


def _damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{_MANIFEST} cannot be read ({error})"
    for name, entry in manifest.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            return f"{name} is missing or cut short"
        if _sha256(file) != entry["sha256"]:
            return f"the checksum of {name} differs"
    return None


def _split_state(state: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Move the tensors of a nested state into `tensors`; leave a mark in their place."""
    if isinstance(state, torch.Tensor):
        tensors[path] = state.detach().cpu().contiguous()
        return {"__tensor__": path}
    if isinstance(state, dict):
        # JSON has only text keys: say which were numbers.
        return {
            "__items__": [[key, _split_state(value, f"{path}.{key}", tensors)] for key, value in state.items()],
        }
    if isinstance(state, list | tuple):
        return [_split_state(value, f"{path}.{i}", tensors) for i, value in enumerate(state)]
    return state


def _join_state(state: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Undo `_split_state` (tuples come back as lists)."""
    if isinstance(state, dict):
        if "__tensor__" in state:
            return tensors[state["__tensor__"]]
        return {key: _join_state(value, tensors) for key, value in state["__items__"]}
    if isinstance(state, list):
        return [_join_state(value, tensors) for value in state]
    return state


Weights = torch.nn.Module | Mapping[str, torch.Tensor]
"""A model, or the weights of one of which each process has a part, gathered."""


def _save_weights(model: Weights, path: Path) -> None:
    if isinstance(model, torch.nn.Module):
        save_model(model, str(path))
    else:
        save_file(dict(model), path, metadata={"format": "pt"})


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    if is_divided(model):
        fsdp.load_weights(model, str(path))
    else:
        load_model(model, str(path))


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's checkpoints/.
        keep: how many of the newest resumable checkpoints stay.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder = folder
        self.keep = keep

    def _named(self, kind: str) -> list[tuple[int, Path]]:
        """All checkpoints of a kind, oldest first."""
        found = [(int(p.name.removeprefix(f"{kind}-")), p) for p in self.folder.glob(f"{kind}-*") if p.is_dir()]
        return sorted(found)

    def save(self, step: int, model: Weights, state: dict[str, Any]) -> Path:
        """Write all that a run needs to go on from `step`: weights, and a nested `state` of tensors and JSON values."""

        def write(folder: Path) -> None:
            tensors: dict[str, torch.Tensor] = {}
            rest = _split_state(state, "state", tensors)
            _save_weights(model, folder / _MODEL)
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / _TENSORS)
            (folder / _STATE).write_text(json.dumps(rest) + "\n", encoding="utf-8")

        target = self.folder / f"step-{step:08d}"
        _write_folder(target, write)
        for _, old in self._named("step")[: -self.keep]:
            shutil.rmtree(old)
        return target

    def latest(self) -> tuple[int, Path] | None:
        """Return the newest whole resumable checkpoint; a damaged one is passed over if an older one is whole."""
        _recover(self.folder)
        damages = []
        for step, folder in reversed(self._named("step")):
            damage = _damage(folder)
            if damage is None:
                return step, folder
            damages.append(f"{folder}: {damage}")
        if damages:
            raise UserError("no checkpoint of this run is whole: " + "; ".join(damages))
        return None

    def load(self, folder: Path, model: torch.nn.Module) -> dict[str, Any]:
        """Put the weights into `model` and return the nested state (tensors on the CPU)."""
        if not folder.is_dir():
            raise UserError(f"{folder} is not there: a run in several processes resumes where all see its folder")
        _load_weights(model, folder / _MODEL)
        # Copies lie in memory as fresh tensors do; products of tensors that begin elsewhere are rounded otherwise.
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / _TENSORS).items()}
        joined = _join_state(json.loads((folder / _STATE).read_text(encoding="utf-8")), tensors)
        assert isinstance(joined, dict)
        return joined

    def save_best(self, step: int, model: Weights) -> None:
        """Write the weights of the best evaluation so far; the former best goes once this one is whole."""
        _write_folder(self.folder / f"best-{step:08d}", lambda folder: _save_weights(model, folder / _MODEL))

    def remove_other_bests(self, step: int) -> None:
        """Delete the weights of all evaluations but that of `step`.

        Called once a resumable checkpoint knows of the new best: a run that dies in between goes on from one that names
        the old. Where several resumable checkpoints are kept, each may name another, and all stay.
        """
        if self.keep > 1:
            return
        for number, folder in self._named("best"):
            if number != step:
                shutil.rmtree(folder)

    def load_best(self, step: int, model: torch.nn.Module) -> None:
        """Put the weights of the best evaluation, that of `step`, into `model`."""
        folder = self.folder / f"best-{step:08d}"
        damage = _damage(folder)
        if damage is not None:
            raise UserError(f"{folder}: {damage}")
        _load_weights(model, folder / _MODEL)
