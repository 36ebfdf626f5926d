"""How many tokens go through the model at once, and that a step's update does not depend on it."""

import json
from copy import deepcopy

import numpy as np
import pytest
import tiny_project
import torch
from encoders import tiny_encoders
from gradients.steps import CPU, model_of
from safetensors.torch import load_file

from mtl_cli.cli import _main
from mtl_cli.data import EncodedSplit
from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import MTRL, AdaShare
from mtl_cli.sharing.adashare import SelectedBlock
from mtl_cli.training import batch_tokens
from mtl_cli.training.batch_tokens import Tried, fit_batch_tokens, measure_batch_tokens
from mtl_cli.training.checkpoint import Checkpoints
from mtl_cli.training.live_memory import LiveMemory
from mtl_cli.types import UserError
from mtl_cli.weighting import DBMTL, RLW, Equal, GradDrop, MoDo, PCGrad


class Machine:
    """Takes 10 bytes a token, 1,000 of them besides, and no more than it has."""

    def __init__(self, size):
        self.size = size
        self.tried = []

    def __call__(self, tokens):
        self.tried.append(tokens)
        needed = 1_000 + 10 * tokens
        if needed > self.size:
            raise torch.OutOfMemoryError
        return Tried(tokens, needed)


def test_what_fits_follows_from_one_try():
    # 1,000 tokens took 11,000 bytes, 11 a token: 110,000 bytes hold 10,000.
    machine = Machine(10**9)
    assert fit_batch_tokens(machine, free=110_000, first_try=1_000, verify=False) == 10_000
    assert machine.tried == [1_000]


def test_a_try_that_fails_is_halved_and_what_was_found_is_checked():
    # 2,000 and 1,000 tokens do not fit; 500 take 6,000, 12 a token; 12,000 bytes would hold 1,000, of which 640 do.
    machine = Machine(7_500)
    assert fit_batch_tokens(machine, free=12_000, first_try=2_000, verify=True) == 640
    assert machine.tried == [2_000, 1_000, 500, 1_000, 800, 640]


def test_a_machine_that_holds_no_row_is_said_to():
    with pytest.raises(UserError, match=r"trainer.batch_tokens: auto, but not even one row fits"):
        fit_batch_tokens(Machine(5), free=10, first_try=64, verify=False)


def test_live_memory_counts_what_is_alive_at_once():
    weight = torch.ones(1000, requires_grad=True)  # made outside: not counted
    with LiveMemory() as memory:
        doubled = weight * 2  # 4,000 bytes
        view = doubled.view(10, 100)  # the same ones
        assert memory.now == 4_000
        view.add_(1)
        assert memory.now == 4_000
        squared = view.square()  # 8,000
        del doubled, view
        assert memory.now == 8_000  # the square's backward pass needs what is squared
        squared.sum().backward()
        del squared
    assert memory.now == 4_000  # the gradient
    assert 12_000 <= memory.peak <= 20_100


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch_tokens")
    conf = tiny_project.write(folder)
    common = [*tiny_project.TINY, "task=[reviews,names]", "encoder.dropout=0", "trainer.max_steps=3"]
    common += [f"tasks.{task}.head._target_=mtl_cli.tasks.LinearHead" for task in ("reviews", "names")]
    common += [f"tasks.{task}.head.dropout=0" for task in ("reviews", "names")]
    found = {}
    for name, extra in {
        "whole": [],
        "cut": ["trainer.batch_tokens=40"],
        "auto": ["trainer.batch_tokens=auto"],
        "checkpointed": ["trainer.activation_checkpointing=true"],
    }.items():
        found[name] = folder / name
        assert _main(["train", "--config-dir", str(conf), *common, *extra, f"hydra.run.dir={folder / name}"]) == 0
    return found


@pytest.mark.parametrize("name", ["cut", "auto", "checkpointed"])
def test_the_update_is_that_of_the_whole_step(runs, name):
    for key, expected in weights(runs["whole"]).items():
        torch.testing.assert_close(weights(runs[name])[key], expected, atol=2e-4, rtol=0)


def test_what_was_found_is_kept_in_the_run_folder(runs):
    found = json.loads((runs["auto"] / "measured.json").read_text())["batch_tokens"]
    assert found > 1_000
    assert not (runs["cut"] / "measured.json").exists()


def split_of(lengths):
    """Rows of these lengths, one label each."""
    starts = np.concatenate(([0], np.cumsum(lengths)))
    return EncodedSplit(
        input_ids=np.full(starts[-1], 7, dtype=np.int32),
        row_starts=starts,
        token_type_ids=None,
        labels=np.zeros(len(lengths), dtype=np.int64),
        positions=None,
        label_starts=None,
        word_numbers=None,
        example_numbers=np.arange(len(lengths)),
        num_examples=len(lengths),
    )


SPLITS = {"mood": split_of([5, 3, 9]), "nli": split_of([4, 4])}


def engine_of(weighting, sharing=None):
    model = model_of()
    if sharing is not None:
        model = MultiTaskModel(model.encoder, sharing, dict(model.tasks), model.labels).eval()
    weighting.start(list(model.tasks), seed=3)
    return GradientEngine(model, weighting, Losses(model, "fp32", CPU))


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(batch_tokens, "_free_bytes", lambda device: 2**26)
    monkeypatch.setattr(batch_tokens, "_FIRST_TRY", {"cpu": 16})


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(
    "weighting", [PCGrad(), PCGrad(warmup_steps=9), Equal(track_conflict_every=1), MoDo()], ids=str
)
def test_each_task_s_gradient_counts_where_the_run_s_weighting_keeps_it(weighting):
    plain = measure_batch_tokens(engine_of(Equal()), SPLITS)
    assert 2 * measure_batch_tokens(engine_of(weighting), SPLITS) <= plain


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("weighting", [DBMTL(), GradDrop(), RLW(), MoDo()], ids=lambda w: type(w).__name__)
def test_measuring_leaves_everything_as_it_was(weighting):
    engine = engine_of(weighting)
    before = [deepcopy(x) for x in (weighting.state_dict(), dict(engine.model.named_buffers()), torch.get_rng_state())]
    measure_batch_tokens(engine, SPLITS)
    after = [weighting.state_dict(), dict(engine.model.named_buffers()), torch.get_rng_state()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in engine.model.parameters())


@pytest.fixture
def slots_of_passes(monkeypatch):
    """Places of hidden states that each forward pass of a model, in training, computes."""
    found = []
    forward, encode = MultiTaskModel.forward, Encoder._encode_padded_group

    def of_model(self, step):
        if self.training:
            found.append(0)
        return forward(self, step)

    def of_group(self, ids, types, layout):
        if self.training:
            found[-1] += layout.num_rows * layout.max_length
        return encode(self, ids, types, layout)

    monkeypatch.setattr(MultiTaskModel, "forward", of_model)
    monkeypatch.setattr(Encoder, "_encode_padded_group", of_group)
    return found


@pytest.mark.parametrize("sharing", ["hard", "adapters"])
def test_padding_counts_where_the_encoder_pads(tmp_path, slots_of_passes, sharing):
    conf = tiny_project.write(tmp_path)
    settings = [*tiny_project.TINY, "task=[reviews,pairs]", "encoder.packing=false", f"sharing={sharing}"]
    settings += ["sharing.train_encoder=true"] if sharing == "adapters" else []
    settings += ["trainer.max_steps=4", "trainer.batch_tokens=60", f"hydra.run.dir={tmp_path / 'run'}"]
    assert _main(["train", "--config-dir", str(conf), *settings]) == 0
    assert len(slots_of_passes) > 4
    assert max(slots_of_passes) <= 60


@pytest.mark.parametrize("packing", [True, False])
def test_a_row_above_the_bound_does_not_cut_the_others_one_by_one(tmp_path, monkeypatch, packing):
    conf = tiny_project.write(tmp_path)
    rows_of_pieces = []
    step = GradientEngine.step

    def spied(self, parts, tasks=None):
        rows_of_pieces.append([np.concatenate([batch.lengths_B for batch in piece.values()]) for piece in parts[0]])
        return step(self, parts, tasks)

    monkeypatch.setattr(GradientEngine, "step", spied)
    settings = [*tiny_project.TINY, "task=[reviews,pairs]", f"encoder.packing={packing}", "sampler.batch_size=16"]
    settings += ["trainer.max_steps=4", "trainer.batch_tokens=22", f"hydra.run.dir={tmp_path / 'run'}"]
    assert _main(["train", "--config-dir", str(conf), *settings]) == 0
    sizes = [[len(rows) * rows.max() if not packing else rows.sum() for rows in pieces] for pieces in rows_of_pieces]
    assert max(map(max, sizes)) > 22  # of one row
    for pieces, of_step in zip(rows_of_pieces, sizes, strict=True):
        assert all(size <= 22 or len(rows) == 1 for rows, size in zip(pieces, of_step, strict=True))
        assert len(pieces) < sum(map(len, pieces)), sizes


@pytest.mark.parametrize("family", ["bert", "t5", "deberta-v2"])
def test_slots_are_what_passes_compute(slots_of_passes, family):
    lengths = {"a": [5, 17, 2, 60], "b": [9, 3, 3, 3] * 40}
    of_all = np.concatenate([np.array(rows) for rows in lengths.values()])
    model = tiny_encoders.reference_model(family)
    encoder = Encoder(model, tiny_encoders.tokenizer(), pooling="mean", packed=False).train()
    slots_of_passes.append(0)
    encoder(tiny_encoders.rows(lengths, packed=False)[0], None, tiny_encoders.rows(lengths, packed=False)[1])
    assert encoder.num_slots(of_all) == slots_of_passes[0] > of_all.sum()
    assert (
        family not in tiny_encoders.PACKED
        or Encoder(model, tiny_encoders.tokenizer(), pooling="mean", packed=True).num_slots(of_all) == of_all.sum()
    )


def test_out_of_memory_after_auto_says_what_helps_and_the_run_goes_on_with_half_the_step(tmp_path, monkeypatch, capsys):
    conf = tiny_project.write(tmp_path)
    run = tmp_path / "run"
    settings = ["train", "--config-dir", str(conf), *tiny_project.TINY, "task=[reviews]", "trainer.max_steps=4"]
    monkeypatch.setattr(batch_tokens, "_free_bytes", lambda device: 2**28)
    step = GradientEngine.step
    at_once, before = [], []

    def full(self, parts, tasks=None):
        if tasks is not None and self.weighting.num_steps == 2:
            at_once.extend(int(batch.lengths_B.sum()) for batch in parts[0][0].values())
            before.append(json.loads((run / "measured.json").read_text())["batch_tokens"])
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return step(self, parts, tasks)

    monkeypatch.setattr(GradientEngine, "step", full)
    words = [*settings, "trainer.batch_tokens=auto", "trainer.checkpoint_every_steps=1", f"hydra.run.dir={run}"]
    assert _main(words) == 2
    measured = json.loads((run / "measured.json").read_text())["batch_tokens"]
    assert measured == at_once[0] // 2  # half of what was found would have left the step whole
    assert before[0] > 4 * measured
    message = capsys.readouterr().err
    assert f"at step 3, although the {before[0]:,} tokens at once that trainer.batch_tokens=auto found" in message
    assert f"resume={run} goes on with {measured:,} at once" in message
    assert "Set trainer.batch_tokens=auto" not in message
    assert "trainer.activation_checkpointing=true" in message
    monkeypatch.setattr(GradientEngine, "step", step)
    assert _main(["train", f"resume={run}"]) == 0
    assert json.loads((run / "measured.json").read_text())["batch_tokens"] == measured


def test_out_of_memory_names_the_setting_that_is_too_high(tmp_path, monkeypatch, capsys):
    conf = tiny_project.write(tmp_path)
    settings = ["train", "--config-dir", str(conf), *tiny_project.TINY, "task=[reviews]", "trainer.max_steps=2"]

    def full(self, step):
        if not self.training or "trainer.batch_tokens=50" in extra:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, step)

    forward = MultiTaskModel.forward
    monkeypatch.setattr(MultiTaskModel, "forward", full)
    for number, (extra, said) in enumerate(
        [
            (["trainer.batch_tokens=50"], r"at step 1. Lower trainer.batch_tokens (now 50, try 25)"),
            ([], r"in the evaluation of step 2. Lower trainer.evaluation_batch_tokens (now 8192)"),
        ]
    ):
        assert _main([*settings, *extra, f"hydra.run.dir={tmp_path / str(number)}"]) == 2
        assert said in capsys.readouterr().err


def test_with_another_number_of_processes_tokens_are_measured_again_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    conf, run = tiny_project.write(tmp_path), tmp_path / "run"
    settings = [*tiny_project.TINY, "task=[reviews]", "trainer.batch_tokens=auto", "trainer.checkpoint_every_steps=1"]
    monkeypatch.setattr(batch_tokens, "_free_bytes", lambda device: 2**28)
    with monkeypatch.context() as patch:
        patch.setattr(GradientEngine, "after_update", stop_at_step(3))
        assert _main(["train", "--config-dir", str(conf), *settings, f"hydra.run.dir={run}"]) == 2
    measured = json.loads((run / "measured.json").read_text())
    # As if four processes had begun it.
    of_four = {"batch_tokens_of_4_processes": 8}
    (run / "measured.json").write_text(json.dumps(of_four))
    monkeypatch.setattr(Checkpoints, "load", with_num_processes(Checkpoints.load, 4))
    assert _main(["train", f"resume={run}"]) == 0
    assert json.loads((run / "measured.json").read_text()) == measured | of_four
    (said,) = (record.getMessage() for record in caplog.records if "was written by 4 processes" in record.getMessage())
    assert "trainer.batch_tokens=auto takes the tokens that fit with as many, and sums are rounded otherwise" in said


def stop_at_step(number):
    after_update = GradientEngine.after_update

    def stopping(self):
        after_update(self)
        if self.weighting.num_steps == number:
            raise UserError("enough")

    return stopping


def with_num_processes(load, number):
    return lambda *args: {**load(*args), "num_processes": number, "generators_of_others": []}


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("settings", [{}, {"curriculum": True}, {"warmup_epochs": 3.0}], ids=str)
def test_the_tries_are_steps_in_which_a_strategy_learns_and_warn_of_nothing(settings, caplog):
    engine = engine_of(Equal(), AdaShare(**settings))
    learns = []
    step = engine.step

    def looked_at(parts):
        learns.append([block.learns for block in engine.model.modules() if isinstance(block, SelectedBlock)])
        return step(parts)

    engine.step = looked_at
    measure_batch_tokens(engine, SPLITS)
    assert learns
    assert all(of_step == [True] * 3 for of_step in learns)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.usefixtures("small_machine")
def test_the_tries_do_not_say_that_a_prior_is_never_updated(caplog):
    measure_batch_tokens(engine_of(Equal(), MTRL()), SPLITS)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
