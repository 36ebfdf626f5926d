"""Layer mix: each task reads a weighted sum of all blocks."""

import pytest
import torch
from checkpointing import checkpoint_activations
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED
from gradients.steps import LABELS, tasks
from torch import nn

from mtl_cli.encoders import Encoder
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import TaskModules, parameter_partition
from mtl_cli.sharing.layer_mix import LayerMix, MixingBlock, ScalarMix
from mtl_cli.training import AdamW

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]
FINAL_NORMS = {"modernbert": "final_norm", "gpt2": "ln_f", "t5": "encoder.final_layer_norm"}


def hidden(encoder, lengths=LENGTHS):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def states_of(encoder):
    """The hidden states in front of the first block and behind each, flat, before any final normalisation."""
    found = []

    def keep(module, inputs, output):
        if not found:
            found.append(inputs[0])
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in encoder.blocks]
    with torch.no_grad():
        _, layout = hidden(encoder)
    for handle in handles:
        handle.remove()
    if layout.packed:
        return [state[0] for state in found], layout
    places = layout.padding(found[0].device).slot_of_token_N
    return [state.flatten(0, 1)[places] for state in found], layout


def move(encoder):
    """Give every mix numbers of its own."""
    mix = encoder.blocks[-1].mix
    mixes = mix.values() if isinstance(mix, TaskModules) else [mix]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for scalar_mix in mixes:
            scalar_mix.logits.add_(torch.randn(scalar_mix.logits.shape, generator=generator))
            scalar_mix.scale.add_(0.5 * torch.rand(1, generator=generator))


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("per_task", [True, False])
def test_with_all_weight_on_the_top_it_begins_as_hard_sharing(make_encoder, family, packed, per_task):
    encoder = make_encoder(family, packed).eval()
    before_ND, _ = hidden(encoder)
    LayerMix(initial_top_share=1 - 1e-7, include_embeddings=True, per_task=per_task).attach(encoder, ["a", "b", "c"])
    encoder.eval()
    torch.testing.assert_close(hidden(encoder)[0], before_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("include_embeddings", [True, False])
def test_a_task_reads_the_weighted_sum_of_the_blocks_states(make_encoder, family, packed, include_embeddings):
    encoder = make_encoder(family, packed).eval()
    states, layout = states_of(encoder)
    states = states if include_embeddings else states[1:]
    LayerMix(include_embeddings=include_embeddings).attach(encoder, ["a", "b", "c"])
    encoder.eval()
    move(encoder)
    norm = encoder.model.get_submodule(FINAL_NORMS[family]) if family in FINAL_NORMS else nn.Identity()
    found_ND, _ = hidden(encoder)
    for task, part in layout.token_slices.items():
        mix = encoder.blocks[-1].mix[task]
        powers = [logit.exp() for logit in mix.logits]
        expected = sum(power / sum(powers) * state[part] for power, state in zip(powers, states, strict=True))
        torch.testing.assert_close(found_ND[part], norm(mix.scale * expected), atol=1e-5, rtol=1e-4)


def test_the_mix_begins_even_as_in_the_papers():
    assert ScalarMix(4, None, 0.0).shares().tolist() == [0.25] * 4
    assert ScalarMix(4, None, 0.0).scale.item() == 1.0


def test_a_share_of_the_top_block_can_be_set_for_the_start():
    torch.testing.assert_close(ScalarMix(4, 0.7, 0.0).shares(), torch.tensor([0.1, 0.1, 0.1, 0.7]))
    assert ScalarMix(1, 0.7, 0.0).shares().tolist() == [1.0]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family):
    encoder = make_encoder(family).eval()
    LayerMix().attach(encoder, ["a", "b", "c"])
    encoder.eval()
    move(encoder)
    together_ND, layout = hidden(encoder)
    input_ids_N, _ = tiny_encoders.rows(LENGTHS, packed=encoder.packed)
    for task, lengths in LENGTHS.items():
        part = tiny_encoders.rows({task: lengths}, packed=encoder.packed)[1]
        alone_ND = encoder(input_ids_N[layout.token_slices[task]], None, part)
        torch.testing.assert_close(together_ND[layout.token_slices[task]], alone_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_task_trains_its_own_mix_and_every_block(make_encoder, family):
    encoder = make_encoder(family)
    LayerMix(dropout=0.0).attach(encoder, ["a", "b", "c"])
    encoder.train()
    move(encoder)
    found_ND, layout = hidden(encoder)
    found_ND[layout.token_slices["b"]].pow(3).sum().backward()
    mix = encoder.blocks[-1].mix
    assert all(p.grad.abs().sum() > 0 for p in mix["b"].parameters())
    assert all(p.grad is None or not p.grad.any() for task in "ac" for p in mix[task].parameters())
    assert all(p.grad.abs().sum() > 0 for block in encoder.blocks for p in block.parameters() if p.ndim > 1)
    partition = parameter_partition(encoder)
    assert {part for name, part in partition.items() if ".mix." in name} == {"a", "b", "c"}


def test_one_mix_for_all_tasks_is_shared(make_encoder):
    encoder = make_encoder("bert")
    strategy = LayerMix(per_task=False)
    strategy.attach(encoder, ["a", "b"])
    assert set(parameter_partition(encoder).values()) == {"shared"}
    assert strategy.why_no_representation(3) is None
    assert "mixes the states of all blocks" in LayerMix().why_no_representation(3)


def test_dropout_leaves_states_out_in_training_alone():
    mix = ScalarMix(3, None, 0.5)
    states = [torch.tensor([[1.0]]), torch.tensor([[10.0]]), torch.tensor([[100.0]])]
    torch.manual_seed(0)
    mix.train()
    found = {round(mix(states).item(), 3) for _ in range(200)}
    # The means of all subsets; of none of them: of all.
    subsets = [[1], [10], [100], [1, 10], [1, 100], [10, 100], [1, 10, 100]]
    assert found == {round(sum(subset) / len(subset), 3) for subset in subsets}
    mix.eval()
    assert {mix(states).item() for _ in range(20)} == {37.0}


def test_the_share_of_dropped_states_is_the_probability():
    mix = ScalarMix(2, None, 0.1).train()
    states = [torch.zeros(1, 1), torch.ones(1, 1)]
    torch.manual_seed(0)
    # The second one alone is left with probability 0.1 * 0.9.
    count = sum(mix(states).item() == 1.0 for _ in range(4000))
    assert 0.075 < count / 4000 < 0.105


def test_the_result_has_the_states_own_precision():
    mix = ScalarMix(2, None, 0.0)
    states = [torch.ones(1, 2, dtype=torch.bfloat16)] * 2
    assert mix(states).dtype == torch.bfloat16
    assert mix.double()([torch.ones(1, 2, dtype=torch.float64)] * 2).dtype == torch.float64


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_pass_that_breaks_off_leaves_nothing_to_the_next(make_encoder, family):
    encoder = make_encoder(family).eval()
    LayerMix().attach(encoder, ["a", "b", "c"])
    encoder.eval()
    expected_ND, _ = hidden(encoder)

    def fail(module, inputs):
        raise MemoryError("no room")

    for index in range(3):
        handle = encoder.blocks[index].wrapped.register_forward_pre_hook(fail)
        with pytest.raises(MemoryError, match="no room"):
            hidden(encoder)
        handle.remove()
        assert encoder.blocks[0]._kept == []
        assert torch.equal(hidden(encoder)[0], expected_ND)
    assert encoder.blocks[0]._kept == []


def test_an_encoder_of_one_block(make_encoder):
    encoder = make_encoder("bert").eval()
    del encoder.blocks[1:]
    encoder.model.config.num_hidden_layers = 1
    states, _ = states_of(encoder)
    LayerMix(include_embeddings=True).attach(encoder, ["a", "b", "c"])
    encoder.eval()
    torch.testing.assert_close(hidden(encoder)[0], (states[0] + states[1]) / 2, atol=1e-5, rtol=1e-5)
    assert isinstance(encoder.blocks[0], MixingBlock)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    found = []
    for checkpointing in (False, True):
        encoder = make_encoder(family)
        LayerMix(include_embeddings=True).attach(encoder, ["a", "b", "c"])
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
    chosen = {name: tasks()[name] for name in ("mood", "tags")}
    return MultiTaskModel(encoder, strategy, chosen, {name: LABELS[name] for name in chosen})


def test_the_optimizer_gives_mixes_a_higher_rate_and_no_decay():
    model = model_with(LayerMix(lr_factor=20.0))
    optimizer = AdamW(lr=1e-4, weight_decay=0.1).build(model)
    mixes = {id(p) for p in model.encoder.blocks[-1].mix.parameters()}
    (group,) = [group for group in optimizer.param_groups if group["base_lr"] == pytest.approx(2e-3)]
    assert {id(p) for p in group["params"]} == mixes
    assert group["weight_decay"] == 0.0


def test_learnt_tells_each_task_s_shares_and_scale():
    model = model_with(LayerMix(include_embeddings=True))
    mix = model.encoder.blocks[-1].mix
    with torch.no_grad():
        mix["tags"].logits.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).log())
        mix["tags"].scale.fill_(1.5)
    found = model.sharing.learnt(model)
    assert found["layer_mix"].rows == ("mood", "tags")
    assert found["layer_mix"].columns == ("embeddings", "block_0", "block_1", "block_2")
    assert found["layer_mix"].values[0] == (0.25, 0.25, 0.25, 0.25)
    assert found["layer_mix"].values[1] == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert found["layer_mix"].scale == "share"
    assert found["layer_mix_scale"].values == ((1.0,), (1.5,))
    shared = model_with(LayerMix(per_task=False))
    found = shared.sharing.learnt(shared)["layer_mix"]
    assert found.rows == ("all_tasks",)
    assert found.values[0] == pytest.approx((1 / 3, 1 / 3, 1 / 3))
