"""Tiny random models of each family, written in the hub's format, and batches of rows for them."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
)

from mtl_cli.encoders import Encoder, Layout
from mtl_cli.encoders.train_tokenizer import train_tokenizer

VOCABULARY = 300
SENTENCES = ("the cat sat on the mat", "a dog barked at the moon", "nobody knew why the bell rang", "it rained all day")

# hidden 32, 3 blocks, 4 heads; DistilBERT and GPT-2 have their own names for these.
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_COMMON = {"vocab_size": VOCABULARY, **_SIZES, "initializer_range": 0.2}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**_COMMON, max_position_embeddings=64),
    "roberta": RobertaConfig(**_COMMON, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**_COMMON, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1),
    # Embeddings narrower than the blocks, as in ELECTRA small.
    "electra": ElectraConfig(**_COMMON, embedding_size=16, max_position_embeddings=64),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=64,
        initializer_range=0.2,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.2,
        eos_token_id=0, bos_token_id=0,
    ),
    # A window of 3 tokens to each side, so that rows of the tests are longer; blocks 1 and 2 attend locally.
    "modernbert": ModernBertConfig(
        **_COMMON, max_position_embeddings=64, local_attention=6, global_attn_every_n_layers=3,
        pad_token_id=0, bos_token_id=None, eos_token_id=None, cls_token_id=None, sep_token_id=None,
    ),
    "deberta-v2": DebertaV2Config(
        **_COMMON, max_position_embeddings=64, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False, type_vocab_size=0,
    ),
    "t5": T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, n_positions=64,
        relative_attention_num_buckets=8, relative_attention_max_distance=16,
    ),
}  # fmt: skip
PACKED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "gpt2", "modernbert")


@cache
def tokenizer() -> Any:
    return train_tokenizer(SENTENCES, vocab_size=VOCABULARY, lowercase=True, max_length=64)


def for_benchmarks(name: str) -> Encoder:
    """In the place of `bench_steps.make_encoder`: two small blocks, for rows of up to 128 tokens."""
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    longer = deepcopy(tokenizer())
    longer.model_max_length = 128
    return Encoder(BertModel(config, add_pooling_layer=False), longer, pooling="mean", packed=True)


def tokenizer_without_padding() -> Any:
    """As GPT-2's: one special token, the end of text."""
    backend = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "the": 1, "cat": 2, "dog": 3}, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )


def reference_model(family: str) -> Any:
    """A random model of transformers, as the hub's files would give it."""
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(**CONFIGS[family].to_dict())
    model = T5EncoderModel(config) if family == "t5" else AutoModel.from_config(config)
    if hasattr(model, "pooler"):
        model.pooler = None
    # Biases and normalisation weights begin as 0 and 1, which would hide mistakes.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save(family: str, folder: Path) -> Path:
    """Write model and tokenizer as on the hub."""
    model = reference_model(family)
    model.save_pretrained(folder)
    (tokenizer_without_padding() if family == "gpt2" else tokenizer()).save_pretrained(folder)
    return folder


def rows(lengths: dict[str, list[int]], *, packed: bool, seed: int = 0) -> tuple[torch.Tensor, Layout]:
    """Random token ids for rows of these lengths, and their layout."""
    layout = Layout.from_lengths({task: np.array(of_task) for task, of_task in lengths.items()}, packed=packed)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCABULARY, (layout.num_tokens,), generator=generator), layout


def padded(flat_N: torch.Tensor, lengths: list[int], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as (B, T) and their attention mask, by plain loops."""
    T = max(lengths)
    values_BT = torch.full((len(lengths), T), padding)
    mask_BT = torch.zeros(len(lengths), T, dtype=torch.long)
    for row, part in enumerate(flat_N.split(lengths)):
        values_BT[row, : len(part)] = part
        mask_BT[row, : len(part)] = 1
    return values_BT, mask_BT
