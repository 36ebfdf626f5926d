"""What the tests of adapters and their kin have in common."""

import numpy as np
import torch
from checkpointing import checkpoint_activations
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED
from gradients.steps import LABELS, tasks

from mtl_cli.encoders import Encoder
from mtl_cli.model import MultiTaskModel

TASKS = ("a", "b", "c")
LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]
EVERY_KIND = [("bert", True), ("bert", False), ("gpt2", True), ("deberta-v2", False), ("t5", False)]


def attached(make_encoder, strategy, family, packed=None):
    encoder = make_encoder(family, packed)
    strategy.attach(encoder, list(TASKS))
    return encoder.eval()


def hidden_of(encoder, lengths=LENGTHS):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def perturb(module, seed=7, size=0.3):
    """Move trainable parameters away from a neutral start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def assert_starts_as_the_plain_encoder(make_encoder, strategy, family, packed):
    encoder = make_encoder(family, packed).eval()
    before_ND, _ = hidden_of(encoder)
    strategy.attach(encoder, list(TASKS))
    torch.testing.assert_close(hidden_of(encoder.eval())[0], before_ND, atol=1e-5, rtol=1e-5)


def assert_rows_stay_apart(make_encoder, strategy, family, packed):
    """Rows of a task are the same with and without the others, and whatever order the tasks come in."""
    encoder = make_encoder(family, packed).eval()
    strategy.attach(encoder, list(TASKS))
    perturb(encoder.eval())
    encoder.double()  # in float32 random weights as large as these blow rounding errors up
    together_ND, layout = hidden_of(encoder)
    input_ids_N, _ = tiny_encoders.rows(LENGTHS, packed=packed)
    for task, tokens in layout.token_slices.items():
        part = tiny_encoders.rows({task: LENGTHS[task]}, packed=packed)[1]
        alone_ND = encoder(input_ids_N[tokens], None, part)
        torch.testing.assert_close(together_ND[tokens], alone_ND, atol=1e-9, rtol=1e-9)
    turned = {task: LENGTHS[task] for task in ("c", "a", "b")}
    ids = torch.cat([input_ids_N[layout.token_slices[task]] for task in turned])
    turned_layout = tiny_encoders.rows(turned, packed=packed)[1]
    turned_ND = encoder(ids, None, turned_layout)
    for task, tokens in layout.token_slices.items():
        torch.testing.assert_close(
            together_ND[tokens], turned_ND[turned_layout.token_slices[task]], atol=1e-9, rtol=1e-9
        )


def reached_by(encoder, task):
    """Names of the parameters that a loss on one task's rows gives a gradient."""
    encoder.zero_grad(set_to_none=True)
    hidden_ND, layout = hidden_of(encoder)
    (hidden_ND[layout.token_slices[task]] * torch.linspace(-1, 1, hidden_ND.shape[1])).sum().backward()
    return {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def checkpointed_gradients(make_encoder, strategy, family):
    """The gradients of all parameters with and without activation checkpointing, dropout on."""
    found = []
    for checkpointing in (False, True):
        encoder = make_encoder(family)
        torch.manual_seed(1)
        strategy.attach(encoder, list(TASKS))
        perturb(encoder)
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        hidden_of(encoder)[0].pow(2).sum().backward()
        found.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    return found


def model_with(strategy, names=("mood", "nli", "tags"), family="bert", of_tasks=None):
    """A whole model in evaluation mode."""
    torch.manual_seed(0)
    encoder = Encoder(
        tiny_encoders.reference_model(family), tiny_encoders.tokenizer(), pooling="mean", packed=family in PACKED
    )
    chosen = of_tasks or {name: task for name, task in tasks().items() if name in names}
    return MultiTaskModel(encoder, strategy, chosen, {name: LABELS.get(name, LABELS["mood"]) for name in chosen}).eval()


def numbers(learnt):
    return np.array(learnt.values, dtype=float)
