"""Several processes that train one model: who they are, what they exchange, and what happens when one of them ends."""

from mtl_cli.distributed.launched import Launched, launched

__all__ = ["Launched", "launched"]
