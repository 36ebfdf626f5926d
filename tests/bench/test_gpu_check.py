"""The GPU check's comparisons, on the CPU, and what it makes of them; its benchmarks are those of `mtl bench`."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from compose import composed

from mtl_cli.check_config import check_config

SCRIPTS = Path(__file__).parents[2] / "scripts"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gpu_check():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("gpu_check")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_refused(gpu_check, tmp_path, capsys):
    assert gpu_check.main([str(tmp_path / "a.json")]) == 2
    assert "sees no GPU. Run it on a machine with one, or rehearse with --cpu" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
def test_the_rehearsal_runs_every_check(gpu_check, tmp_path, capsys):
    assert gpu_check.main(["--cpu", "--no-benchmarks", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [check["passed"] for check in found["checks"]] == [True] * 9
    assert all(check["error"] <= check["tolerance"] for check in found["checks"])
    assert capsys.readouterr().out.count("passed: ") == 9


def test_attention_by_another_way_than_the_kernel_fails(gpu_check, monkeypatch):
    check = gpu_check.check_kernel(CPU)
    assert (check.name, check.error) == ("blocks that attend otherwise than by in_groups", 0.0)
    assert check.note == "0 blocks by the variable-length kernel, 2 in groups"
    groups = gpu_check.attention._attend_in_groups
    monkeypatch.setattr(gpu_check.attention, "_varlen_serves", lambda query, dropout: True)
    monkeypatch.setattr(gpu_check.attention, "_attend_varlen", groups)
    assert gpu_check.check_kernel(CPU).error == 4.0  # two blocks that did not, and two that took another way


def test_a_wrong_gradient_of_attention_fails(gpu_check, monkeypatch):
    groups = gpu_check.attention._attend_in_groups

    def half_the_gradient_of_keys(query, key, *rest):
        return groups(query, 0.5 * key + 0.5 * key.detach(), *rest)

    monkeypatch.setattr(gpu_check.attention, "_attend_in_groups", half_the_gradient_of_keys)
    check = gpu_check.check_attention_gradients(CPU)
    assert check.error == pytest.approx(0.5, abs=0.02)
    assert gpu_check.check_attention(CPU).error < 3e-2  # looks at what goes forward alone
    weights = gpu_check.check_weight_gradients(CPU)
    assert weights.error > 0.3 > weights.tolerance


def test_one_gradient_that_is_not_a_number_fails(gpu_check):
    assert gpu_check.largest([0.25, 0.5]) == 0.5
    assert not gpu_check.largest([0.0, float("nan"), 0.0]) <= 1.0


def test_gradients_that_did_not_come_by_the_kernel_fail(gpu_check, monkeypatch):
    monkeypatch.setattr(gpu_check, "wanted_way", lambda device: "_attend_varlen")
    check = gpu_check.check_attention_gradients(CPU)
    assert check.error == float("inf")
    assert check.note.endswith("0 of 4 by _attend_varlen")


def test_torch_watches_the_warm_steps_of_the_loop_and_no_others(gpu_check, monkeypatch):
    modes, watched = [0], []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    no_waiting, step = gpu_check.no_waiting, gpu_check.Loop._train_step
    monkeypatch.setattr(gpu_check, "no_waiting", lambda device: no_waiting(torch.device("cuda")))

    def train_step(loop):
        watched.append(modes[-1])
        step(loop)

    monkeypatch.setattr(gpu_check.Loop, "_train_step", train_step)
    assert gpu_check.check_waiting(CPU).error == 0.0
    assert watched == [0] * 3 + ["error"] * 5
    assert modes == [0, "error", 0]

    def waiting_step(loop):
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(gpu_check.Loop, "_train_step", waiting_step)
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        gpu_check.check_waiting(CPU)
    assert modes[-1] == 0


@pytest.fixture
def step_without_values(gpu_check, monkeypatch):
    """A step's forward and backward pass on torch's meta device, which has no value that anybody could wait for."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # it does not know that device
    run = gpu_check.SyntheticRun(gpu_check.small_encoder(packed=True), gpu_check.HardSharing(), 3, 512, meta, "fp32")
    return lambda: run.engine(gpu_check.Equal()).step([[run.step_of_rows]])


def test_forward_and_backward_ask_the_device_for_no_value(step_without_values):
    assert step_without_values().losses["task0"].device.type == "meta"


def test_a_step_that_asks_for_a_value_is_noticed(step_without_values, monkeypatch):
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: forward(self, x) * float(x.sum().item() > 0))
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        step_without_values()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
def test_blocks_that_are_compiled_anew_for_each_length_fail(gpu_check, monkeypatch):
    compile_blocks = gpu_check.compile_blocks

    def compile_for_each_length(encoder, **options):
        compile_blocks(encoder, **options)  # which leaves attention outside
        for block in encoder.blocks:
            block.compile(dynamic=False, **options)

    monkeypatch.setattr(gpu_check, "compile_blocks", compile_for_each_length)
    monkeypatch.setattr(gpu_check, "CHECKS", (gpu_check.check_compiled,))
    (check,) = gpu_check.run_checks(CPU)
    assert not check.passed
    assert "fail_on_recompile" in check.note


def test_the_trainer_is_compared_at_its_own_batch_size(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "write_bert_base", lambda folder: None)
    for cpu in (True, False):
        config = composed(*gpu_check.benchmarks(tmp_path, cpu=cpu)["trainer"], command="bench")
        assert config["sampler"]["_target_"] == "mtl_cli.sampling.Proportional"
        assert config["sampler"]["batch_size"] == 32


def test_a_wrong_kernel_and_one_that_raises_fail_and_the_others_run(gpu_check, tmp_path, monkeypatch, capsys):
    def doubled(device):
        return gpu_check.Check("doubled", gpu_check.relative(torch.tensor([2.0]), torch.tensor([1.0])), 0.5)

    def raising(device):
        """Raises."""
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu_check, "CHECKS", (raising, doubled, gpu_check.check_packed))
    assert gpu_check.main(["--cpu", "--no-benchmarks", str(tmp_path / "a.json")]) == 1
    found = json.loads((tmp_path / "a.json").read_text())["checks"]
    assert [check["passed"] for check in found] == [False, False, True]
    assert found[0]["note"].startswith("RuntimeError: no kernel image (test_gpu_check.py:")
    assert found[1]["error"] == 1.0
    assert "failed: Raises, doubled" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["step, padded", "step, compiled", "trainer", "tasks", "loop", "startup", "step"])
def test_the_words_of_the_rehearsal_compose(gpu_check, name, tmp_path):
    config = composed(*gpu_check.benchmarks(tmp_path, cpu=True)[name], command="bench")
    check_config({key: value for key, value in config.items() if key not in ("of", "bench")})


def test_the_words_for_a_gpu_compose(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "write_bert_base", lambda folder: None)
    for words in gpu_check.benchmarks(tmp_path, cpu=False).values():
        config = composed(*words, command="bench")
        check_config({key: value for key, value in config.items() if key not in ("of", "bench")})


def test_aims_follow_from_the_figures(gpu_check):
    def step(tokens, share, padding=0.0):
        ours = {"tokens_per_second": {"median": tokens}, "ceiling_share": {"median": share}, "padding_linear": padding}
        return {"figures": {"variants": {"ours": ours}}}

    # Half of the padded slots are padding: unpadded at least 0.9 / 0.5 = 1.8 times as fast.
    found = {"step, BERT-base": step(190.0, 0.31), "step, BERT-base, padded": step(100.0, 0.2, 0.5)}
    found["trainer"] = {"aims": {"1.6 x B2": False}}
    aims = gpu_check.aims_of(found)
    assert aims == {
        "step, BERT-base: at least 30% of the matrix-product rate": True,
        "step, MiniLM: at least 15% of the matrix-product rate": None,
        "unpadded at least 0.9 / (1 - padded fraction) times padded": True,
        "trainer: 1.6 x B2": False,
    }
    found["step, BERT-base"] = step(179.0, 0.29)
    assert list(gpu_check.aims_of(found).values())[::2] == [False, False]
    for tokens, fast in ((206.0, True), (205.0, False)):  # 1.15 * 179 = 205.85
        found["step, BERT-base, compiled"] = step(tokens, 0.3)
        (aim,) = (aim for aim in gpu_check.aims_of(found) if "compiled" in aim)
        assert aim.startswith("step, BERT-base: compiled at least 1.15 times as fast (1.15 measured)")
        assert gpu_check.aims_of(found)[aim] is fast
    found["step, BERT-base, compiled"] = {"failed": "exit status 1"}
    assert gpu_check.aims_of(found)["step, BERT-base: compiled at least 1.15 times as fast"] is None


def test_benchmarks_that_fail_or_have_no_time_left_are_said_so(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "benchmarks", lambda folder, cpu: {"wrong": ["--nonsense"], "late": []})
    clock = iter([0.0, 1000.0])
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: next(clock))
    told = {}
    gpu_check.run_benchmarks(tmp_path, True, 100.0, told.__setitem__)
    assert told == {"wrong": {"failed": "exit status 2"}, "late": {"skipped": "no time left"}}
