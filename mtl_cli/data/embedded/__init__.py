"""The embedded corpus: three related tasks made by a hand-written grammar, no file and no network needed."""

from mtl_cli.data.embedded.source import EmbeddedSource

__all__ = ["EmbeddedSource"]
