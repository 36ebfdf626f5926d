"""The GPU check's comparisons, on the CPU."""

from itertools import cycle

import pytest
import torch

from mtl_cli.sharing import MTRL
from mtl_cli.sharing.adapter_layers import Adapter
from mtl_cli.sharing.gates import TaskGates

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checks(script):
    return script("gpu_correctness")


def test_attention_by_another_way_than_the_kernel_fails(checks, monkeypatch):
    check = checks.check_kernel(CPU)
    assert (check.name, check.error) == ("blocks that attend otherwise than by in_groups", 0.0)
    assert check.note == "0 blocks by the variable-length kernel, 2 in groups"
    groups = checks.attention._attend_in_groups
    monkeypatch.setattr(checks.attention, "_varlen_serves", lambda query, dropout: True)
    monkeypatch.setattr(checks.attention, "_attend_varlen", groups)
    assert checks.check_kernel(CPU).error == 4.0  # two blocks that did not, and two that took another way


def test_a_wrong_gradient_of_attention_fails(checks, monkeypatch):
    groups = checks.attention._attend_in_groups

    def half_the_gradient_of_keys(query, key, *rest):
        return groups(query, 0.5 * key + 0.5 * key.detach(), *rest)

    monkeypatch.setattr(checks.attention, "_attend_in_groups", half_the_gradient_of_keys)
    check = checks.check_attention_gradients(CPU)
    assert check.error == pytest.approx(0.5, abs=0.02)
    assert checks.check_attention(CPU).error < 3e-2  # looks at what goes forward alone
    weights = checks.check_weight_gradients(CPU)
    assert weights.error > 0.3 > weights.tolerance


def test_one_gradient_that_is_not_a_number_fails(checks):
    assert checks.largest([0.25, 0.5]) == 0.5
    assert not checks.largest([0.0, float("nan"), 0.0]) <= 1.0


def test_gradients_that_did_not_come_by_the_kernel_fail(checks, monkeypatch):
    monkeypatch.setattr(checks, "wanted_way", lambda device: "_attend_varlen")
    check = checks.check_attention_gradients(CPU)
    assert check.error == float("inf")
    assert check.note.endswith("0 of 4 by _attend_varlen")


def test_torch_watches_the_warm_steps_of_the_loop_and_no_others(checks, monkeypatch):
    modes, watched = [0], []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    no_waiting, step = checks.no_waiting, checks.Loop._train_step
    monkeypatch.setattr(checks, "no_waiting", lambda device: no_waiting(torch.device("cuda")))

    def train_step(loop):
        watched.append(modes[-1])
        step(loop)

    monkeypatch.setattr(checks.Loop, "_train_step", train_step)
    assert checks.check_waiting(CPU).error == 0.0
    # Equal weights, the same with class weights, and weights that are learnt or drawn.
    assert watched == ([0] * 3 + ["error"] * 5) * 5
    assert modes == [0, *["error", 0] * 5]

    def waiting_step(loop):
        weights = loop.model.tasks["a"].class_weights
        if modes[-1] == "error" and (isinstance(loop.run.weighting, checks.FAMO) or weights == [1.0, 2.0, 3.0]):
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(checks.Loop, "_train_step", waiting_step)
    check = checks.check_waiting(CPU)
    assert check.error == 2.0
    raised = "RuntimeError: called a synchronizing CUDA operation (test_gpu_correctness.py:"
    assert f"; equal with class weights: {raised}" in check.note
    assert f"; famo: {raised}" in check.note
    assert modes[-1] == 0


def test_strategies_that_compute_otherwise_or_not_at_all_are_named(checks, tmp_path, monkeypatch):
    for name in ("hard", "lora", "grouped"):
        (tmp_path / f"{name}.yaml").write_text((checks.SHARING / f"{name}.yaml").read_text())
    (tmp_path / "broken.yaml").write_text("_target_: mtl_cli.sharing.HardSharing\nnum_shared_layers: 9\n")
    monkeypatch.setattr(checks, "SHARING", tmp_path)
    step = checks.strategy_step

    def strategy_step(settings, device, precision):
        found = step(settings, device, precision)
        if settings.stem == "lora" and precision == "bf16":
            found["loss of task1"] = 2 * found["loss of task1"]
        return found

    monkeypatch.setattr(checks, "strategy_step", strategy_step)
    check = checks.check_strategies_bf16(CPU)
    assert check.error == float("inf")
    assert check.note.startswith("4 strategies; failed: broken (UserError: sharing.num_shared_layers")
    assert check.note.endswith("), lora (1.0e+00)")
    (tmp_path / "broken.yaml").unlink()
    fp32 = checks.check_strategies_fp32(CPU)
    assert (fp32.error, fp32.note) == (0.0, "3 strategies")


BROKEN = {
    "mmoe": (TaskGates, "forward", lambda gates, *of, forward=TaskGates.forward: forward(gates, *of).flip(-1)),
    "adapters": (Adapter, "forward", lambda adapter, x, forward=Adapter.forward: 1.1 * forward(adapter, x)),
    "mtrl": (MTRL, "start_step", lambda *of: None),
}


@pytest.mark.parametrize(
    ("name", "precision"),
    # What Omega changes for adapters that are drawn, and so hardly alike, is less than bf16 shows.
    [("mmoe", "fp32"), ("mmoe", "bf16"), ("adapters", "fp32"), ("adapters", "bf16"), ("mtrl", "fp32")],
)
def test_a_module_that_computes_otherwise_on_the_device_is_seen(checks, tmp_path, monkeypatch, name, precision):
    for strategy in ("hard", name):
        (tmp_path / f"{strategy}.yaml").write_text((checks.SHARING / f"{strategy}.yaml").read_text())
    monkeypatch.setattr(checks, "SHARING", tmp_path)
    check = getattr(checks, f"check_strategies_{precision}")
    right = check(CPU)
    assert right.error <= right.tolerance
    step, sides = checks.strategy_step, cycle(["device", "reference"])

    def broken_on_the_device(*of):
        with monkeypatch.context() as patch:
            if next(sides) == "device":
                patch.setattr(*BROKEN[name])
            return step(*of)

    monkeypatch.setattr(checks, "strategy_step", broken_on_the_device)
    wrong = check(CPU)
    assert wrong.error > wrong.tolerance
    assert wrong.note.startswith(f"2 strategies; failed: {name} (")


def test_no_strategy_draws_anything_without_dropout(checks, monkeypatch):
    """Else two devices, which draw differently, could not be compared."""
    engine = checks.SyntheticRun.engine
    seeds = iter(range(1000))

    def engine_of_another_seed(run, weighting):
        torch.manual_seed(next(seeds))  # the model is made: what is drawn from here on differs from run to run
        return engine(run, weighting)

    monkeypatch.setattr(checks.SyntheticRun, "engine", engine_of_another_seed)
    files = sorted(checks.SHARING.glob("*.yaml"))
    assert len(files) > 15
    for file in files:
        first, second = (checks.strategy_step(file, CPU, "fp32") for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first), file.stem


@pytest.fixture
def step_without_values(checks, monkeypatch):
    """A step's forward and backward pass on torch's meta device, which has no value that anybody could wait for."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # it does not know that device
    run = checks.SyntheticRun(checks.small_encoder(packed=True), checks.HardSharing(), 3, 512, meta, "fp32")
    return lambda: run.engine(checks.Equal()).step([[run.step_of_rows]])


def test_forward_and_backward_ask_the_device_for_no_value(step_without_values):
    assert step_without_values().losses["task0"].device.type == "meta"


def test_a_step_that_asks_for_a_value_is_noticed(step_without_values, monkeypatch):
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: forward(self, x) * float(x.sum().item() > 0))
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        step_without_values()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
def test_blocks_that_are_compiled_anew_for_each_length_fail(checks, monkeypatch):
    compile_blocks = checks.compile_blocks

    def compile_for_each_length(encoder, **options):
        compile_blocks(encoder, **options)  # which leaves attention outside
        for block in encoder.blocks:
            block.compile(dynamic=False, **options)

    monkeypatch.setattr(checks, "compile_blocks", compile_for_each_length)
    monkeypatch.setattr(checks, "CHECKS", (checks.check_compiled,))
    (check,) = checks.run_checks(CPU)
    assert not check.passed
    assert "fail_on_recompile" in check.note
