"""Between proportional and uniform, by a temperature."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_cli.sampling.probability_sampler import ProbabilitySampler, power_probabilities
from mtl_cli.sampling.sampler import require
from mtl_cli.types import PositiveFloat, PositiveInt


@dataclass(kw_only=True, frozen=True)
class Temperature(ProbabilitySampler):
    """p_k proportional to min(N_k, N_max) ** (1 / T), with N_k the number of training rows of task k.

    The temperature T is that of Arivazhagan et al., Massively Multilingual Neural Machine Translation in the Wild,
    2019 (who use T = 5); the cap N_max that of Raffel et al., Exploring the Limits of Transfer Learning with a
    Unified Text-to-Text Transformer, JMLR 2020 (their K; they combine it with T = 2).

    Args:
        temperature: T. 1 is proportional, larger is closer to uniform.
        max_size: N_max: a task with more rows counts as having so many. None: no cap.
    """

    temperature: PositiveFloat = 5.0
    max_size: PositiveInt | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.temperature > 0, "temperature", self.temperature, "above 0 (1: proportional; larger: nearer uniform)"
        )
        require(self.max_size is None or self.max_size >= 1, "max_size", self.max_size, "1 or more, or null")

    def probabilities(self, sizes: Mapping[str, int], progress: float) -> dict[str, float]:
        """Return the shares of the capped sizes to the power of 1 / T, whatever the progress."""
        capped = {task: size if self.max_size is None else min(size, self.max_size) for task, size in sizes.items()}
        return power_probabilities(capped, 1 / self.temperature)
