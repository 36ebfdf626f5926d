"""Compiled blocks compute the same, and are compiled once for all lengths."""

import pytest
import torch
from gradients.steps import batch, model_of

from mtl_cli.encoders.compiling import compile_blocks
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.types import UserError
from mtl_cli.weighting import Equal


def step_of_lengths(*lengths):
    return {"mood": batch("mood", list(lengths))}


def gradients(model, step):
    weighting = Equal()
    weighting.start(tuple(model.tasks), seed=0)
    GradientEngine(model, weighting, Losses(model, "fp32", torch.device("cpu"))).step([[step]])
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.fixture
def _no_compiled_code_left():
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_no_compiled_code_left")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
def test_gradients_are_the_same_and_new_lengths_compile_nothing():
    eager, compiled = model_of(), model_of()
    compile_blocks(compiled.encoder, backend="eager")  # traces and guards as ever, generates no code
    for number, lengths in enumerate([(5, 9, 7), (4, 12), (30, 2, 2, 6)]):
        step = step_of_lengths(*lengths)
        with torch.compiler.set_stance("fail_on_recompile" if number > 1 else "default"):
            found = gradients(compiled, step)
        for name, expected in gradients(eager, step).items():
            torch.testing.assert_close(found[name.replace("._orig_mod", "")], expected, atol=1e-6, rtol=1e-5)


def test_padded_rows_and_blocks_with_layers_of_a_strategy_are_refused():
    with pytest.raises(UserError, match=r"trainer.compile: true, but a 't5' model runs padded rows"):
        compile_blocks(model_of("t5").encoder)
    with pytest.raises(UserError, match=r"trainer.compile: true, but the sharing strategy puts layers into the blocks"):
        compile_blocks(model_of(num_shared_layers=1).encoder)
