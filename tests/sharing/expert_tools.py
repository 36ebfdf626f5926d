"""What the tests of strategies with experts have in common."""

import torch
from encoders import tiny_encoders
from gradients.steps import LABELS, tasks

from mtl_cli.encoders import Encoder
from mtl_cli.model import MultiTaskModel

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
FAMILIES = ["bert", "gpt2", "modernbert", "deberta-v2", "t5"]


def attached(encoder, strategy, names=tuple(LENGTHS)):
    torch.manual_seed(0)
    strategy.attach(encoder, list(names))
    return encoder.eval()


def hidden(encoder, lengths=LENGTHS):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def move(module, size=0.1):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def model_with(strategy, names=("mood", "nli", "tags"), family="bert"):
    torch.manual_seed(0)
    packed = family in tiny_encoders.PACKED
    encoder = Encoder(tiny_encoders.reference_model(family), tiny_encoders.tokenizer(), pooling="mean", packed=packed)
    of_tasks = {name: task for name, task in tasks().items() if name in names}
    return MultiTaskModel(encoder, strategy, of_tasks, {name: LABELS[name] for name in of_tasks})
