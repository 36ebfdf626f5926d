"""Text-pair classification: natural language inference, paraphrase, questions about a passage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtl_cli.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class TextPairClassification(TextClassification):
    """A class for each pair of texts, which the encoder reads together in one row.

    Args:
        text: column of the first text.
        text_pair: column of the second text.
        word: column of a word that the question is about, as in Word in Context: the encoder then reads "word: first
            text" for the first text. None: there is none.
    """

    text: str = "premise"
    text_pair: str = "hypothesis"
    word: str | None = None

    def encode(
        self,
        examples: Mapping[str, list[Any]],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
        label_ids: Mapping[str, int] | None,
    ) -> dict[str, list[Any]]:
        """Tokenise a batch of examples, one row each (see `Task.encode`)."""
        if self.word is not None:
            words_and_texts = zip(examples[self.word], examples[self.text], strict=True)
            examples = {**examples, self.text: [f"{word}: {text}" for word, text in words_and_texts]}
        return super().encode(examples, tokenizer, max_length, label_ids)

    def _text_columns(self) -> dict[str, str]:
        word = {} if self.word is None else {"word": self.word}
        return {**word, "text": self.text, "text_pair": self.text_pair}
