"""Trains a tokenizer on the texts of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mtl_cli.types import UserError

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

SMALLEST_VOCABULARY = 256 + len(_SPECIAL_TOKENS)
"""Every byte and the special tokens: with fewer entries a text could hold what the tokenizer cannot write."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, lowercase: bool, max_length: int) -> Any:
    """Train byte-level byte-pair encoding (Sennrich et al., ACL 2016; Radford et al., 2019) on `texts`.

    Every byte has an entry, so no text has an unknown token, in any script. A word has the same tokens at the start of
    a text as inside it. Texts are framed as in BERT: [CLS] first [SEP] second [SEP]. The same texts give the same
    tokenizer.

    Args:
        texts: training texts, read once.
        vocab_size: entries at most, special tokens included; fewer where the texts have no more pairs to merge.
        lowercase: write everything in small letters first.
        max_length: tokens that a row can have.
    """
    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    num_texts = 0

    def counted() -> Iterable[str]:
        nonlocal num_texts
        for text in texts:
            num_texts += 1
            yield text

    tokenizer.train_from_iterator(counted(), trainer)
    if num_texts == 0:
        raise UserError("encoder: a tokenizer is trained on the training texts, and there are none.")
    frame = {token: tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(frame.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
