"""Hard sharing: which blocks are whose, in every family."""

import pytest
import torch
from checkpointing import checkpoint_activations
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED

from mtl_cli.sharing import HardSharing, parameter_partition
from mtl_cli.sharing.columns import ColumnBlock
from mtl_cli.types import UserError

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]


def hidden(encoder, lengths=LENGTHS):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def change(block):
    """Give a task's block weights of its own."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("num_shared_layers", [0, 1])
def test_copies_begin_where_the_encoder_was(make_encoder, family, packed, num_shared_layers):
    encoder = make_encoder(family, packed).eval()
    before_ND, _ = hidden(encoder)
    HardSharing(num_shared_layers=num_shared_layers).attach(encoder, ["a", "b", "c"])
    assert [isinstance(block, ColumnBlock) for block in encoder.blocks] == [i >= num_shared_layers for i in range(3)]
    after_ND, _ = hidden(encoder)
    torch.testing.assert_close(after_ND, before_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("num_shared_layers", [0, 2])
def test_a_task_s_blocks_act_on_its_rows_alone(make_encoder, family, packed, num_shared_layers):
    encoder = make_encoder(family, packed).eval()
    HardSharing(num_shared_layers=num_shared_layers).attach(encoder, ["a", "b", "c"])
    before_ND, layout = hidden(encoder)
    for block in encoder.blocks[num_shared_layers:]:
        change(block.of_task["b"])
    after_ND, _ = hidden(encoder)
    for task, tokens in layout.token_slices.items():
        difference = (after_ND[tokens] - before_ND[tokens]).abs().max()
        assert difference > 0.1 if task == "b" else difference < 1e-6, task


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    HardSharing(num_shared_layers=1).attach(encoder, ["a", "b", "c"])
    for index in (1, 2):
        for task in "abc":
            change(encoder.blocks[index].of_task[task])
    together_ND, _ = hidden(encoder)
    alone = []
    input_ids_N, layout = tiny_encoders.rows(LENGTHS, packed=packed)
    for task, lengths in LENGTHS.items():
        part = tiny_encoders.rows({task: lengths}, packed=packed)[1]
        alone.append(encoder(input_ids_N[layout.token_slices[task]], None, part))
    torch.testing.assert_close(together_ND, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_a_task_s_loss_trains_its_own_blocks_and_the_shared_ones(make_encoder, family, packed):
    encoder = make_encoder(family, packed).train()
    HardSharing(num_shared_layers=1).attach(encoder, ["a", "b", "c"])
    hidden_ND, layout = hidden(encoder)
    hidden_ND[layout.token_slices["b"]].pow(2).sum().backward()
    for block in encoder.blocks[1:]:
        assert all(
            parameter.grad.abs().sum() > 0 for parameter in block.of_task["b"].parameters() if parameter.ndim > 1
        )
        for other in "ac":
            assert all(p.grad is None or not p.grad.any() for p in block.of_task[other].parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.blocks[0].parameters() if parameter.ndim > 1)


def test_all_blocks_are_shared_by_default(make_encoder):
    encoder = make_encoder("bert")
    HardSharing().attach(encoder, ["a", "b"])
    assert set(parameter_partition(encoder).values()) == {"shared"}


def test_the_partition_follows_the_blocks(make_encoder):
    encoder = make_encoder("bert")
    HardSharing(num_shared_layers=2).attach(encoder, ["a", "b"])
    partition = parameter_partition(encoder)
    assert partition.keys() == dict(encoder.named_parameters()).keys()
    own = {name: part for name, part in partition.items() if part != "shared"}
    assert all(name.startswith(f"model.encoder.layer.2.of_task.{part}.") for name, part in own.items())
    assert list(own.values()).count("a") == list(own.values()).count("b") == 16  # parameters of a BERT block


def test_frozen_blocks_stay_frozen_in_the_copies(make_encoder):
    encoder = make_encoder("bert")
    encoder.freeze(embeddings=True, num_blocks=2)
    HardSharing(num_shared_layers=1).attach(encoder, ["a", "b"])
    partition = parameter_partition(encoder)
    assert set(partition.values()) == {"a", "b"}
    assert all(".layer.2." in name for name in partition)


def test_more_shared_blocks_than_there_are(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.num_shared_layers: 4, but the encoder has 3 blocks"):
        HardSharing(num_shared_layers=4).attach(make_encoder("bert"), ["a", "b"])


def test_a_batch_as_wide_as_the_embeddings_of_positions_is_split_rightly(make_encoder):
    # DeBERTa hands its 16 embeddings of relative positions to each block: not to be taken for those of 16 rows.
    encoder = make_encoder("deberta-v2").eval()
    lengths = {"a": [32] * 8, "b": [32] * 8}
    before_ND, _ = hidden(encoder, lengths)
    HardSharing(num_shared_layers=0).attach(encoder, ["a", "b"])
    torch.testing.assert_close(hidden(encoder, lengths)[0], before_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    gradients = []
    for checkpointing in (False, True):
        encoder = make_encoder(family)
        HardSharing(num_shared_layers=1).attach(encoder, ["a", "b", "c"])
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        hidden(encoder)[0].pow(2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.blocks[1].of_task["a"].parameters()]))
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0
