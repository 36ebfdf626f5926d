"""What the tests of strategies with experts have in common."""

import torch
from checkpointing import checkpoint_activations
from encoders import tiny_encoders
from gradients.steps import CPU, LABELS, gradients_of, step_of, tasks

from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.weighting import PCGrad

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


def assert_starts_as_the_plain_encoder(make_encoder, strategy, family):
    encoder = make_encoder(family).eval()
    before_ND, _ = hidden(encoder)
    after_ND, _ = hidden(attached(encoder, strategy))
    torch.testing.assert_close(after_ND, before_ND, atol=1e-5, rtol=1e-5)


def assert_rows_stay_apart(make_encoder, strategy, family):
    """Rows of a task are the same with and without the others."""
    encoder = attached(make_encoder(family), strategy)
    move(encoder, 0.05)
    together_ND, layout = hidden(encoder)
    input_ids_N, _ = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    for task, tokens in layout.token_slices.items():
        part = tiny_encoders.rows({task: LENGTHS[task]}, packed=encoder.packed)[1]
        alone_ND = encoder(input_ids_N[tokens], None, part)
        torch.testing.assert_close(together_ND[tokens], alone_ND, atol=2e-5, rtol=1e-4)


def assert_one_backward_pass_gives_each_task_s_gradient(strategy):
    found = []
    for engine in ("segmented", "per_task"):
        model = model_with(strategy).eval()
        move(model, 0.05)
        weighting = PCGrad(engine=engine)
        weighting.start(list(model.tasks), seed=1)
        GradientEngine(model, weighting, Losses(model, "fp32", CPU)).step([[step_of(tuple(model.tasks))]])
        found.append(gradients_of(model))
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, atol=1e-5, rtol=1e-3)


def assert_activation_checkpointing_changes_nothing(make_encoder, strategy, family):
    """The gradients of the last block with and without it are the same, dropout on."""
    gradients = []
    for checkpointing in (False, True):
        encoder = attached(make_encoder(family), strategy)
        move(encoder)
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        hidden(encoder)[0].pow(2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.blocks[2].parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)
