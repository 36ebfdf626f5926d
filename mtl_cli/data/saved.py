"""Data sets that `datasets` saved to a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_cli.data.cache import content_key
from mtl_cli.data.named_splits import check_split_settings, choose_splits
from mtl_cli.data.source import Source
from mtl_cli.types import UserError

if TYPE_CHECKING:
    import datasets


@dataclass(kw_only=True)
class SavedSource(Source):
    """Splits of a folder that `save_to_disk` of `datasets` wrote. A single data set without splits serves as `train`.

    Args:
        path: the folder.
        splits: for each of train, validation and test the name of the folder's split; null leaves one out. One that is
            not mentioned is the split of that name, if there is one.
    """

    path: str
    splits: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_split_settings(self.splits)

    def load(self) -> dict[str, datasets.Dataset]:
        """Open the folder; its rows stay on disk."""
        import datasets

        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder} (current folder: {Path.cwd()}).")
        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:  # pyarrow's, json's and the file system's errors about what the folder holds
            raise UserError(f"{folder} is not a folder written by save_to_disk: {error}") from error
        if isinstance(saved, datasets.Dataset):
            saved = datasets.DatasetDict({self.splits.get("train") or "train": saved})
        chosen = choose_splits(saved, self.splits, str(folder))
        return {split: _with_content_fingerprint(saved[name]) for split, name in chosen.items()}

    def locate(self, split: str, row: int) -> str:
        """Name the folder, its split and the row."""
        return f"{Path(self.path).expanduser()} ({self.splits.get(split, split)}), row {row + 1}"


def _with_content_fingerprint(dataset: datasets.Dataset) -> datasets.Dataset:
    """The saved fingerprint is that of the data set when it was made; files replaced since then do not change it."""
    files = [Path(file["filename"]) for file in dataset.cache_files]
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    dataset._fingerprint = content_key(dataset._fingerprint, stamps)
    return dataset
