"""Where examples come from: the interface of every source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import datasets


class Source(ABC):
    """Gives the splits of one data set as rows with named columns, as they were written.

    Constructors are cheap and read nothing: a configuration is checked by constructing its sources. `load` reads.
    """

    mendable: ClassVar[bool] = True
    """Whether the user can mend the data. Where not, a row that is no good is counted instead of being an error."""

    @abstractmethod
    def load(self) -> dict[str, datasets.Dataset]:
        """Read the splits that exist: keys are a subset of `train`, `validation`, `test`.

        The same content gives the same fingerprints in every process: tokenised splits are cached under them.

        Raises:
            UserError: a file, a configuration or a split is missing or broken, with its place.
        """

    @abstractmethod
    def locate(self, split: str, row: int) -> str:
        """Say where row `row` (from 0, as in the dataset that `load` gave) of `split` was read.

        Rows are counted from 1 in the result, for example "data/train.tsv, row 18" or "glue/sst2 (train), row 18".
        """
