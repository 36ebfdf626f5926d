"""Cross-stitch networks: columns of encoders, and what is mixed between them."""

import pytest
import torch
from checkpointing import checkpoint_activations
from sharing import columns_by_hand
from sharing.columns_by_hand import COLUMNS, WAYS, check_rows, drift_apart, encode, expected, plain_encoder, set_rows

from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.cross_stitch import CrossStitch, Stitch, StitchedBlock
from mtl_cli.sharing.repeated_rows import OnceForAllColumns
from mtl_cli.sharing.wrappers import marks_of
from mtl_cli.types import UserError


def attached(make_encoder, family, packed=None, tasks=COLUMNS, **settings):
    return columns_by_hand.attached(make_encoder, CrossStitch(**settings), family, packed, tasks)


def stitches(encoder):
    return {i: block.stitch for i, block in enumerate(encoder.blocks) if isinstance(block, StitchedBlock)}


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("num_shared_layers", [0, 2])
def test_the_start_is_the_plain_encoder(make_encoder, family, packed, num_shared_layers):
    strategy = CrossStitch(num_shared_layers=num_shared_layers)
    columns_by_hand.assert_starts_as_the_plain_encoder(make_encoder, strategy, family, packed)


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_with_identity_stitches_the_columns_are_separate_encoders(make_encoder, family, packed):
    encoder, strategy = attached(make_encoder, family, packed, self_weight=1.0)
    kept = {i: stitch.alpha().detach().clone() for i, stitch in stitches(encoder).items()}
    drift_apart(encoder)
    for i, stitch in stitches(encoder).items():
        set_rows(stitch.alpha, kept[i])
    found_ND, input_ids_N, layout = encode(strategy, encoder)
    alone = {column: plain_encoder(family, encoder, column)(input_ids_N, None, layout) for column in COLUMNS}
    assert min((alone["a"] - alone[other]).abs().mean() for other in "bc") > 0.05
    check_rows(found_ND, alone, layout)


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"per_channel": False, "num_shared_layers": 1}, {"blocks": [1]}, {"blocks": [2, 0]}],
    ids=str,
)
@pytest.mark.usefixtures("one_pass")
def test_the_states_of_all_columns_are_mixed_behind_each_block(make_encoder, family, packed, settings):
    encoder, strategy = attached(make_encoder, family, packed, **settings)
    drift_apart(encoder)
    alphas = {i: stitch.alpha() for i, stitch in stitches(encoder).items()}
    assert sorted(alphas) == sorted(settings.get("blocks") or range(settings.get("num_shared_layers", 0), 3))

    def mix(number, outputs):
        if number not in alphas:
            return outputs
        mixed = {}
        for i, column in enumerate(COLUMNS):
            mixed[column] = sum(alphas[number][i, j] * outputs[other] for j, other in enumerate(COLUMNS))
        return mixed

    with torch.no_grad():
        found_ND, input_ids_N, layout = encode(strategy, encoder)
        encoders = {column: plain_encoder(family, encoder, column) for column in COLUMNS}
        last = lambda mixed: {column: of_blocks[-1] for column, of_blocks in mixed.items()}  # noqa: E731
        check_rows(found_ND, expected(encoders, mix, last, input_ids_N, layout), layout)


def test_a_stitch_mixes_channel_by_channel():
    stitch = Stitch(2, 0.9, 2)
    assert torch.allclose(stitch.alpha(), torch.tensor([[[0.9, 0.9], [0.1, 0.1]], [[0.1, 0.1], [0.9, 0.9]]]))
    set_rows(stitch.alpha, torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]))
    states_KMD = torch.tensor([[[1.0, 10.0]], [[2.0, 20.0]]])
    # First column: 1*1 + 3*2 = 7 and 2*10 + 4*20 = 100; second: 5*1 + 7*2 = 19 and 6*10 + 8*20 = 220.
    assert stitch(states_KMD).tolist() == [[[7.0, 100.0]], [[19.0, 220.0]]]


@pytest.mark.parametrize("num_channels", [1, 8])
def test_mixtures_have_the_states_precision_and_are_computed_in_float32(num_channels):
    stitch = Stitch(3, 0.9, num_channels)
    states_KMD = torch.randn(3, 500, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mixed_KMD = stitch(states_KMD)
    exact_KMD = torch.einsum("ijd,jmd->imd", stitch.alpha().double().expand(3, 3, 8), states_KMD.double())
    assert mixed_KMD.dtype == torch.bfloat16
    # All but a few that lie between two numbers of bfloat16; with weights in bfloat16 most would differ.
    assert (mixed_KMD != exact_KMD.bfloat16()).double().mean() < 0.01


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_a_row_of_a_stitch_sums_to_one_at_the_start(num_tasks):
    alpha_KK = Stitch(num_tasks, 0.7, 1).alpha()[:, :, 0]
    torch.testing.assert_close(alpha_KK.sum(1), torch.ones(num_tasks))
    torch.testing.assert_close(alpha_KK.diagonal(), torch.full((num_tasks,), 0.7))
    assert alpha_KK[0, 1:].unique().numel() == 1


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family):
    columns_by_hand.assert_rows_stay_apart(make_encoder, CrossStitch(num_shared_layers=1), family)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
@pytest.mark.parametrize(("self_weight", "reaches"), [(0.9, True), (1.0, False)])
def test_a_task_s_loss_trains_the_other_columns_through_the_stitches(make_encoder, family, self_weight, reaches):
    encoder, strategy = attached(make_encoder, family, self_weight=self_weight)
    hidden_ND, _, layout = encode(strategy, encoder)
    hidden_ND[layout.token_slices["b"]].pow(3).sum().backward()
    reached = {
        name for name, parameter in encoder.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    for number in range(3):
        of_block = [name for name in reached if f".{number}." in name and "stitch" not in name]
        for column in COLUMNS:
            assert any(column in name.split(".") for name in of_block) == (column == "b" or reaches)
    # Only the row of the task's own column matters behind the last block.
    last = {column: row.weights.grad for column, row in stitches(encoder)[2].alpha.of_task.items()}
    assert (last["b"].abs().sum(-1) > 0).all()
    assert not last["a"].any()
    assert not last["c"].any()
    if reaches:
        assert (stitches(encoder)[0].alpha.of_all.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_shared_blocks_see_each_row_once(make_encoder, family):
    encoder, strategy = attached(make_encoder, family, num_shared_layers=2)
    assert [isinstance(block, OnceForAllColumns) for block in encoder.blocks] == [True, True, False]
    seen = []
    for block in encoder.blocks[:2]:
        block.wrapped.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2]))
    encode(strategy, encoder)
    assert seen == [(1, 66) if encoder.packed else (6, 30)] * 2


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_what_several_tasks_train_is_shared_and_what_lies_above_the_last_stitch_is_not(make_encoder, family):
    final = {"bert": set(), "t5": {"final_layer_norm"}, "gpt2": {"ln_f"}}[family]
    for blocks, last_stitched, own_blocks in ((None, 2, set()), ([0], 0, {"1", "2"})):
        encoder, _ = attached(make_encoder, family, blocks=blocks)
        partition = parameter_partition(encoder)
        assert set(partition.values()) == {"shared", *COLUMNS}
        own = {name: part for name, part in partition.items() if part != "shared"}
        rows = {name: own.pop(name) for name in list(own) if ".stitch." in name}
        assert sorted(rows.values()) == list(COLUMNS)
        assert all(f".{last_stitched}.stitch.alpha.of_task.{column}." in name for name, column in rows.items())
        assert {p for name in own for p in name.split(".") if p in final or p in "12"} == final | own_blocks


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    gradients = []
    for checkpointing in (False, True):
        encoder, strategy = attached(make_encoder, family, num_shared_layers=1)
        drift_apart(encoder, scale=0.02)
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        encode(strategy, encoder)[0].pow(2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    assert gradients[0].abs().sum() > 0


def test_after_an_error_the_next_pass_is_as_ever(make_encoder):
    encoder, strategy = attached(make_encoder, "bert")
    before_ND, input_ids_N, layout = encode(strategy, encoder)
    with pytest.raises(IndexError):
        strategy.encode(encoder, input_ids_N + 10_000, None, layout)
    torch.testing.assert_close(strategy.encode(encoder, input_ids_N, None, layout), before_ND)


def test_one_task_alone_has_the_plain_encoder(make_encoder):
    columns_by_hand.assert_one_task_has_the_plain_encoder(make_encoder, CrossStitch())


def test_stitches_learn_faster_than_the_encoder_and_without_decay(make_encoder):
    encoder, _ = attached(make_encoder, "bert", lr_factor=50.0)
    marks = marks_of(encoder)
    marked = {n: (marks[id(p)].lr_factor, marks[id(p)].decay) for n, p in encoder.named_parameters() if id(p) in marks}
    assert set(marked.values()) == {(50.0, False)}
    assert len(marked) == 2 + 3
    assert all("stitch" in name for name in marked)


def test_what_is_learnt_is_the_mean_of_each_stitch_over_channels(make_encoder):
    encoder, strategy = attached(make_encoder, "bert", tasks=["a", "b"], blocks=[0, 2])
    with torch.no_grad():
        stitches(encoder)[2].alpha.of_task["a"].weights[1, ::2] = 0.5  # half of the channels; the others have 0.1
    model = type("Model", (), {"encoder": encoder})()
    found = strategy.learnt(model)
    assert list(found) == ["stitch_0", "stitch_2"]
    assert found["stitch_2"].rows == found["stitch_2"].columns == ("a", "b")
    assert found["stitch_2"].scale == "signed"
    torch.testing.assert_close(torch.tensor(found["stitch_2"].values), torch.tensor([[0.9, 0.3], [0.1, 0.9]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_shared_layers": 3}, r"sharing\.num_shared_layers: found 3, .* has 3 blocks .* allowed: 0 to 2"),
        ({"blocks": [3]}, r"sharing\.blocks: found \[3\], but .* from 0 \(the lowest\) to 2"),
        ({"blocks": [-4]}, r"sharing\.blocks: found \[-4\]"),
        ({"blocks": []}, r"sharing\.blocks: found \[\], but .* one or more"),
        ({"blocks": [2, -1]}, r"sharing\.blocks: found \[2, -1\], but .* one or more different"),
        ({"blocks": [0], "num_shared_layers": 1}, r"sharing\.blocks: found \[0\], .* from 1 \(the lowest\) to 2"),
    ],
)
def test_settings_that_do_not_fit_the_depth(make_encoder, settings, message):
    with pytest.raises(UserError, match=message):
        CrossStitch(**settings).check_num_blocks(3)
    with pytest.raises(UserError, match=message):
        attached(make_encoder, "bert", **settings)
