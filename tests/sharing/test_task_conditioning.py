"""Task conditioning: vectors of each task in front of the blocks and behind their normalisations."""

import pytest
import torch
from checkpointing import checkpoint_activations
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED
from gradients.steps import LABELS, tasks
from torch import nn

from mtl_cli.encoders import Encoder, use_layout
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.task_conditioning import ConditionalNorm, ConditionedBlock, TaskConditioning, norm_paths
from mtl_cli.training import AdamW
from mtl_cli.types import UserError

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]
SOME = ["bert", "gpt2", "modernbert", "deberta-v2", "t5"]
# Normalisations of three blocks; the first attention of ModernBERT has none.
NUM_NORMS = {family: 5 if family == "modernbert" else 6 for family in CONFIGS}


def hidden(encoder, lengths=LENGTHS):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def norms_of(encoder):
    return [module for module in encoder.blocks.modules() if isinstance(module, ConditionalNorm)]


def move(encoder, chosen="abc"):
    """Give these tasks vectors of their own."""
    generator = torch.Generator().manual_seed(7)
    holders = [m for m in encoder.blocks.modules() if isinstance(m, ConditionalNorm | ConditionedBlock)]
    with torch.no_grad():
        for holder in holders:
            for task in chosen:
                for parameter in holder.of_task[task].parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_it_begins_as_hard_sharing(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    before_ND, _ = hidden(encoder)
    TaskConditioning().attach(encoder, ["a", "b", "c"])
    torch.testing.assert_close(hidden(encoder)[0], before_ND, atol=1e-5, rtol=1e-5)
    assert len(norms_of(encoder)) == NUM_NORMS[family]


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("settings", [{"task_embedding": False}, {"conditional_norm": False}])
def test_a_task_s_vectors_act_on_its_rows_alone(make_encoder, family, packed, settings):
    encoder = make_encoder(family, packed).eval()
    before_ND, layout = hidden(encoder)
    TaskConditioning(**settings).attach(encoder, ["a", "b", "c"])
    move(encoder, "b")
    after_ND, _ = hidden(encoder)
    for task, tokens in layout.token_slices.items():
        difference = (after_ND[tokens] - before_ND[tokens]).abs().max()
        assert difference > 0.05 if task == "b" else difference < 1e-5, task


@pytest.mark.parametrize("family", SOME)
def test_a_task_s_rows_are_those_of_an_encoder_with_its_vectors_put_in(make_encoder, family):
    encoder = make_encoder(family).eval()
    TaskConditioning().attach(encoder, ["a", "b", "c"])
    move(encoder)
    found_ND, layout = hidden(encoder)
    of_task = {
        task: (
            encoder.blocks[0].embedding(task),
            [(norm.of_task[task].scale, norm.of_task[task].shift) for norm in norms_of(encoder)],
        )
        for task in LENGTHS
    }
    for task, (embedding, pairs) in of_task.items():
        plain = make_encoder(family).eval()
        plain.blocks[0].register_forward_pre_hook(lambda _, inputs, e=embedding: (inputs[0] + e, *inputs[1:]))
        norms = [block.get_submodule(path) for block in plain.blocks for path in norm_paths(block, 32)]
        for norm, (scale, shift) in zip(norms, pairs, strict=True):
            norm.register_forward_hook(lambda _, inputs, output, g=scale, b=shift: output * g + b)
        expected_ND, _ = hidden(plain)
        part = layout.token_slices[task]
        torch.testing.assert_close(found_ND[part], expected_ND[part], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family):
    encoder = make_encoder(family).eval()
    TaskConditioning().attach(encoder, ["a", "b", "c"])
    move(encoder)
    together_ND, layout = hidden(encoder)
    input_ids_N, _ = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    for task, lengths in LENGTHS.items():
        part = tiny_encoders.rows({task: lengths}, packed=encoder.packed)[1]
        alone_ND = encoder(input_ids_N[layout.token_slices[task]], None, part)
        torch.testing.assert_close(together_ND[layout.token_slices[task]], alone_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", SOME)
def test_a_task_trains_its_own_vectors_and_the_encoder(make_encoder, family):
    encoder = make_encoder(family).train()
    TaskConditioning().attach(encoder, ["a", "b", "c"])
    move(encoder)
    found_ND, layout = hidden(encoder)
    found_ND[layout.token_slices["b"]].pow(3).sum().backward()
    partition = parameter_partition(encoder)
    parameters = dict(encoder.named_parameters())
    assert set(partition.values()) == {"shared", "a", "b", "c"}
    for name, part in partition.items():
        gradient = parameters[name].grad
        if part == "b":
            assert gradient.abs().sum() > 0, name
        elif part != "shared":
            assert gradient is None or not gradient.any(), name
    assert all(parameters[n].grad.any() for n, part in partition.items() if part == "shared" and n.endswith("weight"))


def test_the_encoder_can_be_left_as_it_is(make_encoder):
    encoder = make_encoder("bert")
    strategy = TaskConditioning(train_encoder=False)
    strategy.attach(encoder, ["a", "b"])
    partition = parameter_partition(encoder)
    assert set(partition.values()) == {"a", "b"}
    # A vector in front of 3 blocks, a scale and a shift for 2 normalisations each: (4 * 3 + 1) * 32 a task.
    counts = [p.numel() for name, p in encoder.named_parameters() if partition.get(name) == "a"]
    assert sum(counts) == 13 * 32
    assert strategy.num_shared_blocks(3) == 0
    assert not strategy.shares_parameters()
    assert TaskConditioning().num_shared_blocks(3) == 3
    assert TaskConditioning().shares_parameters()


def test_inputs_that_belong_to_no_row_are_normalised_and_left_at_that(make_encoder):
    layout = tiny_encoders.rows({"a": [3], "b": [2, 4]}, packed=False)[1]
    norm = ConditionalNorm(nn.LayerNorm(32), 32, ["a", "b"])
    with torch.no_grad():
        norm.of_task["a"].shift.fill_(1.0)
        norm.of_task["b"].scale.fill_(2.0)
    by_row, positions = torch.randn(3, 4, 32), torch.randn(3, 32)  # as many relative positions as rows
    plain = norm.wrapped
    with use_layout(layout):
        torch.testing.assert_close(norm(positions), plain(positions))
        found = norm(by_row)
    torch.testing.assert_close(found[0], plain(by_row[0]) + 1.0)
    torch.testing.assert_close(found[1:], plain(by_row[1:]) * 2.0)


def test_normalisations_of_another_width_are_left_out():
    block = nn.ModuleDict(
        {"norm": nn.LayerNorm(8), "of_head": nn.LayerNorm(4), "rms": nn.RMSNorm(8), "bare": nn.LayerNorm(8, False)}
    )
    block["bare"] = nn.LayerNorm(8, elementwise_affine=False)
    assert norm_paths(block, 8) == ["norm", "rms"]


def test_the_result_has_the_hidden_states_own_precision():
    layout = tiny_encoders.rows({"a": [3], "b": [4]}, packed=True)[1]
    norm = ConditionalNorm(nn.LayerNorm(32), 32, ["a", "b"]).bfloat16()
    norm.of_task.float()
    with use_layout(layout):
        assert norm(torch.randn(1, 7, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_with_both_parts_off_there_is_nothing_left():
    with pytest.raises(UserError, match=r"sharing\.task_embedding and sharing\.conditional_norm: found false for both"):
        TaskConditioning(task_embedding=False, conditional_norm=False)


def test_an_encoder_without_known_normalisations_is_refused(make_encoder):
    encoder = make_encoder("bert")
    encoder.hidden_size = 33
    with pytest.raises(UserError, match=r"sharing\.conditional_norm: true, but no normalisation of width 33.*'bert'"):
        TaskConditioning().attach(encoder, ["a", "b"])


def test_the_shared_representation_is_refused():
    assert "stand between shared layers" in TaskConditioning().why_no_representation(3)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    found = []
    for checkpointing in (False, True):
        encoder = make_encoder(family)
        TaskConditioning().attach(encoder, ["a", "b", "c"])
        move(encoder)
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        hidden(encoder)[0].pow(2).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found)


def model_with(strategy):
    torch.manual_seed(0)
    encoder = Encoder(tiny_encoders.reference_model("bert"), tiny_encoders.tokenizer(), pooling="mean", packed=True)
    chosen = {name: tasks()[name] for name in ("mood", "tags", "nli")}
    return MultiTaskModel(encoder, strategy, chosen, {name: LABELS[name] for name in chosen})


def test_the_optimizer_gives_the_vectors_a_higher_rate_and_no_decay():
    model = model_with(TaskConditioning(lr_factor=10.0))
    optimizer = AdamW(lr=1e-4, weight_decay=0.1).build(model)
    vectors = {id(p) for name, p in model.named_parameters() if ".of_task." in name}
    (group,) = [group for group in optimizer.param_groups if group["base_lr"] == pytest.approx(1e-3)]
    assert {id(p) for p in group["params"]} == vectors
    assert group["weight_decay"] == 0.0


def test_learnt_tells_lengths_cosines_and_distances():
    model = model_with(TaskConditioning())
    first = model.encoder.blocks[0]
    with torch.no_grad():
        first.embedding("mood")[0] = 3.0
        first.embedding("tags")[:2] = torch.tensor([1.0, -1.0])
        norms = [m for m in model.encoder.blocks[1].modules() if isinstance(m, ConditionalNorm)]
        norms[0].of_task["tags"].scale[0] += 3.0
        norms[1].of_task["tags"].shift[5] -= 4.0
    found = model.sharing.learnt(model)
    assert found["task_embedding_norms"].rows == ("mood", "tags", "nli")
    assert [row[0] for row in found["task_embedding_norms"].values] == pytest.approx([3.0, 2**0.5, 0.0])
    mood, tags, nli = found["task_embedding_cosines"].values
    assert mood[:2] == pytest.approx((1.0, 0.5**0.5))
    assert tags[:2] == pytest.approx((0.5**0.5, 1.0))
    assert (mood[2], tags[2], *nli) == (None,) * 5  # a vector of zeros points nowhere
    assert found["conditional_norms"].columns == ("block_0", "block_1", "block_2")
    assert found["conditional_norms"].values == ((0.0, 0.0, 0.0), (0.0, 5.0, 0.0), (0.0, 0.0, 0.0))
    plain = model_with(TaskConditioning(conditional_norm=False))
    assert set(plain.sharing.learnt(plain)) == {"task_embedding_norms", "task_embedding_cosines"}
