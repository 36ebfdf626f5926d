"""What `torchrun` (or whatever else starts several processes) tells each of them. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mtl_cli.errors import UserError

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A process's place among those of a run.

    Attributes:
        rank: its number, from 0, over all machines.
        world_size: how many there are.
        local_rank: its number among those of its machine.
        local_world_size: how many its machine has.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_one_of_several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1


def launched(environment: Mapping[str, str] | None = None) -> Launched:
    """Read the place of this process from the variables that torchrun, `accelerate launch` and others set.

    Without WORLD_SIZE, or where it is 1, there is one process.

    Raises:
        UserError: some variables are missing, or are no numbers that fit together.
    """
    environment = os.environ if environment is None else environment
    if environment.get("WORLD_SIZE", "1") == "1":
        return Launched()
    missing = [name for name in _NEEDED if name not in environment]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is not set: start several processes "
            "by torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    numbers = {}
    world_size = environment["WORLD_SIZE"]
    defaults = {"RANK": None, "WORLD_SIZE": None, "LOCAL_RANK": environment["RANK"], "LOCAL_WORLD_SIZE": world_size}
    for name, default in defaults.items():
        text = environment.get(name, default)
        if text is None or not text.isdecimal():
            raise UserError(f"{name}: found {text!r}, allowed: a whole number, as torchrun sets it")
        numbers[name] = int(text)
    if not 0 <= numbers["RANK"] < numbers["WORLD_SIZE"]:
        raise UserError(f"RANK: found {numbers['RANK']}, allowed: 0 to {numbers['WORLD_SIZE'] - 1} (WORLD_SIZE - 1)")
    return Launched(
        rank=numbers["RANK"],
        world_size=numbers["WORLD_SIZE"],
        local_rank=numbers["LOCAL_RANK"],
        local_world_size=numbers["LOCAL_WORLD_SIZE"],
    )


def rank_of_environment() -> int:
    """Return the rank that the environment gives, 0 where it gives none or something that is none."""
    try:
        return launched().rank
    except UserError:
        return 0
