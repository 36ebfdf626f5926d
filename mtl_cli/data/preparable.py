"""What preparing data asks of a task. `mtl_cli.tasks` builds on this package, so its classes are not named here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mtl_cli.data.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PreparableTask(Protocol):
    """A task as this package sees it; `mtl_cli.tasks.Task` documents each member."""

    source: Source
    labels: list[str] | None
    max_length: int | None
    max_train_examples: int | None
    train_fraction: float | None
    validation_fraction: float

    @property
    def level(self) -> Literal["row", "word"]:
        """Whether a label belongs to a whole row or to a word."""

    @property
    def label_kind(self) -> Literal["class", "tags", "score"]:
        """What the label column holds."""

    @property
    def label_column(self) -> str:
        """The column that holds the label, the score or the tags."""

    def columns(self) -> dict[str, str]:
        """Column of each role."""

    def input_columns(self) -> list[str]:
        """Columns that encoding needs where there are no labels."""

    def label_list(self, found: Iterable[str]) -> list[str] | None:
        """Label names in the order of their ids; None for scores."""

    def encode(
        self,
        examples: Mapping[str, list[Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        label_ids: Mapping[str, int] | None,
    ) -> dict[str, list[Any]]:
        """Tokenise a batch. An error about one example has `offset` (its place in the batch), `column`, `reason`."""

    def encoding_settings(self) -> dict[str, Any]:
        """Whatever changes the result of `encode` besides its arguments, fit for JSON."""
