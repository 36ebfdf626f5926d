"""Single-text classification: sentiment, topic, acceptability, intent."""

from dataclasses import dataclass

from mtl_cli.tasks.text_classification import TextClassification


@dataclass(kw_only=True)
class SingleTextClassification(TextClassification):
    """A class for each text.

    Args:
        text: column of the text.
    """

    text: str = "text"

    def _text_columns(self) -> dict[str, str]:
        return {"text": self.text}
