"""The last block computes what is read: same values, same gradients, fewer tokens."""

import pytest
import torch
from encoders import tiny_encoders

from mtl_cli.encoders import HuggingFaceEncoder, Layout
from mtl_cli.encoders.last_block import leave_out_unread
from mtl_cli.sharing import HardSharing
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, with_hidden

LENGTHS = {"a": [5, 17, 1, 9], "b": [3, 17, 30], "c": [4, 2]}
# Of a the rows' first tokens, of b some tokens in no order, of c all.
READ = {"a": [0, 5, 22, 23], "b": [4, 0, 19, 49, 20], "c": None}
READ_N = [0, 5, 22, 23, 36, 32, 51, 81, 52, *range(82, 88)]
KNOWN = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]


def encoder_of(model_folder, family, packing="auto"):
    return HuggingFaceEncoder(path=str(model_folder(family)), packing=packing, dropout=0.0).build().train()


def reading(layout):
    return layout.reading({task: None if of_task is None else torch.tensor(of_task) for task, of_task in READ.items()})


def watch(layer, seen):
    layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel() // inputs[0].shape[-1]))


def seen_by_last_linear(encoder):
    """The numbers of tokens that the last linear layer of the last block sees, call by call."""
    seen = []
    watch([m for m in encoder.blocks[-1].modules() if getattr(m, "weight", torch.empty(0)).ndim == 2][-1], seen)
    return seen


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", tiny_encoders.CONFIGS)
def test_what_is_read_is_as_if_all_were_computed(model_folder, family, checkpointing):
    encoder = encoder_of(model_folder, family)
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    weights_MD = torch.randn(len(READ_N), 32, generator=torch.Generator().manual_seed(1))
    expected_MD = encoder(input_ids_N, None, layout)[READ_N]
    (expected_MD * weights_MD).sum().backward()
    expected = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    encoder.zero_grad(set_to_none=True)
    if checkpointing:
        encoder.checkpoint_activations()
    seen = seen_by_last_linear(encoder)
    found_MD = encoder(input_ids_N, None, reading(layout))
    torch.testing.assert_close(found_MD, expected_MD, atol=1e-5, rtol=1e-5)
    (found_MD * weights_MD).sum().backward()
    for name, parameter in encoder.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4)
    assert {name for name, p in encoder.named_parameters() if p.grad is not None} == set(expected)
    if family in KNOWN:
        assert seen == [len(READ_N)] * (2 if checkpointing else 1)
    else:
        assert min(seen) > len(READ_N)


@pytest.mark.parametrize("own_blocks", [False, True])
def test_padded_rows_and_blocks_of_the_tasks_own_are_computed_in_full(model_folder, own_blocks):
    encoder = encoder_of(model_folder, "bert", packing=own_blocks)
    HardSharing(num_shared_layers=2 if own_blocks else None).attach(encoder, list(LENGTHS))
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    seen = []
    for layer in encoder.blocks[-1].modules():  # the block, or each task's
        if getattr(layer, "in_features", 0) == 48:
            watch(layer, seen)
    found_MD = encoder(input_ids_N, None, reading(layout))
    assert found_MD.shape == (len(READ_N), 32)
    assert sum(seen) == 88 if own_blocks else sum(seen) > 88
    torch.testing.assert_close(found_MD, encoder(input_ids_N, None, layout)[READ_N], atol=1e-6, rtol=1e-6)


class _AddsByTask(Wrapper):
    """Somebody's wrapper, not of this project: adds its task's number to every token."""

    def forward(self, hidden_1ND, *args, **kwargs):
        output = self.wrapped(hidden_1ND, *args, **kwargs)
        added = hidden_of(output).clone()
        for place, part in enumerate(self.layout().token_slices.values()):
            added[:, part] += place
        return with_hidden(output, added)


def test_layers_of_somebody_else_see_all_tokens(model_folder):
    encoder = encoder_of(model_folder, "bert")
    encoder.blocks[-1] = _AddsByTask(encoder.blocks[-1])
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=True)
    found_MD = encoder(input_ids_N, None, reading(layout))
    assert torch.equal(found_MD, encoder(input_ids_N, None, layout)[READ_N])


def test_a_block_that_is_built_otherwise_is_left_alone(model_folder):
    blocks = encoder_of(model_folder, "gpt2").blocks
    assert not leave_out_unread("bert", blocks)


def test_a_step_that_reads_all_after_one_that_does_not(model_folder):
    encoder = encoder_of(model_folder, "bert")
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=True)
    expected_ND = encoder(input_ids_N, None, layout)
    encoder(input_ids_N, None, reading(layout))
    assert torch.equal(encoder(input_ids_N, None, layout), expected_ND)
    assert len(encoder.blocks[-1].attention.output._forward_pre_hooks) == 1


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, from inside of it
@pytest.mark.parametrize("what", ["block", "model"])
def test_a_compiled_encoder_is_left_alone(model_folder, what):
    encoder = encoder_of(model_folder, "bert")
    last = encoder.blocks[-1]
    if what == "block":
        last.compile(backend="eager")
    else:
        encoder.model = torch.compile(encoder.model, backend="eager")
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=True)
    assert encoder(input_ids_N, None, reading(layout)).shape == (len(READ_N), 32)
    assert not last.attention.output._forward_pre_hooks


def test_a_block_that_runs_twice_is_left_alone(model_folder):
    encoder = encoder_of(model_folder, "bert")
    encoder.blocks[0].attention = encoder.blocks[-1].attention
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=True)
    found_MD = encoder(input_ids_N, None, reading(layout))
    assert torch.equal(found_MD, encoder(input_ids_N, None, layout)[READ_N])


def test_a_layout_of_which_all_is_read_stays_as_it_is():
    _, layout = tiny_encoders.rows(LENGTHS, packed=True)
    assert layout.reading(dict.fromkeys(LENGTHS)) is layout
    assert layout.read_slices == layout.token_slices


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_of_a_step_that_nothing_reads_there_are_no_hidden_states_and_gradients_are_zero(model_folder, family):
    encoder = encoder_of(model_folder, family)
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    hidden_RD = encoder(input_ids_N, None, layout.reading({task: torch.empty(0).long() for task in LENGTHS}))
    assert hidden_RD.shape == (0, 32)
    hidden_RD.sum().backward()
    gradients = [p.grad for p in encoder.blocks.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_slices_of_tokens_by_their_number():
    layout = reading(tiny_encoders.rows(LENGTHS, packed=True)[1])
    assert layout.read.tokens_R.tolist() == READ_N
    assert layout.slices_of(88) == layout.token_slices
    assert layout.slices_of(15) == layout.read_slices == {"a": slice(0, 4), "b": slice(4, 9), "c": slice(9, 15)}
    assert layout.slices_of(16) is None
    assert isinstance(layout.reading_all(), Layout)
    assert layout.reading_all().slices_of(15) is None
