"""Encoders: token ids to hidden states, pretrained or from scratch."""

from mtl_cli.encoders.bundled import BundledMiniLM
from mtl_cli.encoders.current_layout import current_layout, use_layout
from mtl_cli.encoders.encoder import Encoder
from mtl_cli.encoders.huggingface import HuggingFaceEncoder
from mtl_cli.encoders.layout import Layout
from mtl_cli.encoders.pooling import pool, pooled_token
from mtl_cli.encoders.shape import EncoderShape
from mtl_cli.encoders.spec import EncoderSpec
from mtl_cli.encoders.transformer import TransformerEncoder

__all__ = [
    "BundledMiniLM",
    "Encoder",
    "EncoderShape",
    "EncoderSpec",
    "HuggingFaceEncoder",
    "Layout",
    "TransformerEncoder",
    "current_layout",
    "pool",
    "pooled_token",
    "use_layout",
]
