"""Sluice networks: mixtures of subspaces and of depths, and the penalty on subspaces."""

import pytest
import torch
from checkpointing import checkpoint_activations
from sharing import columns_by_hand
from sharing.columns_by_hand import COLUMNS, WAYS, check_rows, drift_apart, encode, expected, plain_encoder

from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.auxiliary import collect_auxiliary_losses
from mtl_cli.sharing.sluice import Depths, Sluice, SluiceBlock, SubspaceStitch, overlap
from mtl_cli.sharing.wrappers import marks_of
from mtl_cli.types import UserError


def attached(make_encoder, family, packed=None, tasks=COLUMNS, **settings):
    return columns_by_hand.attached(make_encoder, Sluice(**settings), family, packed, tasks)


def blocks(encoder):
    return {i: block for i, block in enumerate(encoder.blocks) if isinstance(block, SluiceBlock)}


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("num_shared_layers", [0, 2])
def test_the_start_is_the_plain_encoder(make_encoder, family, packed, num_shared_layers):
    strategy = Sluice(num_shared_layers=num_shared_layers)
    columns_by_hand.assert_starts_as_the_plain_encoder(make_encoder, strategy, family, packed)


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_with_identity_mixtures_the_columns_are_separate_encoders(make_encoder, family, packed):
    encoder, strategy = attached(make_encoder, family, packed, self_weight=1.0)
    kept = {n: p.detach().clone() for n, p in encoder.named_parameters() if "alpha" in n or "beta" in n}
    drift_apart(encoder)
    with torch.no_grad():
        for name, value in kept.items():
            encoder.get_parameter(name).copy_(value)
    found_ND, input_ids_N, layout = encode(strategy, encoder)
    alone = {column: plain_encoder(family, encoder, column)(input_ids_N, None, layout) for column in COLUMNS}
    assert min((alone["a"] - alone[other]).abs().mean() for other in "bc") > 0.05
    check_rows(found_ND, alone, layout)


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize(
    "settings", [{}, {"num_subspaces": 4, "last_block_weight": 0.5, "num_shared_layers": 1}], ids=str
)
@pytest.mark.usefixtures("one_pass")
def test_subspaces_are_mixed_behind_each_block_and_depths_behind_the_last(make_encoder, family, packed, settings):
    encoder, strategy = attached(make_encoder, family, packed, **settings)
    drift_apart(encoder)
    found = blocks(encoder)
    first, num_subspaces = settings.get("num_shared_layers", 0), settings.get("num_subspaces", 2)
    assert sorted(found) == list(range(first, 3))
    width = 32 // num_subspaces

    def mix(number, outputs):
        if number not in found:
            return outputs
        alpha_KGKG = found[number].stitch.alpha()
        mixed = {column: torch.zeros_like(value) for column, value in outputs.items()}
        for i, column in enumerate(COLUMNS):
            for g in range(num_subspaces):
                for j, other in enumerate(COLUMNS):
                    for h in range(num_subspaces):
                        part = outputs[other][..., h * width : (h + 1) * width]
                        mixed[column][..., g * width : (g + 1) * width] += alpha_KGKG[i, g, j, h] * part
        return mixed

    def mix_depths(mixed):
        betas = {column: found[2].depths.of_task[column].beta_L for column in COLUMNS}
        return {
            column: sum(beta * value for beta, value in zip(betas[column], of_blocks[first:], strict=True))
            for column, of_blocks in mixed.items()
        }

    with torch.no_grad():
        found_ND, input_ids_N, layout = encode(strategy, encoder)
        encoders = {column: plain_encoder(family, encoder, column) for column in COLUMNS}
        check_rows(found_ND, expected(encoders, mix, mix_depths, input_ids_N, layout), layout)


def test_a_stitch_mixes_the_subspaces_of_all_columns():
    stitch = SubspaceStitch(2, 2, 0.9)
    rows = [[0.9, 0, 0.1, 0], [0, 0.9, 0, 0.1], [0.1, 0, 0.9, 0], [0, 0.1, 0, 0.9]]
    torch.testing.assert_close(stitch.alpha().reshape(4, 4), torch.tensor(rows))
    rows = torch.tensor([[0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 3], [4, 0, 0, 1]])
    columns_by_hand.set_rows(stitch.alpha, rows.view(2, 2, 2, 2))
    states_KMD = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]]])
    # Subspaces in order: [1, 2], [3, 4], [5, 6], [7, 8]; the last mixture is 4 [1, 2] + [7, 8].
    assert stitch(states_KMD).tolist() == [[[3.0, 4.0, 10.0, 12.0]], [[21.0, 24.0, 11.0, 16.0]]]


def test_depths_are_mixed_for_each_column_by_itself():
    depths = Depths(["a", "b"], (1, 2, 5), 0.8)
    torch.testing.assert_close(depths.weights(), torch.tensor([[0.1, 0.1, 0.8]] * 2))
    with torch.no_grad():
        depths.of_task["b"].beta_L.copy_(torch.tensor([1.0, -1.0, 2.0]))
    states_LKMD = [torch.full((2, 1, 1), value) for value in (10.0, 20.0, 30.0)]
    # a: 1 + 2 + 24; b: 10 - 20 + 60.
    torch.testing.assert_close(depths(states_LKMD), torch.tensor([[[27.0]], [[50.0]]]))
    assert Depths(["a", "b"], (2,), 0.8).weights().tolist() == [[1.0], [1.0]]


def test_mixtures_have_the_states_precision_and_are_computed_in_float32():
    stitch, depths = SubspaceStitch(3, 2, 0.9), Depths(["a", "b", "c"], (0, 1), 0.7)
    states_KMD = torch.randn(3, 500, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mixed_KMD, deep_KMD = stitch(states_KMD), depths([states_KMD, 3 * states_KMD])
    exact_KMD = torch.einsum("ij,jmd->imd", stitch.alpha()[:, 0, :, 0].double(), states_KMD.double())
    deep_exact_KMD = 0.3 * states_KMD.double() + 0.7 * (3 * states_KMD).double()
    # All but a few that lie between two numbers of bfloat16; with weights in bfloat16 most would differ.
    assert (mixed_KMD != exact_KMD.bfloat16()).double().mean() < 0.01
    assert (deep_KMD != deep_exact_KMD.bfloat16()).double().mean() < 0.01
    assert mixed_KMD.dtype == deep_KMD.dtype == torch.bfloat16


def test_subspaces_that_say_the_same_cost_one_and_orthogonal_ones_nothing():
    same = torch.tensor([[[2.0, 0.0, 5.0, 0.0], [1.0, 0.0, 1.0, 0.0]]])
    # Each token gives the product of [1, 0] and [1, 0]: a single 1, whatever their lengths.
    assert overlap(same, 2).item() == pytest.approx(1.0)
    # The products of the two tokens, with opposite signs, cancel.
    cancelled = torch.tensor([[[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, -1.0, 0.0]]])
    assert overlap(cancelled, 2).item() == pytest.approx(0.0)
    # Two tokens with products in different places: 2 (1/2)².
    apart = torch.tensor([[[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]])
    assert overlap(apart, 2).item() == pytest.approx(0.5)
    assert overlap(torch.cat([same, apart]), 2).item() == pytest.approx(1.5)
    assert overlap(same, 1).item() == 0.0


@pytest.mark.parametrize("num_subspaces", [2, 4])
def test_the_penalty_by_plain_loops(num_subspaces):
    states_KND = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_hand, width = 0.0, 8 // num_subspaces
    for states_ND in states_KND:
        parts = [part / torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in states_ND.split(width, dim=1)]
        for g in range(num_subspaces):
            for h in range(g):
                by_hand += torch.linalg.matrix_norm(parts[g].T @ parts[h] / 7).item() ** 2
    assert overlap(states_KND.float(), num_subspaces).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_each_task_pays_for_its_own_rows_without_padding(make_encoder, family):
    encoder, strategy = attached(make_encoder, family, orthogonality=0.5, num_shared_layers=1)
    drift_apart(encoder)
    outputs = []
    for block in blocks(encoder).values():
        block.wrapped.register_forward_hook(lambda module, args, output: outputs.append(output))
        block.training = True  # without dropout
    with collect_auxiliary_losses() as together:
        _, input_ids_N, layout = encode(strategy, encoder)
    assert list(together) == ["orthogonality"]
    assert list(together["orthogonality"]) == list(COLUMNS)
    assert len(outputs) == 2
    for task, tokens in layout.token_slices.items():
        cost = 0.0
        for output in outputs:
            states = output if isinstance(output, torch.Tensor) else output[0]
            for column in range(3):
                if encoder.packed:
                    rows_ND = states[0, column * layout.num_tokens :][tokens]
                else:
                    of_column = states[column * layout.num_rows :][layout.row_slices[task]]
                    lengths = layout.lengths[layout.row_slices[task]]
                    rows_ND = torch.cat([row[:length] for row, length in zip(of_column, lengths, strict=True)])
                first, second = (part / part.norm(dim=1, keepdim=True) for part in rows_ND.split(16, dim=1))
                cost += (first.T @ second / len(rows_ND)).square().sum().item()
        assert together["orthogonality"][task].item() == pytest.approx(0.5 * cost, rel=1e-4)
        with collect_auxiliary_losses() as alone:
            strategy.encode(encoder, input_ids_N[tokens], None, layout.of(task))
        del outputs[2:]
        torch.testing.assert_close(alone["orthogonality"][task], together["orthogonality"][task], atol=1e-5, rtol=1e-4)
    assert together["orthogonality"]["b"].requires_grad


def test_nothing_is_paid_in_evaluation_or_without_weight(make_encoder):
    for mode, weight in ((False, 1.0), (True, 0.0)):
        encoder, strategy = attached(make_encoder, "bert", orthogonality=weight)
        encoder.train(mode)
        with collect_auxiliary_losses() as collected:
            encode(strategy, encoder)
        assert collected == {}


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family):
    columns_by_hand.assert_rows_stay_apart(make_encoder, Sluice(num_shared_layers=1), family)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_a_task_s_loss_trains_all_columns_and_its_own_mixture_of_depths(make_encoder, family):
    encoder, strategy = attached(make_encoder, family)
    drift_apart(encoder)
    hidden_ND, _, layout = encode(strategy, encoder)
    hidden_ND[layout.token_slices["b"]].pow(3).sum().backward()
    reached = {n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}
    for number in range(3):
        of_block = [n for n in reached if f".{number}." in n and "stitch" not in n and "depths" not in n]
        assert all(any(column in name.split(".") for name in of_block) for column in COLUMNS)
    assert {name.split(".")[-2] for name in reached if "beta" in name} == {"b"}
    assert encoder.blocks[2].depths.of_task["b"].beta_L.grad.ne(0).all()
    assert encoder.blocks[0].stitch.alpha.of_all.grad.ne(0).all()
    last = {column: row.weights.grad for column, row in encoder.blocks[2].stitch.alpha.of_task.items()}
    assert {column: bool(gradient.any()) for column, gradient in last.items()} == {"a": False, "b": True, "c": False}


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_mixtures_behind_the_last_block_and_final_normalisations_are_the_tasks_own(make_encoder, family):
    encoder, _ = attached(make_encoder, family)
    own = {name: part for name, part in parameter_partition(encoder).items() if part != "shared"}
    final = {"t5": ["final_layer_norm"], "bert": []}[family]
    kinds = ["beta_L", ".2.stitch.alpha.", *final]
    assert all(any(kind in name for kind in kinds) for name in own)
    assert all(part in name.split(".") for name, part in own.items())
    assert len(own) == 3 * len(kinds)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    gradients = []
    for checkpointing in (False, True):
        encoder, strategy = attached(make_encoder, family, last_block_weight=0.6, orthogonality=1.0)
        drift_apart(encoder, scale=0.02)
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        with collect_auxiliary_losses() as collected:
            hidden_ND, _, _ = encode(strategy, encoder)
        (hidden_ND.pow(2).sum() + sum(collected["orthogonality"].values())).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    assert gradients[0].abs().sum() > 0


def test_after_an_error_the_next_pass_is_as_ever(make_encoder):
    encoder, strategy = attached(make_encoder, "bert", last_block_weight=0.5)
    before_ND, input_ids_N, layout = encode(strategy, encoder)

    def stop(module, args):
        raise ValueError("stopped")

    hook = encoder.blocks[2].wrapped.register_forward_pre_hook(stop)
    with pytest.raises(ValueError, match="stopped"):
        strategy.encode(encoder, input_ids_N.flip(0), None, layout)
    hook.remove()
    torch.testing.assert_close(strategy.encode(encoder, input_ids_N, None, layout), before_ND)
    with pytest.raises(RuntimeError, match="No columns are running"):
        encoder(input_ids_N, None, layout)


def test_one_task_alone_has_the_plain_encoder(make_encoder):
    columns_by_hand.assert_one_task_has_the_plain_encoder(make_encoder, Sluice())


def test_mixtures_learn_faster_than_the_encoder_and_without_decay(make_encoder):
    encoder, _ = attached(make_encoder, "bert", lr_factor=50.0)
    marks = marks_of(encoder)
    marked = {n: (marks[id(p)].lr_factor, marks[id(p)].decay) for n, p in encoder.named_parameters() if id(p) in marks}
    assert set(marked.values()) == {(50.0, False)}
    assert sorted(name.rpartition(".")[2] for name in marked) == ["beta_L"] * 3 + ["of_all"] * 2 + ["weights"] * 3


def test_what_is_learnt_are_the_mixtures_of_subspaces_and_of_depths(make_encoder):
    encoder, strategy = attached(make_encoder, "bert", tasks=["a", "b"], num_shared_layers=1, last_block_weight=0.75)
    with torch.no_grad():
        encoder.blocks[1].stitch.alpha.of_all[1, 0, 0, 1] = -0.5
        encoder.blocks[2].stitch.alpha.of_task["b"].weights[1, 0, 1] = 0.25
    model = type("Model", (), {"encoder": encoder})()
    found = strategy.learnt(model)
    assert list(found) == ["stitch_1", "stitch_2", "depths"]
    assert found["stitch_1"].rows == found["stitch_1"].columns == ("a_0", "a_1", "b_0", "b_1")
    torch.testing.assert_close(torch.tensor(found["stitch_1"].values[2]), torch.tensor([0.1, -0.5, 0.9, 0.0]))
    torch.testing.assert_close(torch.tensor(found["stitch_2"].values[3]), torch.tensor([0.0, 0.25, 0.0, 0.9]))
    assert found["depths"].rows == ("a", "b")
    assert found["depths"].columns == ("block_1", "block_2")
    assert found["depths"].values == ((0.25, 0.75), (0.25, 0.75))
    assert {matrix.scale for matrix in found.values()} == {"signed"}


def test_settings_that_do_not_fit_the_encoder(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.num_subspaces: found 3, .* 32 wide; allowed: divisors of 32"):
        attached(make_encoder, "bert", num_subspaces=3)
    with pytest.raises(UserError, match=r"sharing\.num_shared_layers: found 3, .* has 3 blocks"):
        Sluice(num_shared_layers=3).check_num_blocks(3)
