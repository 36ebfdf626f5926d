"""Groups of tasks: an encoder each."""

import pytest
import torch
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED
from gradients.steps import Probe, gradients_of, gramian_weights, model_of, reference, relative_error, run, step_of

from mtl_cli.encoders import current_layout
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import parameter_partition
from mtl_cli.sharing.columns import ColumnBlock, Columns
from mtl_cli.sharing.grouped import Grouped
from mtl_cli.types import UserError
from mtl_cli.weighting import Equal

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30], "d": [4, 4]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]


def hidden(encoder, lengths=LENGTHS, seed=0):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed, seed=seed)
    return encoder(input_ids_N, None, layout), layout


def change(module, seed=7):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("groups", [[["a", "c"]], [["a", "d"], ["c", "b"]], [], [["d", "c", "b", "a"]]])
def test_groups_begin_as_hard_sharing(make_encoder, family, packed, groups):
    encoder = make_encoder(family, packed).eval()
    before_ND, _ = hidden(encoder)
    Grouped(groups=groups).attach(encoder, list(LENGTHS))
    torch.testing.assert_close(hidden(encoder)[0], before_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "packed"), WAYS)
@pytest.mark.parametrize("num_shared_layers", [0, 1])
def test_groups_are_as_encoders_that_were_split_by_task(make_encoder, family, packed, num_shared_layers):
    # A group's copy says what copies of each of its tasks with the same weights say, whatever the order of the tasks.
    grouped, split = make_encoder(family, packed).eval(), make_encoder(family, packed).eval()
    Grouped(groups=[["a", "c"], ["d", "b"]], num_shared_layers=num_shared_layers).attach(grouped, list(LENGTHS))
    Grouped(num_shared_layers=num_shared_layers).attach(split, list(LENGTHS))
    change(grouped)
    state = grouped.state_dict()
    for key in split.state_dict():
        if ".of_task." in key:
            path, rest = key.split(".of_task.")
            task, rest = rest.split(".", 1)
            group = "a+c" if task in "ac" else "b+d"
            split.state_dict()[key].copy_(state[f"{path}.of_several.{group}.{rest}"])
        else:
            split.state_dict()[key].copy_(state[key])
    for order in ("abcd", "cab", "dbca", "bd", "a"):
        lengths = {task: LENGTHS[task] for task in order}
        torch.testing.assert_close(hidden(grouped, lengths)[0], hidden(split, lengths)[0], atol=2e-5, rtol=1e-5)


def test_a_group_s_rows_go_through_its_copy_in_one_call(make_encoder):
    encoder = make_encoder("bert").eval()
    Grouped(groups=[["a", "c"], ["b", "d"]]).attach(encoder, list(LENGTHS))
    seen = []
    block = encoder.blocks[1]
    for name, module in block.columns().items():
        module.register_forward_hook(lambda *_, name=name: seen.append((name, current_layout().tasks)))
    hidden(encoder)
    assert seen == [("a+c", ("a", "c")), ("b+d", ("b", "d"))]


def test_whose_parameters_are_whose(make_encoder):
    encoder = make_encoder("gpt2")
    num_parameters = len(list(encoder.parameters()))
    Grouped(groups=[["d", "b"]]).attach(encoder, list(LENGTHS))
    parts = list(parameter_partition(encoder).values())
    assert {part: parts.count(part) for part in set(parts)} == dict.fromkeys(("shared", "a", "c"), num_parameters)
    assert list(encoder.blocks[0].columns()) == ["a", "b+d", "c"]


def test_one_group_is_hard_sharing(make_encoder):
    encoder = make_encoder("bert")
    Grouped(groups=[["b", "a"]]).attach(encoder, ["a", "b"])
    assert not any(isinstance(module, Columns) for module in encoder.modules())


@pytest.mark.parametrize(
    ("groups", "tasks", "own_layers"),
    [
        ([["b", "a"]], ["a", "b"], False),
        ([["a"]], ["a"], True),
        ([], ["a"], True),
        ([["a", "b"]], ["a", "b", "c"], True),
    ],
)
def test_layers_of_its_own_come_into_the_blocks_of_several_groups_and_of_a_single_task(
    make_encoder, groups, tasks, own_layers
):
    encoder, strategy = make_encoder("bert"), Grouped(groups=groups)
    strategy.attach(encoder, tasks)
    assert strategy.has_layers_in_blocks(tasks, len(encoder.blocks)) is encoder.has_foreign_layers is own_layers


def test_the_gradient_of_a_group_comes_from_its_tasks_alone(make_encoder):
    encoder = make_encoder("t5").eval()
    Grouped(groups=[["a", "c"], ["b", "d"]]).attach(encoder, list(LENGTHS))
    change(encoder)
    found_ND, layout = hidden(encoder)
    found_ND[layout.token_slices["c"]].pow(2).sum().backward()
    for columns in (module for module in encoder.modules() if isinstance(module, Columns)):
        assert all(p.grad is not None for p in columns.column("a+c").parameters())
        assert all(p.grad is None or not p.grad.any() for p in columns.column("b+d").parameters())


def grouped_model(groups, num_shared_layers=0):
    plain = model_of()
    heads = plain.heads.state_dict()
    sharing = Grouped(groups=groups, num_shared_layers=num_shared_layers)
    model = MultiTaskModel(plain.encoder, sharing, plain.tasks, plain.labels).eval()
    model.heads.load_state_dict(heads)
    return model


@pytest.mark.parametrize(
    ("groups", "num_shared_layers"),
    [([["mood", "tags"], ["nli", "score"]], 0), ([["mood", "tags"], ["nli", "score"]], 1), ([["nli", "tags"]], 1)],
)
def test_each_task_s_gradient_in_one_pass_is_that_of_its_rows_alone(groups, num_shared_layers):
    model, step = grouped_model(groups, num_shared_layers), step_of()
    change(model.encoder)
    weighting = Probe(engine="segmented")
    _, _, found = run(model, weighting, [[step]])
    wanted = reference(model, step)
    gramian_KK = wanted.gramian()
    torch.testing.assert_close(weighting.seen.double(), gramian_KK, atol=1e-5 * float(gramian_KK.max()), rtol=1e-3)
    assert relative_error(found, wanted.combined(gramian_weights(gramian_KK))) < 1e-4


def test_the_plain_sum_trains_a_group_as_a_model_of_its_own():
    step = step_of()
    model = grouped_model([["mood", "tags"]])
    alone = model_of()
    _, _, found = run(model, Equal(), [[step]])
    run(alone, Equal(), [[{task: step[task] for task in ("mood", "tags")}]])
    wanted = {}
    for key, gradient in gradients_of(alone).items():
        if not key.startswith("encoder.model."):
            continue
        path, _, last = key.rpartition(".")
        while f"{path}.of_several.mood+tags.{last}" not in found:
            path, _, name = path.rpartition(".")
            last = f"{name}.{last}"
        wanted[f"{path}.of_several.mood+tags.{last}"] = gradient.double()
    assert relative_error(found, wanted) < 1e-5


def test_errors_name_the_setting():
    strategy = Grouped(groups=[["a", "b"], ["b"]])
    with pytest.raises(UserError, match=r"sharing\.groups: 'b' is named 2 times"):
        strategy.check_tasks(["a", "b"])
    with pytest.raises(UserError, match=r"sharing\.groups: 'x' is no task of this run. Tasks: a, b"):
        Grouped(groups=[["a", "x"]]).check_tasks(["a", "b"])
    with pytest.raises(UserError, match=r"sharing\.groups: found an empty group"):
        Grouped(groups=[["a"], []]).check_tasks(["a", "b"])
    with pytest.raises(UserError, match=r"sharing\.num_shared_layers: found 3, .*allowed: 0 to 2"):
        Grouped(num_shared_layers=3).check_num_blocks(3)


def test_what_is_shared_follows_from_the_groups():
    assert not Grouped(groups=[["a"], ["b"]]).shares_parameters()
    assert Grouped(groups=[["a", "b"]]).shares_parameters()
    assert Grouped(num_shared_layers=1).shares_parameters()
    assert Grouped(num_shared_layers=1).num_shared_blocks(3) == 1
    assert Grouped(groups=[["a", "b"]], num_shared_layers=1).num_shared_blocks(3) == 3


def test_a_task_whose_name_is_that_of_a_group_keeps_its_copy(make_encoder):
    encoder = make_encoder("bert")
    Grouped(groups=[["a", "b"]]).attach(encoder, ["a", "b", "a+b"])
    assert isinstance(encoder.blocks[0], ColumnBlock)
    assert list(encoder.blocks[0].columns()) == ["a+b+", "a+b"]
    assert set(parameter_partition(encoder).values()) == {"shared", "a+b"}


def test_blocks_below_the_groups_stay_as_they_are(make_encoder):
    encoder = make_encoder("bert")
    first = encoder.blocks[0]
    Grouped(groups=[["a", "b"]], num_shared_layers=1).attach(encoder, ["a", "b", "c"])
    assert encoder.blocks[0] is first
