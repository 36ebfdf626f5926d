import json

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from mtl_cli.training import Checkpoints
from mtl_cli.training import checkpoint as module
from mtl_cli.training.fsdp import load_weights
from mtl_cli.types import UserError


def model(value: float) -> torch.nn.Linear:
    layer = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(layer.weight, value)
    return layer


STATE = {
    "optimizer": {
        "state": {0: {"exp_avg": torch.tensor([0.1, 0.2]), "step": torch.tensor(3.0)}},
        "groups": [{"lr": 0.1 + 0.2}],
    },
    "progression": {"step": 3, "window": {"a": [1.5, 1.0, 2]}},
}


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, model(0.5), STATE)
    step, folder = checkpoints.latest()
    other = model(0.0)
    state = checkpoints.load(folder, other)
    assert step == 3
    assert torch.equal(other.weight, model(0.5).weight)
    assert state["optimizer"]["groups"] == STATE["optimizer"]["groups"]
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], torch.tensor([0.1, 0.2]))
    assert state["progression"] == STATE["progression"]


def test_older_checkpoints_go_once_the_new_one_is_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, model(step), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_checkpoint_that_was_broken_off_while_written_does_not_count(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, model(1.0), {})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, model(2.0), {})
    assert checkpoints.latest()[0] == 1


def test_a_checkpoint_broken_off_between_the_two_renames_is_put_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(5, model(1.0), {})
    folder.rename(tmp_path / ".step-00000005.replaced")
    assert checkpoints.latest() == (5, folder)


@pytest.mark.parametrize("harm", ["cut", "changed", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_whole_one(tmp_path, harm):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, model(1.0), {})
    folder = checkpoints.save(2, model(2.0), {})
    file = folder / "model.safetensors"
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[:-4])
    elif harm == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "missing":
        file.unlink()
    else:
        (folder / "manifest.json").unlink()
    assert checkpoints.latest()[0] == 1


def test_only_damaged_checkpoints_are_an_error_that_says_what_is_wrong(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(2, model(2.0), {})
    (folder / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"no checkpoint of this run is whole: .*state.json"):
        checkpoints.latest()


def test_nothing_in_a_checkpoint_is_pickled(tmp_path):
    folder = Checkpoints(tmp_path).save(1, model(1.0), STATE)
    assert {p.suffix for p in folder.iterdir()} == {".safetensors", ".json"}
    assert set(json.loads((folder / "manifest.json").read_text())) == {
        "model.safetensors",
        "state.json",
        "training_state.safetensors",
    }


def test_the_best_weights_stay_until_a_checkpoint_knows_of_better_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(1, model(1.0))
    checkpoints.save_best(2, model(2.0))
    other = model(0.0)
    checkpoints.load_best(1, other)  # a run that died before its checkpoint names step 1
    assert other.weight[0, 0] == 1.0
    checkpoints.remove_other_bests(2)
    with pytest.raises(UserError, match="best-00000001"):
        checkpoints.load_best(1, other)


class Tied(torch.nn.Module):
    """One weight of two names."""

    def __init__(self, value):
        super().__init__()
        self.shared, self.again, self.other = (torch.nn.Embedding(2, 3) for _ in range(3))
        self.again.weight = self.shared.weight
        for parameter in self.parameters():
            torch.nn.init.constant_(parameter, value)


@pytest.mark.parametrize("name", ["again.weight", "shared.weight"])
def test_parts_take_a_weight_of_two_names_under_either(name, tmp_path):
    """A whole model is saved under the first name by the alphabet, a divided one under that of its first module."""
    file = str(tmp_path / "model.safetensors")
    save_model(Tied(1.0), file)
    assert load_file(file).keys() == {"again.weight", "other.weight"}
    save_file({name: torch.ones(2, 3), "other.weight": torch.ones(2, 3)}, file)
    model = Tied(0.0)
    load_weights(model, file)
    assert all(bool((parameter == 1.0).all()) for parameter in model.parameters())
    assert model.again.weight is model.shared.weight
    save_file({name: torch.ones(2, 3)}, file)
    with pytest.raises(UserError, match=r"missing: other.weight; unexpected: none"):
        load_weights(model, file)
    save_file({"other.weight": torch.ones(2, 3)}, file)
    with pytest.raises(UserError, match=r"missing: shared.weight, again.weight; unexpected: none"):
        load_weights(model, file)
