"""Data sets of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mtl_cli.data.cache import content_key, dataset_cache
from mtl_cli.data.named_splits import check_split_settings, choose_splits
from mtl_cli.data.source import Source
from mtl_cli.types import UserError

if TYPE_CHECKING:
    import datasets


@dataclass(kw_only=True)
class HubSource(Source):
    """Splits of a data set on the Hugging Face Hub, or of a folder laid out like one. No code of the data set's is run.

    Args:
        path: id on the Hub, `owner/name`, or a local folder in the Hub's layout.
        name: which configuration of the data set, such as `sst2` of GLUE.
        revision: branch, tag or commit; None is the current state of the main branch.
        splits: for each of train, validation and test the name of the data set's split; null leaves one out. One that
            is not mentioned is the split of that name, if there is one.
        data_files: files to read instead of those that the data set declares, by split or one pattern for all.
        data_dir: read only this folder of the data set.
    """

    mendable: ClassVar[bool] = False

    path: str
    name: str | None = None
    revision: str | None = None
    splits: dict[str, str | None] = field(default_factory=dict)
    data_files: dict[str, str | list[str]] | list[str] | str | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        check_split_settings(self.splits)

    def load(self) -> dict[str, datasets.Dataset]:
        """Download, or find in the cache of `datasets`, and give the chosen splits."""
        import datasets

        folder = self._local_folder()
        stamp = None if folder is None else _stamp(folder)
        try:
            found = datasets.load_dataset(
                self.path,
                self.name,
                data_dir=self.data_dir,
                data_files=self.data_files,
                revision=self.revision,
                cache_dir=None if stamp is None else str(dataset_cache() / "folders" / stamp),
            )
        # What can fail here comes from four packages with error types of their own; all of it is about the user's
        # settings, the network or the Hub.
        except Exception as error:
            raise UserError(f"{self._place()} cannot be loaded: {_reason(error)} {self._advice(error)}") from error
        chosen = choose_splits(found, self.splits, self._place())
        loaded = {split: found[name] for split, name in chosen.items()}
        if stamp is not None:
            for dataset in loaded.values():
                dataset._fingerprint = content_key(dataset._fingerprint, stamp)
        return loaded

    def locate(self, split: str, row: int) -> str:
        """Name the data set, its split and the row."""
        return f"{self._place()} ({self.splits.get(split, split)}), row {row + 1}"

    def _place(self) -> str:
        return "/".join(part for part in (self.path, self.name) if part)

    def _local_folder(self) -> Path | None:
        """The folder that `path` names, as `datasets` would read it."""
        folder = Path(self.path)
        if folder.is_dir():
            return folder
        if self.path.startswith(("/", ".", "~")):
            raise UserError(f"there is no folder {self.path} (`path`; current folder: {Path.cwd()}).")
        return None

    def _advice(self, error: Exception) -> str:
        import datasets
        from datasets import exceptions

        message = str(error)
        if "BuilderConfig" in message or "Config name is missing" in message:
            return "Set `name` to one of these configurations."
        if "scripts are no longer supported" in message:
            return (
                "Point at a copy without a loading script, or at the Hub's export with revision: refs/convert/parquet."
            )
        if self._local_folder() is not None:
            return f"{self.path} is a local folder: check its files, and the configurations in its README.md."
        if any(word in message for word in ("gated", "401 Client", "403 Client")):
            return "Accept the terms on the data set's page and log in: hf auth login (or set HF_TOKEN)."
        if isinstance(error, exceptions.DatasetNotFoundError | exceptions.DataFilesNotFoundError):
            return (
                "Check `path` (owner/name), `revision`, `data_dir` and `data_files`; private ones need: hf auth login"
            )
        if datasets.config.HF_HUB_OFFLINE:
            return (
                "HF_HUB_OFFLINE is set, and the data set is not in the cache. Unset it once to download the data set."
            )
        if isinstance(error, ConnectionError):
            return (
                "Check `path` (owner/name) and the network, then try again. Without a network, load the data set once "
                "where there is one and copy the cache (HF_HOME), or use local files with FileSource."
            )
        return "Check `path`, `name`, `revision`, `data_dir` and `data_files`."


def _stamp(folder: Path) -> str:
    """A key that changes with the files of a folder: `datasets` would go on giving the rows that it cached first."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return content_key(str(folder.resolve()), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _reason(error: Exception) -> str:
    """What went wrong; of an error raised while rows were read, its cause."""
    cause: BaseException = error
    while type(cause).__name__ == "DatasetGenerationError" and cause.__cause__ is not None:
        cause = cause.__cause__
    message = " ".join(str(cause).split("Example of usage")[0].split())
    return (message or type(cause).__name__).rstrip(".") + "."
