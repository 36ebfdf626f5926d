"""Saving a trained model and loading it again, without Hydra, a network, or pickled data.

A model's folder holds model.safetensors (all weights), config.json (the encoder's architecture), the tokenizer's files,
and mtl.json (tasks, labels, sharing, pooling), which is written last: a folder without it is incomplete.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError

from mtl_cli import sharing, tasks
from mtl_cli.data.source import Source
from mtl_cli.encoders import Encoder, loading
from mtl_cli.model import MultiTaskModel
from mtl_cli.types import Pooling, UserError

_BASES = (tasks.Task, tasks.Head, sharing.SharingStrategy)
"""What a description may name."""

FORMAT_VERSION = 1
_WEIGHTS, _DESCRIPTION = "model.safetensors", "mtl.json"


class UnavailableSource(Source):
    """In place of the source of a loaded model's task: a model's folder does not say where its data were."""

    def load(self) -> dict[str, Any]:
        """Refuse: there is nothing to read."""
        raise UserError("A loaded model has no data. Set task.source, or use `mtl evaluate run=DIR`.")

    def locate(self, split: str, row: int) -> str:
        """Say that the place is not known."""
        return f"{split}, row {row + 1}"


def save_model(model: MultiTaskModel, folder: str | Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write the model into `folder`, which is made where it does not exist.

    Args:
        model: the model.
        folder: where to.
        weights: all weights of a model of which this process has a part; None: the model's own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _DESCRIPTION).unlink(missing_ok=True)
    if weights is None:
        safetensors.torch.save_model(model, str(folder / _WEIGHTS))
    else:
        safetensors.torch.save_file(dict(weights), folder / _WEIGHTS, metadata={"format": "pt"})
    model.encoder.model.config.save_pretrained(folder)
    model.encoder.tokenizer.save_pretrained(folder)
    description = {
        "format": "mtl model",
        "version": FORMAT_VERSION,
        "written_by": {name: version(name) for name in ("mtl-cli", "transformers", "tokenizers", "torch")},
        "encoder": {"pooling": model.encoder.pooling, "packed": model.encoder.packed},
        "sharing": _describe(model.sharing),
        "tasks": {
            name: {
                **_describe(task, leave_out=("source",)),
                "labels": model.labels[name],
                "class_weights": getattr(task, "fitted_class_weights", None),
            }
            for name, task in model.tasks.items()
        },
    }
    partial = folder / f"{_DESCRIPTION}.partial"
    partial.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, folder / _DESCRIPTION)


def load_model(
    folder: str | Path,
    device: str | torch.device | None = None,
    *,
    classes: Iterable[type] = (),
    allow_packages: Iterable[str] = (),
) -> MultiTaskModel:
    """Load a model that `save_model` wrote, with its tokenizer, tasks and labels, ready for `model.predict`.

    Args:
        folder: the model's folder, or the run folder that it lies in.
        device: where to put it; None means the CPU.
        classes: task types, heads and sharing strategies of your own that the model was trained with. Classes of this
            package are known; no other code is imported because a file names it.
        allow_packages: packages that you trust: what the folder names of them is imported, if it is such a class.

    Returns:
        The model in evaluation mode, its weights equal bit for bit to those that were saved.

    Raises:
        UserError: the folder is not a model, is incomplete or damaged, or needs a class that is not known.
    """
    folder = _model_folder(Path(folder))
    description = _read_description(folder)
    allowed = _allowed_classes(description, tuple(allow_packages))
    known = {**_own_classes(), **{_class_name(cls): cls for cls in (*allowed, *classes)}}
    try:
        rebuilt = {
            name: _rebuild(spec, known, folder, source=UnavailableSource())
            for name, spec in description["tasks"].items()
        }
        for name, spec in description["tasks"].items():
            if spec["class_weights"] is not None:
                rebuilt[name].fitted_class_weights = spec["class_weights"]
        labels = {name: spec["labels"] for name, spec in description["tasks"].items()}
        strategy = _rebuild(description["sharing"], known, folder)
        pooling, packed = description["encoder"]["pooling"], description["encoder"]["packed"]
        if pooling not in get_args(Pooling):
            raise KeyError(pooling)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / _DESCRIPTION} is damaged or was written by another version: {error!r}.") from error
    config = loading.load_config(str(folder), None, False, {})
    tokenizer = loading.load_tokenizer(str(folder), None, False)
    with torch.random.fork_rng(devices=[]):  # the random weights are replaced; the caller's generator stays as it is
        encoder = Encoder(loading.new_model(config), tokenizer, pooling=pooling, packed=packed)
        model = MultiTaskModel(encoder, strategy, rebuilt, labels)
    try:
        safetensors.torch.load_model(model, str(folder / _WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / _WEIGHTS} is missing, damaged, or of another model: {reason}") from error
    return model.to(device or "cpu").eval()


def _model_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "model"):
        if (candidate / _DESCRIPTION).is_file():
            return candidate
    raise UserError(
        f"'{folder}' holds no model: neither {_DESCRIPTION} nor model/{_DESCRIPTION} is there. Name a run folder that "
        "has finished, or the model/ folder inside it."
    )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(description, dict) or description.get("format") != "mtl model":
        raise UserError(f"{path} does not describe a model of this tool.")
    if description.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {description.get('version')}, but this version of mtl reads {FORMAT_VERSION}. "
            f"It was written by mtl-cli {description.get('written_by', {}).get('mtl-cli', '?')}: install that version."
        )
    return description


def _describe(value: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Class name and constructor arguments of an object whose settings are attributes of the same names."""
    names = [name for name in inspect.signature(type(value)).parameters if name not in leave_out]
    return {"class": _class_name(type(value)), "args": {name: _to_json(getattr(value, name)) for name in names}}


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    return _describe(value)


def _rebuild(spec: Mapping[str, Any], known: Mapping[str, type], folder: Path, **more: Any) -> Any:
    name = spec["class"]
    if name not in known:
        raise UserError(
            f"{folder / _DESCRIPTION} names the class '{name}', which is not part of mtl. If it is yours, import it "
            "and call load_model(folder, classes=[...]) with it, or allow its package: allow_targets=[...] on the "
            "command line."
        )
    arguments = {
        key: _rebuild(value, known, folder) if isinstance(value, dict) and set(value) == {"class", "args"} else value
        for key, value in spec["args"].items()
    }
    return known[name](**arguments, **more)


def _own_classes() -> dict[str, type]:
    """Task types, heads and sharing strategies of this package, by the name that a file may give."""
    exported = [getattr(module, name) for module in (tasks, sharing) for name in module.__all__]
    return {_class_name(cls): cls for cls in exported if isinstance(cls, type) and issubclass(cls, _BASES)}


def _allowed_classes(value: Any, packages: tuple[str, ...]) -> list[type]:
    """Classes of the allowed packages that a description names, at any depth."""
    if isinstance(value, list):
        return [cls for item in value for cls in _allowed_classes(item, packages)]
    if not isinstance(value, dict):
        return []
    found = [cls for item in value.values() for cls in _allowed_classes(item, packages)]
    name = value.get("class")
    if isinstance(name, str) and any(name.startswith(f"{package}.") for package in packages):
        module, _, attribute = name.rpartition(".")
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"The model names the class '{name}', which cannot be imported: {error}") from error
        if isinstance(cls, type) and issubclass(cls, _BASES):
            found.append(cls)
    return found


def _class_name(cls: type) -> str:
    return cls.__name__ if cls.__module__.startswith("mtl_cli.") else f"{cls.__module__}.{cls.__qualname__}"
