"""What the benchmarks of weightings and of sharing strategies share: encoders by name, and `mtl bench`'s protocol."""

from __future__ import annotations

import sys

import torch
from transformers import BertConfig, BertModel

from mtl_cli.bench import protocol
from mtl_cli.bench.protocol import summary, timed
from mtl_cli.bench.synthetic import SyntheticRun, make_step
from mtl_cli.encoders import BundledMiniLM, Encoder
from mtl_cli.errors import UserError
from mtl_cli.sharing import SharingStrategy

__all__ = ["ENCODERS", "Bench", "make_encoder", "make_step", "summary", "timed", "watch_load"]

ENCODERS = ("minilm", "bert_base")


class Bench(SyntheticRun):
    """A model of K tasks that classify texts, on an encoder by name, with one step of rows."""

    def __init__(
        self,
        encoder: str,
        sharing: SharingStrategy,
        num_tasks: int,
        num_tokens: int,
        device: torch.device,
        lazy: bool = True,
    ) -> None:
        super().__init__(make_encoder(encoder), sharing, num_tasks, num_tokens, device, lazy=lazy)


def make_encoder(name: str) -> Encoder:
    if name == "minilm":
        return BundledMiniLM().build()
    tokenizer = BundledMiniLM().load_tokenizer()
    model = BertModel(BertConfig(), add_pooling_layer=False)
    return Encoder(model, tokenizer, pooling="mean", packed=True)


def watch_load(force: bool) -> protocol.LoadWatch:
    """Stop where other work would be measured too; what is returned says at the end what others did meanwhile."""
    try:
        return protocol.LoadWatch(force)
    except UserError as error:
        sys.exit(str(error))
