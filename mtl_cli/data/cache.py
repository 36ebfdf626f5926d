"""Files that many processes make at most once: the cache of read and of tokenised data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from mtl_cli.types import UserError


def content_key(*parts: object) -> str:
    """A name of 32 hexadecimal digits for JSON-able `parts`: equal for equal parts and, in practice, no others."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content. Its time stamp and place do not matter, so a copied or touched file stays cached."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dataset_cache() -> Path:
    """Our folder in the cache of `datasets`, whose place HF_DATASETS_CACHE or HF_HOME sets."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "mtl"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the right to make `path`: of several processes, the first makes it and the others wait, then find it there.

    The operating system gives the lock back when its holder dies. Whoever makes the file still has to write it under
    another name and rename it, so that a reader without the lock never sees half a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"The data cache {path.parent} cannot be written ({error.strerror}). "
            "Set HF_DATASETS_CACHE to a folder that you can write to."
        ) from error
    try:
        yield
    finally:
        lock.release()


def make_once(path: Path, write: Callable[[Path], None]) -> None:
    """Make the file `path` by `write(temporary_path)`, unless it is there already."""
    if path.exists():
        return
    with exclusive(path):
        if path.exists():
            return
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
