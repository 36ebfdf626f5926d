"""Where examples come from and how they become rows of token ids."""

from mtl_cli.data.conll import ConllSource
from mtl_cli.data.conllu import ConlluSource
from mtl_cli.data.embedded import EmbeddedSource
from mtl_cli.data.encoded import EncodedSplit
from mtl_cli.data.files import FileSource
from mtl_cli.data.hub import HubSource
from mtl_cli.data.prepare import TaskData, prepare, training_texts
from mtl_cli.data.saved import SavedSource
from mtl_cli.data.source import Source

__all__ = [
    "ConllSource",
    "ConlluSource",
    "EmbeddedSource",
    "EncodedSplit",
    "FileSource",
    "HubSource",
    "SavedSource",
    "Source",
    "TaskData",
    "prepare",
    "training_texts",
]
