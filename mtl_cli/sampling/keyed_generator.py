"""Random generators that are found by name, so that no state of theirs has to be kept."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def keyed_generator(*key: int | str) -> np.random.Generator:
    """Return the Philox generator that belongs to `key`: the same in every process and on every machine.

    Different keys give independent streams (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011).
    """
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
