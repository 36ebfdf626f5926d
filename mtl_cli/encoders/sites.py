"""Where the linear layers of a block are, family by family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from mtl_cli.types import UserError

SiteName = Literal["query", "key", "value", "attention_output", "feed_forward_input", "feed_forward_output"]
SITE_NAMES: tuple[SiteName, ...] = (
    "query",
    "key",
    "value",
    "attention_output",
    "feed_forward_input",
    "feed_forward_output",
)


@dataclass(frozen=True)
class Site:
    """A linear layer of a block, or a part of one that computes several things at once.

    Attributes:
        path: of the layer inside the block.
        part: which of how many equal parts of its outputs, (0, 3) for the first third; None: all of them.
    """

    path: str
    part: tuple[int, int] | None = None

    def outputs(self, num_outputs: int) -> slice:
        """Return which of the layer's outputs these are."""
        if self.part is None:
            return slice(0, num_outputs)
        index, count = self.part
        size = num_outputs // count
        return slice(index * size, (index + 1) * size)


_BERT: dict[SiteName, tuple[Site, ...]] = {
    "query": (Site("attention.self.query"),),
    "key": (Site("attention.self.key"),),
    "value": (Site("attention.self.value"),),
    "attention_output": (Site("attention.output.dense"),),
    "feed_forward_input": (Site("intermediate.dense"),),
    "feed_forward_output": (Site("output.dense"),),
}
_SITES: dict[str, dict[SiteName, tuple[Site, ...]]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    # Queries and keys of relative positions, which are the same for all rows, go through the same layers.
    "deberta-v2": {
        "value": (Site("attention.self.value_proj"),),
        **{name: _BERT[name] for name in ("attention_output", "feed_forward_input", "feed_forward_output")},
    },
    "distilbert": {
        "query": (Site("attention.q_lin"),),
        "key": (Site("attention.k_lin"),),
        "value": (Site("attention.v_lin"),),
        "attention_output": (Site("attention.out_lin"),),
        "feed_forward_input": (Site("ffn.lin1"),),
        "feed_forward_output": (Site("ffn.lin2"),),
    },
    "gpt2": {
        "query": (Site("attn.c_attn", (0, 3)),),
        "key": (Site("attn.c_attn", (1, 3)),),
        "value": (Site("attn.c_attn", (2, 3)),),
        "attention_output": (Site("attn.c_proj"),),
        "feed_forward_input": (Site("mlp.c_fc"),),
        "feed_forward_output": (Site("mlp.c_proj"),),
    },
    "modernbert": {
        "query": (Site("attn.Wqkv", (0, 3)),),
        "key": (Site("attn.Wqkv", (1, 3)),),
        "value": (Site("attn.Wqkv", (2, 3)),),
        "attention_output": (Site("attn.Wo"),),
        "feed_forward_input": (Site("mlp.Wi"),),
        "feed_forward_output": (Site("mlp.Wo"),),
    },
    "t5": {
        "query": (Site("layer.0.SelfAttention.q"),),
        "key": (Site("layer.0.SelfAttention.k"),),
        "value": (Site("layer.0.SelfAttention.v"),),
        "attention_output": (Site("layer.0.SelfAttention.o"),),
        "feed_forward_input": (
            Site("layer.1.DenseReluDense.wi"),
            Site("layer.1.DenseReluDense.wi_0"),
            Site("layer.1.DenseReluDense.wi_1"),
        ),
        "feed_forward_output": (Site("layer.1.DenseReluDense.wo"),),
    },
}


def known_sites(family: str) -> tuple[SiteName, ...]:
    """Return the names of the sites of a family's blocks at which a row's tokens can be told from another's."""
    return tuple(name for name in SITE_NAMES if name in _SITES.get(family, {}))


def check_sites(family: str, names: Sequence[SiteName], setting: str) -> None:
    """Refuse layers that a family's blocks do not have, or not for each row by itself.

    Raises:
        UserError: naming the setting that asks for them.
    """
    known = known_sites(family)
    if not known:
        raise UserError(
            f"{setting}: a '{family}' model's blocks are not known well enough to add to their layers. Take an encoder "
            "of another family, or a strategy that works on whole blocks, such as sharing=hard."
        )
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(
            f"{setting}: found {', '.join(map(repr, missing))}, but in a '{family}' model "
            f"{'that layer also serves' if len(missing) == 1 else 'these layers also serve'} relative positions, which "
            f"belong to no row; allowed: {', '.join(known)}"
        )


def find_sites(family: str, block: nn.Module, name: SiteName) -> list[Site]:
    """Return the linear layers of a block that go by a name; T5's gated layers have two inputs."""
    paths = {path for path, _ in block.named_modules()}
    return [site for site in _SITES[family][name] if site.path in paths]
