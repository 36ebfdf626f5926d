"""Projected attention layers: what they add, and that rows stay apart."""

from copy import deepcopy

import pytest
import torch
from encoders import tiny_encoders
from sharing import small_modules_tools
from sharing.small_modules_tools import (
    EVERY_KIND,
    LENGTHS,
    TASKS,
    WAYS,
    assert_rows_stay_apart,
    assert_starts_as_the_plain_encoder,
    checkpointed_gradients,
    hidden_of,
    model_with,
    numbers,
    perturb,
    reached_by,
)

from mtl_cli.encoders.attention import packed_attention
from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.pal import PAL, ProjectedAttention, attend_within_rows
from mtl_cli.types import UserError


def attached(make_encoder, family, packed=None, **settings):
    return small_modules_tools.attached(make_encoder, PAL(**settings), family, packed)


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_training_begins_with_the_plain_encoder(make_encoder, family, packed):
    assert_starts_as_the_plain_encoder(make_encoder, PAL(), family, packed)


@pytest.mark.parametrize(("family", "packed"), [*EVERY_KIND, ("modernbert", True)])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, packed):
    assert_rows_stay_apart(make_encoder, PAL(), family, packed)


@pytest.mark.parametrize(("family", "packed"), [("bert", True), ("bert", False), ("gpt2", True), ("gpt2", False)])
def test_a_row_does_not_depend_on_its_neighbours_of_the_same_task(make_encoder, family, packed):
    encoder = attached(make_encoder, family, packed)
    perturb(encoder)
    encoder.double()
    input_ids_N, _ = tiny_encoders.rows({"a": [4, 7, 19]}, packed=packed)
    together_ND = encoder(input_ids_N, None, tiny_encoders.rows({"a": [4, 7, 19]}, packed=packed)[1])
    start = 0
    for length in (4, 7, 19):
        ids = input_ids_N[start : start + length]
        alone_ND = encoder(ids, None, tiny_encoders.rows({"a": [length]}, packed=packed)[1])
        torch.testing.assert_close(together_ND[start : start + length], alone_ND, atol=1e-9, rtol=1e-9)
        start += length


def attention_by_loops(query_NS, key_NS, value_NS, lengths, num_heads, causal):
    rows = []
    for q_TS, k_TS, v_TS in zip(*(x.split(lengths) for x in (query_NS, key_NS, value_NS)), strict=True):
        heads = []
        for q_TE, k_TE, v_TE in zip(*(x.chunk(num_heads, dim=1) for x in (q_TS, k_TS, v_TS)), strict=True):
            scores_TT = q_TE @ k_TE.T / q_TE.shape[1] ** 0.5
            if causal:
                scores_TT = scores_TT.masked_fill(torch.ones_like(scores_TT).triu(1).bool(), -torch.inf)
            heads.append(scores_TT.softmax(-1) @ v_TE)
        rows.append(torch.cat(heads, dim=1))
    return torch.cat(rows)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_within_rows_equals_a_loop_over_rows(packed, causal):
    generator = torch.Generator().manual_seed(0)
    lengths = [n for of_task in LENGTHS.values() for n in of_task]
    _, layout = tiny_encoders.rows(LENGTHS, packed=packed)
    flat = [torch.randn(layout.num_tokens, 12, generator=generator) for _ in range(3)]
    expected_NS = attention_by_loops(*flat, lengths, 3, causal)
    if packed:
        found = attend_within_rows(*(x[None] for x in flat), layout, num_heads=3, causal=causal, dropout=0.0)[0]
    else:
        padding = layout.padding(torch.device("cpu"))
        wide = [x[padding.token_of_slot_BT] for x in flat]
        # What stands in the padding must not count.
        wide = [x.masked_fill(~padding.is_real_BT[..., None], 100.0) for x in wide]
        found = attend_within_rows(*wide, layout, num_heads=3, causal=causal, dropout=0.0)
        found = found.flatten(0, 1)[padding.slot_of_token_N]
    torch.testing.assert_close(found, expected_NS, atol=1e-5, rtol=1e-5)


def test_a_bert_block_adds_the_formula_before_its_last_normalisation(make_encoder):
    encoder = attached(make_encoder, "bert", blocks=[1])
    perturb(encoder)
    seen = {}
    block = encoder.blocks[1].wrapped
    block.register_forward_pre_hook(lambda module, args: seen.update(h=args[0][0]))
    block.register_forward_hook(lambda module, args, output: seen.update(out=output))
    block.attention.register_forward_hook(lambda module, args, output: seen.update(attended=output[0][0]))
    _, layout = hidden_of(encoder)
    output_ND = seen["out"][0] if isinstance(seen["out"], torch.Tensor) else seen["out"][0][0]
    layer = block.output.dense
    inner = block.intermediate(seen["attended"]) @ layer.wrapped.weight.T + layer.wrapped.bias
    for task, tokens in layout.token_slices.items():
        outer = encoder.extras["pal"][task]
        h_ND = seen["h"][tokens]
        q, k, v = (h_ND @ outer.encode.weight.T @ w.T for w in layer.of_task[task].weight.chunk(3))
        ts_ND = attention_by_loops(q, k, v, LENGTHS[task], 4, False) @ outer.decode.weight.T
        assert ts_ND.abs().max() > 0.1
        expected_ND = block.output.LayerNorm(inner[tokens] + seen["attended"][tokens] + ts_ND)
        torch.testing.assert_close(output_ND[tokens], expected_ND, atol=2e-5, rtol=1e-4)


def test_a_causal_encoder_stays_causal_and_others_look_both_ways(make_encoder):
    for family, causal in (("gpt2", True), ("bert", False)):
        encoder = attached(make_encoder, family)
        perturb(encoder)
        input_ids_N, layout = tiny_encoders.rows({"a": [9]}, packed=True)
        changed_N = input_ids_N.clone()
        changed_N[-1] += 1
        difference_ND = encoder(input_ids_N, None, layout) - encoder(changed_N, None, layout)
        assert (difference_ND[:-1].abs().max().item() < 1e-6) is causal
        assert all(m.causal is causal for m in encoder.modules() if isinstance(m, ProjectedAttention))


@pytest.mark.parametrize(("family", "packed"), EVERY_KIND)
def test_a_task_s_loss_reaches_its_own_attention_and_the_shared_encoder(make_encoder, family, packed):
    encoder = attached(make_encoder, family, packed)
    perturb(encoder)
    partition = parameter_partition(encoder)
    reached = reached_by(encoder, "b")
    own = {name for name, part in partition.items() if part == "b"}
    assert len(own) == 2 + 3  # one encode and decode, an attention in each block
    assert own <= reached
    assert not any(partition[name] in ("a", "c") for name in reached)
    assert "shared" in {partition[name] for name in reached}


def test_sizes_are_the_paper_s_for_bert_base_and_in_proportion_elsewhere():
    assert PAL().sizes(768, 12) == (204, 12)
    assert PAL().sizes(1024, 16) == (272, 16)
    assert PAL().sizes(32, 4) == (8, 4)
    assert PAL().sizes(8, 8) == (8, 8)  # at least one a head
    assert PAL(hidden_size=60, num_heads=6).sizes(768, 12) == (60, 6)


def test_the_number_of_parameters_is_the_paper_s(make_encoder):
    # A task: V^E and V^D of 2 x 32 x 8, and 3 x 8 x 8 in each of three blocks, no biases.
    encoder = attached(make_encoder, "bert")
    named = dict(encoder.named_parameters())
    own = [named[name].numel() for name, part in parameter_partition(encoder).items() if part == "a"]
    assert sum(own) == 2 * 32 * 8 + 3 * 3 * 8 * 8


def test_a_width_that_heads_do_not_divide_is_refused(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.hidden_size: found 10 with 4 heads; allowed: multiples of 4"):
        PAL(hidden_size=10).attach(make_encoder("bert"), ["a"])
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[7\]"):
        PAL(blocks=[7]).attach(make_encoder("bert"), ["a"])


@pytest.mark.parametrize("family", ["bert", "t5", "deberta-v2"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    without, with_it = checkpointed_gradients(make_encoder, PAL(dropout=0.2), family)
    assert without.keys() == with_it.keys()
    assert any("extras" in name for name in without)
    for name in without:
        torch.testing.assert_close(without[name], with_it[name], atol=1e-4, rtol=1e-4)


def test_hidden_states_are_not_kept_and_a_copy_has_weights_of_its_own(make_encoder):
    encoder = attached(make_encoder, "bert")
    perturb(encoder)
    before_ND, _ = hidden_of(encoder)
    layers = [module for module in encoder.modules() if isinstance(module, ProjectedAttention)]
    assert all(layer.block_input is None for layer in layers)
    layers[0].block_input = before_ND  # as activation checkpointing leaves it
    twin = deepcopy(encoder)
    torch.testing.assert_close(hidden_of(twin)[0], before_ND)
    with torch.no_grad():
        for parameter in twin.extras.parameters():
            parameter.zero_()
    assert (hidden_of(twin)[0] - before_ND).abs().max() > 0.1
    torch.testing.assert_close(hidden_of(encoder)[0], before_ND)


def test_dropout_acts_in_training_alone(make_encoder):
    for family in ("bert", "t5"):
        encoder = attached(make_encoder, family, dropout=0.5)
        perturb(encoder)
        layers = [module for module in encoder.modules() if isinstance(module, ProjectedAttention)]
        before_ND, _ = hidden_of(encoder)
        assert torch.equal(hidden_of(encoder)[0], before_ND)
        for layer in layers:
            layer.training = True  # the rest stays in evaluation mode
        assert not torch.equal(hidden_of(encoder)[0], before_ND)


def test_a_warning_of_its_dropout_names_the_setting_of_the_strategy(make_encoder, monkeypatch):
    named = []

    def looked_at(*args, dropout_setting, **settings):
        named.append(dropout_setting)
        return packed_attention(*args, **settings)

    monkeypatch.setattr("mtl_cli.sharing.pal.packed_attention", looked_at)
    encoder = attached(make_encoder, "bert", dropout=0.5).train()
    hidden_of(encoder)
    assert set(named) == {"sharing.dropout"}


def test_a_frozen_encoder_trains_the_tasks_attention(make_encoder):
    encoder = attached(make_encoder, "bert", train_encoder=False, train_norms=False)
    assert set(parameter_partition(encoder).values()) == set(TASKS)


def test_norms_are_those_of_the_values_way():
    model = model_with(PAL(blocks=[2]))
    assert numbers(model.sharing.learnt(model)["pal_norms"]).tolist() == [[0.0]] * 3
    perturb(model)
    learnt = model.sharing.learnt(model)["pal_norms"]
    assert learnt.columns == ("block_2",)
    for row, task in enumerate(learnt.rows):
        outer = model.encoder.extras["pal"][task]
        value_SS = model.encoder.blocks[2].output.dense.of_task[task].weight[-8:]
        expected = torch.linalg.matrix_norm(outer.decode.weight @ value_SS @ outer.encode.weight)
        assert learnt.values[row][0] == pytest.approx(expected.item(), rel=1e-5)
