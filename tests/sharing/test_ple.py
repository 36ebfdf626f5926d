"""Progressive layered extraction: shared experts beside each task's own."""

import math

import expert_tools
import pytest
import torch
from expert_tools import FAMILIES, LENGTHS, hidden, model_with, move
from gradients.steps import batch

from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.ple import PLE, ControlledBlocks
from mtl_cli.types import UserError

SMALL = {"expert_width": 8}
BLOCKS = {"experts": "block", "expert_noise": 0.0}


def attached(encoder, **settings):
    return expert_tools.attached(encoder, PLE(**settings))


def model_of(**settings):
    return model_with(PLE(**settings))


def softmax_of(gate, state):
    linear = gate.logits.linear
    return (linear.weight @ state + linear.bias).softmax(0)


def extraction_by_loops(levels, task, states_TD, shared_gate, gate_level="token"):
    """The states of a row of a task after all levels, from those of its tokens; the states of all tasks followed."""
    states = {name: list(states_TD) for name in LENGTHS}
    shared = list(states_TD)

    def seen(states_of_row):
        return [torch.stack(states_of_row).mean(0)] * len(states_of_row) if gate_level == "row" else states_of_row

    for level in levels:
        of_task = {name: [[f(x) for f in level.own[name]] for x in row] for name, row in states.items()}
        of_all = [[f(x) for f in level.shared] for x in shared]
        new = {}
        for name, row in states.items():
            gate = level.gates.of_task[name]
            new[name] = [
                x + sum(g * out for g, out in zip(softmax_of(gate, at), own + common, strict=True))
                for x, at, own, common in zip(row, seen(row), of_task[name], of_all, strict=True)
            ]
        if level.shared_gate is not None:
            names = list(LENGTHS) if shared_gate == "all" else [task]
            shared = [
                x
                + sum(
                    g * out
                    for g, out in zip(
                        softmax_of(level.shared_gate, at),
                        [out for name in names for out in of_task[name][place]] + of_all[place],
                        strict=True,
                    )
                )
                for place, (x, at) in enumerate(zip(shared, seen(shared), strict=True))
            ]
        states = new
    return torch.stack(states[task])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**SMALL, "num_levels": 3, "shared_gate": "own", "gate_level": "row"},
        {**BLOCKS, "blocks": None, "num_task_experts": 2, "num_shared_experts": 1},
        {**BLOCKS, "gate_level": "task"},
    ],
    ids=["defaults", "own", "block", "task"],
)
def test_the_start_is_the_plain_encoder(make_encoder, family, settings):
    expert_tools.assert_starts_as_the_plain_encoder(make_encoder, PLE(**settings), family)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
@pytest.mark.parametrize("shared_gate", ["all", "own"])
@pytest.mark.parametrize(("num_levels", "gate_level"), [(1, "token"), (2, "token"), (3, "token"), (3, "row")])
def test_levels_of_extraction_are_the_paper_s(make_encoder, family, shared_gate, num_levels, gate_level):
    encoder = attached(
        make_encoder(family),
        **SMALL,
        num_levels=num_levels,
        num_task_experts=2,
        shared_gate=shared_gate,
        gate_level=gate_level,
    )
    last = encoder.blocks[-1]
    move(last.levels, 0.3)
    seen = {}
    last.wrapped.register_forward_hook(
        lambda module, inputs, output: seen.update(h=output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        found_ND, layout = hidden(encoder)
        for task, rows in layout.row_slices.items():
            for row in range(rows.start, rows.stop):
                start, length = int(layout.starts[row]), int(layout.lengths[row])
                states_TD = seen["h"][0, start : start + length] if layout.packed else seen["h"][row, :length]
                expected_TD = extraction_by_loops(last.levels, task, states_TD, shared_gate, gate_level)
                torch.testing.assert_close(found_ND[start : start + length], expected_TD, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_a_block_mixes_the_task_s_own_and_the_shared_copies(make_encoder, family):
    encoder = attached(make_encoder(family), **BLOCKS, num_task_experts=2, blocks=[-1])
    mixed = encoder.blocks[-1]
    assert isinstance(mixed, ControlledBlocks)
    move(mixed)
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name] = (inputs[0], output[0] if isinstance(output, tuple) else output)

        return hook

    mixed.register_forward_hook(keep("all"))
    mixed.wrapped.register_forward_hook(keep("shared 0"))
    mixed.shared[0].register_forward_hook(keep("shared 1"))
    for task in LENGTHS:
        for number in (0, 1):
            mixed.own[task][number].register_forward_hook(keep(f"{task} {number}"))
    _, layout = hidden(encoder)
    inputs, output = seen["all"]
    for task, rows in layout.row_slices.items():
        tokens = layout.token_slices[task]
        part = (slice(None), tokens) if layout.packed else (rows,)
        # A task's own copies see its own rows alone.
        assert torch.equal(seen[f"{task} 0"][0], inputs[part])
        outputs = [seen[f"{task} 0"][1], seen[f"{task} 1"][1], seen["shared 0"][1][part], seen["shared 1"][1][part]]
        linear = mixed.gates.of_task[task].logits.linear
        shares = (inputs[part] @ linear.weight.T + linear.bias).softmax(-1)
        expected = sum(shares[..., place, None] * found for place, found in enumerate(outputs))
        torch.testing.assert_close(output[part], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
@pytest.mark.parametrize(
    "settings",
    [
        {**SMALL, "num_levels": 3},
        {**SMALL, "shared_gate": "own", "gate_level": "row"},
        {**BLOCKS, "blocks": None, "gate_level": "row"},
    ],
)
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, settings):
    expert_tools.assert_rows_stay_apart(make_encoder, PLE(**settings), family)


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("settings", [{"shared_gate": "all"}, {"shared_gate": "own"}, BLOCKS])
def test_the_partition_is_who_trains_what(make_encoder, family, settings):
    encoder = attached(make_encoder(family), **SMALL, num_levels=3, **settings)
    move(encoder)
    partition = parameter_partition(encoder)
    trained_by = {name: set() for name in partition}
    for task in LENGTHS:
        encoder.zero_grad(set_to_none=True)
        hidden_ND, layout = hidden(encoder)
        hidden_ND[layout.token_slices[task]].pow(2).sum().backward()
        for name in partition:
            gradient = encoder.get_parameter(name).grad
            if gradient is not None and gradient.any():
                trained_by[name].add(task)
    for name, tasks_of_it in trained_by.items():
        if partition[name] == "shared":
            assert tasks_of_it == set(LENGTHS), name
        else:
            assert tasks_of_it == {partition[name]}, name


def test_with_all_experts_in_the_shared_gate_only_the_last_levels_are_a_task_s_own(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, num_levels=3)
    partition = parameter_partition(encoder)

    def parts(level, what):
        place = f"model.encoder.layer.2.levels.{level}.{what}"
        return {part for name, part in partition.items() if name.startswith(place)}

    assert [parts(level, "own") for level in range(3)] == [{"shared"}, {"shared"}, {"a", "b", "c"}]
    assert [parts(level, "gates") for level in range(3)] == [{"shared"}, {"a", "b", "c"}, {"a", "b", "c"}]
    assert [parts(level, "shared_gate") for level in range(3)] == [{"shared"}, {"shared"}, set()]


def test_with_its_own_experts_in_the_shared_gate_a_task_s_experts_see_its_rows_alone(make_encoder):
    encoder = attached(make_encoder("bert"), **SMALL, shared_gate="own")
    calls = {task: [] for task in LENGTHS}
    for level in encoder.blocks[-1].levels:
        for task in LENGTHS:
            level.own[task][0].register_forward_hook(
                lambda module, inputs, output, task=task: calls[task].append(inputs[0].shape[1])
            )
    hidden(encoder)
    assert calls == {"a": [24, 24], "b": [9, 9], "c": [33, 33]}


@pytest.mark.parametrize(
    "settings",
    [{**SMALL, "num_levels": 3}, {**SMALL, "shared_gate": "own", "gate_level": "row"}, BLOCKS],
    ids=["all", "own", "block"],
)
def test_each_task_s_gradient_comes_from_one_backward_pass(settings):
    expert_tools.assert_one_backward_pass_gives_each_task_s_gradient(PLE(**settings))


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("settings", [SMALL, BLOCKS])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family, settings):
    strategy = PLE(**settings)
    expert_tools.assert_activation_checkpointing_changes_nothing(make_encoder, strategy, family)


@pytest.mark.parametrize("settings", [SMALL, BLOCKS])
def test_a_run_of_one_task_works(make_encoder, settings):
    encoder = make_encoder("bert")
    PLE(**settings).attach(encoder, ["a"])
    assert hidden(encoder.eval(), {"a": [4, 5]})[0].shape == (9, 32)


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({**SMALL, "num_levels": 3}, ["level_1", "level_1_shared", "level_2", "level_2_shared", "level_3"]),
        ({**SMALL, "num_levels": 1}, ["level_1"]),
        ({**BLOCKS, "blocks": [-2, -1]}, ["block_1", "block_2"]),
    ],
)
def test_what_the_gates_do_in_evaluation_is_learnt_about_the_tasks(settings, places):
    model = model_of(**settings).eval()
    assert model.sharing.learnt(model) == {}
    gates = [module for module in model.modules() if type(module).__name__ == "TaskGates"]
    with torch.no_grad():
        gates[0].of_task["nli"].logits.linear.bias[0] = 50.0
    with torch.inference_mode():
        model({"mood": batch("mood", [4, 7]), "nli": batch("nli", [5])})
    found = model.sharing.learnt(model)
    assert set(found) == {*(f"gates_{place}" for place in places), "gate_entropy"}
    first = found[f"gates_{places[0]}"]
    assert first.columns == ("own_0", "shared_0", "shared_1")
    assert first.values == (
        pytest.approx((1 / 3, 1 / 3, 1 / 3)),
        pytest.approx((1.0, 0.0, 0.0)),
        (None, None, None),
    )
    assert found["gate_entropy"].columns == tuple(places)
    assert found["gate_entropy"].values[0] == pytest.approx((1.0,) * len(places))
    model.sharing.forget_usage(model)
    assert model.sharing.learnt(model) == {}


@pytest.mark.parametrize("gate_level", ["token", "row", "task"])
@pytest.mark.parametrize(
    ("shared_gate", "columns"),
    [
        ("all", ["mood_own_0", "nli_own_0", "tags_own_0", "shared_0", "shared_1"]),
        ("own", ["own_0", "shared_0", "shared_1"]),
    ],
)
def test_what_the_shared_gate_does_in_evaluation_is_learnt_of_each_task_s_rows(shared_gate, columns, gate_level):
    model = model_of(**SMALL, shared_gate=shared_gate, gate_level=gate_level).eval()
    logits = model.encoder.blocks[-1].levels[0].shared_gate.logits
    bias = logits.free if gate_level == "task" else logits.linear.bias
    # exp(log 3) = 3 beside ones: 3 / (E + 2), and 1 / (E + 2) each.
    with torch.no_grad():
        bias[1] = math.log(3.0)
    with torch.inference_mode():
        model({"mood": batch("mood", [4, 7]), "nli": batch("nli", [5])})
    found = model.sharing.learnt(model)["gates_level_1_shared"]
    assert found.rows == ("mood", "nli", "tags")
    assert list(found.columns) == columns
    wanted = [(3.0 if place == 1 else 1.0) / (len(columns) + 2) for place in range(len(columns))]
    assert found.values == (pytest.approx(wanted), pytest.approx(wanted), (None,) * len(columns))


def test_more_levels_of_blocks_than_there_are(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[3\], but the encoder has 3 blocks"):
        PLE(experts="block", blocks=[3]).check_num_blocks(3)
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[3\], but the encoder has 3 blocks"):
        attached(make_encoder("bert"), experts="block", blocks=[3])
    PLE(blocks=[3]).check_num_blocks(3)  # of no effect there
