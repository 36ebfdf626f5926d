"""The loop and the optimizer: what a run does beyond its single steps."""

import json

import pytest
import tiny_project
import torch
from safetensors.torch import load_file

from mtl_cli.cli import _main
from mtl_cli.encoders import TransformerEncoder
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import HardSharing
from mtl_cli.tasks import SingleTextClassification
from mtl_cli.tracking import read_metrics
from mtl_cli.training import AdamW, peak_memory_bytes
from mtl_cli.training.lazy_adamw import LazyAdamW
from mtl_cli.types import UserError


def train(project, run, *overrides):
    arguments = [*tiny_project.TINY, "task=[reviews,names]", *overrides, f"hydra.run.dir={run}"]
    return _main(["train", "--config-dir", str(project), *arguments])


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def test_micro_batches_add_up_to_the_gradient_of_the_whole_step(project, tmp_path):
    # Without dropout, and with SGD-like sizes of update: one step of AdamW moves each weight by about the learning rate
    # whatever the gradient's size, so the norm before clipping is compared, and the weights after a few steps.
    for parts in (1, 3):
        settings = ["encoder.dropout=0", "trainer.max_steps=4", "trainer.log_every_steps=1"]
        heads = [f"tasks.{task}.head.dropout=0" for task in ("reviews", "names")]
        heads += [f"tasks.{task}.head._target_=mtl_cli.tasks.LinearHead" for task in ("reviews", "names")]
        assert train(project, tmp_path / str(parts), *settings, *heads, f"trainer.num_micro_batches={parts}") == 0
    whole, cut = (read_metrics(tmp_path / parts / "metrics.jsonl") for parts in ("1", "3"))
    for key in ("train/grad_norm", "train/loss/reviews", "train/loss/names"):
        assert [r[key] for r in cut if key in r] == pytest.approx([r[key] for r in whole if key in r], rel=1e-4)
    ours, theirs = weights(tmp_path / "3"), weights(tmp_path / "1")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-4, rtol=0)


def test_the_best_checkpoint_by_the_named_metric_is_what_remains(project, tmp_path):
    settings = ["trainer.epochs=4", "trainer.best_metric=names/loss", "optimizer.lr=0.01"]
    assert train(project, tmp_path / "run", *settings) == 0
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = {r["step"]: r["validation/names/loss"] for r in records if "validation/names/loss" in r}
    best = min(losses, key=losses.get)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("best-*")] == [f"best-{best:08d}"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["tasks"]["names"]["validation"]["loss"] == losses[best]


def test_training_stops_after_so_many_evaluations_without_a_new_best(project, tmp_path):
    # No evaluation improves by 10: the first is the best, two more follow.
    settings = ["trainer.epochs=9", "trainer.early_stopping_patience=2", "trainer.min_improvement=10"]
    assert train(project, tmp_path / "run", *settings) == 0
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len([r for r in records if "validation/score" in r]) == 3
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "finished"


def test_a_loss_of_nan_names_step_and_task_and_keeps_the_last_checkpoint(project, tmp_path, monkeypatch, capsys):
    from mtl_cli.tasks import TokenTagging

    calls = []
    loss = TokenTagging.loss

    def broken(self, *arguments, **keywords):
        calls.append(None)
        return loss(self, *arguments, **keywords) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(TokenTagging, "loss", broken)
    run = tmp_path / "run"
    assert train(project, run, "trainer.max_steps=20", "trainer.checkpoint_every_steps=2") == 2
    message = capsys.readouterr().err
    assert "step 5: loss of task 'names' is nan" in message
    assert f"the last good checkpoint is {run}/checkpoints/step-00000004" in message
    for tensor in load_file(run / "checkpoints" / "step-00000004" / "model.safetensors").values():
        assert tensor.isfinite().all()


def test_a_gpu_out_of_memory_names_the_settings_to_lower(project, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(MultiTaskModel, "forward", full)
    assert train(project, tmp_path / "run") == 2
    message = capsys.readouterr().err
    for setting in ("sampler.batch_size", "trainer.num_micro_batches", "max_length"):
        assert setting in message


def test_clipping_bounds_the_norm_that_the_optimizer_sees(project, tmp_path, monkeypatch):
    seen = []
    step = LazyAdamW.step

    def watch(self, *arguments, **keywords):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        dense = [g.to_dense() if g.is_sparse else g for g in gradients]
        seen.append(float(torch.nn.utils.get_total_norm(dense) / self.grad_scale))
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(LazyAdamW, "step", watch)
    assert train(project, tmp_path / "run", "trainer.max_steps=3", "trainer.max_grad_norm=0.01") == 0
    assert seen == pytest.approx([0.01] * 3, rel=1e-3)


def test_bf16_trains_with_float32_weights(project, tmp_path):
    assert train(project, tmp_path / "run", "trainer.max_steps=2", "trainer.precision=bf16") == 0
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def test_upper_blocks_of_a_tasks_own_train_and_count_as_its_own(project, tmp_path):
    assert train(project, tmp_path / "run", "trainer.max_steps=2", "sharing.num_shared_layers=1") == 0
    counts = json.loads((tmp_path / "run" / "results.json").read_text())["parameters"]
    assert counts["total"] == counts["shared"] + counts["task_specific"]
    assert counts["task_specific"] > counts["total"] / 4


@pytest.fixture
def model():
    spec = TransformerEncoder(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2, max_length=24)
    encoder = spec.build(["one text", "another text"])
    from mtl_cli.saved_model import UnavailableSource

    task = SingleTextClassification(source=UnavailableSource())
    return MultiTaskModel(encoder, HardSharing(), {"t": task}, {"t": ["a", "b"]})


def test_each_trainable_parameter_is_in_one_group_with_the_rate_of_its_depth(model):
    model.encoder.blocks[0].requires_grad_(False)
    optimizer = AdamW(lr=0.1, head_lr=0.5, layer_decay=0.5, weight_decay=0.3).build(model)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sorted(rate) == sorted(id(p) for p in trainable)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable)
    # Two blocks: 0.1 in the upper one, 0.05 in the lower (frozen), 0.025 below both.
    assert {rate[id(p)] for p in model.encoder.blocks[1].parameters()} == {0.1}
    assert rate[id(model.encoder.model.get_input_embeddings().weight)] == 0.025
    assert {rate[id(p)] for p in model.heads.parameters()} == {0.5}
    assert all(decay[id(p)] == (0.3 if p.ndim > 1 else 0.0) for p in trainable)


def test_a_layer_decay_of_zero_is_refused():
    with pytest.raises(UserError, match=r"optimizer.layer_decay: found 0"):
        AdamW(layer_decay=0.0)


def test_peak_memory_is_that_of_the_process():
    assert peak_memory_bytes(torch.device("cpu")) > 50 * 2**20
