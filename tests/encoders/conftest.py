"""Folders of tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from encoders import tiny_encoders


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a family, written once."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            folders[family] = tiny_encoders.save(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return folder
