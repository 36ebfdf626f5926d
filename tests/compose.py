"""Composes a command's configuration as the command line does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mtl_cli.cli import conf_dir
from mtl_cli.overrides import force_values, groups_in, users_files_first


def composed(*overrides: str, command: str = "train", config_dir: Path | None = None) -> dict[str, Any]:
    """Return the plain, resolved configuration that these overrides give."""
    dirs = [conf_dir(), *([config_dir] if config_dir else [])]
    arguments = force_values(overrides, groups_in(dirs))
    with users_files_first(config_dir), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose(command, overrides=arguments), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
