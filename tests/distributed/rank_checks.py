"""What each of several ranks, and one process alone, do for test_two_ranks.py; `fork_ranks.py` runs it.

Each check that trains leaves `<name>.safetensors` (weights) and `<name>.json` in the folder.
"""

import json
import re
import shutil
from copy import deepcopy
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from mtl_cli import sharing, weighting
from mtl_cli.data import ConllSource, FileSource, prepare
from mtl_cli.distributed import launched, processes
from mtl_cli.distributed.divided import is_divided
from mtl_cli.distributed.processes import ALREADY_TOLD, check_folder_in_common, processes_of_run
from mtl_cli.distributed.ranks import from_main, gather, is_main, num_ranks, rank, sum_in_buckets
from mtl_cli.encoders import Encoder, TransformerEncoder
from mtl_cli.encoders.dropout import fast_dropout
from mtl_cli.encoders.grouping import group_for_passes
from mtl_cli.evaluation import Evaluator
from mtl_cli.gradients.ranks import sum_gradients_over_ranks
from mtl_cli.model import MultiTaskModel
from mtl_cli.sampling import Proportional, Temperature, Uniform
from mtl_cli.tasks import LinearHead, Regression, SingleTextClassification, TextPairClassification, TokenTagging
from mtl_cli.tracking import Loggers, MetricsFile, NoMetricsFile, Progress, RunFolder, RunInfo
from mtl_cli.training import AdamW, Constant, Trainer, TrainingRun, seed_everything
from mtl_cli.training.agreement import check_agreement
from mtl_cli.training.fsdp import divide, load_weights, whole_weights
from mtl_cli.types import UserError

# Few rows of tasks of different sizes: most steps leave some process without some task.
UNEVEN = Proportional(batch_size=5)
CPU = torch.device("cpu")

HALF_WAY = {"checkpoint_every_steps": 10, "keep_checkpoints": 2}
SAME = {
    "equal": (weighting.Equal(), sharing.HardSharing(), UNEVEN, {"num_micro_batches": 2}),
    "uncertainty": (weighting.UncertaintyWeighting(), sharing.HardSharing(), UNEVEN, HALF_WAY),
    "famo": (weighting.FAMO(), sharing.HardSharing(), UNEVEN, {}),
    "db_mtl": (weighting.DBMTL(), sharing.HardSharing(), UNEVEN, {}),
    "pcgrad": (weighting.PCGrad(), sharing.HardSharing(), UNEVEN, {}),
    "cagrad": (weighting.CAGrad(engine="per_task"), sharing.HardSharing(), UNEVEN, {"num_micro_batches": 2}),
    "representation": (weighting.MGDA(scope="representation"), sharing.HardSharing(), UNEVEN, {}),
    # Gates that learn fast: what they do differs from row to row, and so from one process's rows to the other's.
    "mmoe": (weighting.Equal(), sharing.MMoE(gate_lr_factor=30.0), UNEVEN, {}),
    "soft_l2": (weighting.Equal(), sharing.SoftL2(), UNEVEN, {}),
}
"""Name -> weighting, strategy, sampler, settings of the trainer."""

# Steps of one to three rows over two processes, with the ends of passes in between.
MIXTURES = {
    "mixtures_equal": (weighting.Equal(), sharing.HardSharing(), Uniform(batch_size=2), {"num_micro_batches": 2}),
    "mixtures_pcgrad": (weighting.PCGrad(), sharing.HardSharing(), Uniform(batch_size=3), {}),
    "mixtures_moe": (weighting.DBMTL(), sharing.MoE(), Temperature(batch_size=3), {}),
}


def encoder_of_texts(**settings):
    spec = TransformerEncoder(vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, dropout=0.0, **settings)
    return spec.build(["a fine film", "a dull song and a great meal"])


def prepared(folder):
    """The encoder and the data of four tasks of different sizes."""
    data = folder.parent / "data"

    def splits(name):
        return {split: str(data / f"{name}.{split}") for split in ("train", "validation")}

    def source(name, suffix):
        paths = {split: f"{path}.{suffix}" for split, path in splits(name).items()}
        return ConllSource(**paths, columns=["tokens", "tags"]) if suffix == "conll" else FileSource(**paths)

    head = LinearHead(dropout=0.0)
    tasks = {
        "reviews": SingleTextClassification(
            source=source("reviews", "csv"), text="text", label="label", head=head, max_train_examples=7
        ),
        "pairs": TextPairClassification(
            source=source("pairs", "tsv"), text="a", text_pair="b", label="same", head=head, max_train_examples=19
        ),
        "scores": Regression(source=source("scores", "jsonl"), text="text", label="score", head=head),
        "names": TokenTagging(
            source=source("names", "conll"),
            words="tokens",
            tags="tags",
            scheme="iob2",
            head=head,
            max_train_examples=11,
        ),
    }
    seed_everything(1)
    encoder = encoder_of_texts()
    found = {
        name: prepare(task, encoder.tokenizer, seed=1, cache_dir=None, max_length_limit=encoder.max_length, name=name)
        for name, task in tasks.items()
    }
    return encoder, tasks, found


def fit(folder, name, parts, weighs, strategy, sampler, steps, resume=False, **settings):
    encoder, tasks, data = parts
    seed_everything(1)
    labels = {task: found.labels for task, found in data.items()}
    model = MultiTaskModel(deepcopy(encoder), deepcopy(strategy), tasks, labels)
    run_folder = RunFolder(folder / name)
    with MetricsFile(run_folder.metrics_file) if is_main() else NoMetricsFile() as file:
        run = TrainingRun(
            model=model, data=data, sampler=sampler, weighting=deepcopy(weighs),
            # Gradients of which nothing but rounding is left (attention's key biases) would grow to whole updates.
            optimizer=AdamW(lr=1e-3, eps=1e-6), schedule=Constant(), folder=run_folder, metrics_file=file,
            loggers=Loggers(), progress=Progress(enabled=False), seed=1,
            info=RunInfo(folder=run_folder.path, name=name, tasks=tuple(tasks)),
        )  # fmt: skip
        trainer = Trainer(device="cpu", precision="fp32", max_steps=steps, steps_per_epoch=steps, **settings)
        state = trainer.fit(run, resume=resume)
    weights = whole_weights(model)
    if is_main():
        if weights is None:
            save_model(model, str(folder / f"{name}.safetensors"))
        else:
            save_file(weights, folder / f"{name}.safetensors")
        learnt = {key: found.to_dict() for key, found in model.sharing.learnt(model).items()}
        found = {"tokens": state.tokens_of_tasks, "passes": state.passes_of_tasks, "learnt": learnt}
        (folder / f"{name}.json").write_text(json.dumps({**found, "metrics": state.best_metrics}))
    return model


def run_all(folder):
    folder.mkdir(exist_ok=True)
    with processes_of_run("cpu") as found:
        parts = prepared(folder)
        for name, (weighs, strategy, sampler, settings) in SAME.items():
            model = fit(folder, name, parts, weighs, strategy, sampler, 20, log_every_steps=4, **settings)
        every_row_is_scored_once(model, parts[2])
        if found.place.is_one_of_several:
            for name, (weighs, strategy, sampler, settings) in MIXTURES.items():
                fit(folder, name, parts, weighs, strategy, sampler, 70, log_every_steps=70, **settings)
            an_encoder_in_parts_learns_the_same(folder, parts)
            an_encoder_in_parts_learns_by_losses_after_the_step(folder, parts)
            an_encoder_in_parts_that_pads_makes_as_many_passes_on_all(folder, parts)
            what_is_divided_stays_so()
            an_encoder_without_a_list_of_blocks_is_not_divided(parts)
            dropout_differs_between_ranks(folder, parts)
            a_run_of_one_process_goes_on_with_more(folder, parts)
            what_is_exchanged()
            folders_that_are_not_the_same_are_refused(folder)
            gradients_of_all_kinds_add_up()
            ranks_that_drift_apart_are_refused(model)
    return 0


def what_goes_wrong_on_one_rank_is_known_to_the_other():
    """The last of all: afterwards there is nobody to exchange anything with."""
    number = launched().rank
    message = "the GPU ran out of memory at step 3"

    def fail_on_rank_1():
        with processes_of_run("cpu"):
            if number == 1:
                raise UserError(message)
            gather(None)

    with pytest.raises(UserError) as caught:
        fail_on_rank_1()
    assert str(caught.value) == (f"rank 1 of 2: {message}" if number == 0 else message)
    assert getattr(caught.value, ALREADY_TOLD, False) == (number == 1)
    return 0


def an_encoder_in_parts_learns_the_same(folder, parts):
    """FSDP: weights like those of one process; its checkpoints serve processes with parts and with the whole model."""
    run = folder / "fsdp"
    settings = {"log_every_steps": 4, "num_micro_batches": 2, "checkpoint_every_steps": 10, "keep_checkpoints": 9}
    common = (parts, weighting.UncertaintyWeighting(), sharing.HardSharing(), UNEVEN, 20)
    model = fit(folder, "fsdp", *common, parallelism="fsdp", **settings)
    assert is_divided(model)
    if is_main():  # resuming, below, writes on
        shutil.copytree(run, folder / "fsdp_whole")
    assert len(model.encoder.blocks[0].attn.Wqkv.weight.to_local()) * 2 == len(model.encoder.blocks[0].attn.Wqkv.weight)
    check_agreement(model, {}, 20)
    first = load_file(folder / "fsdp.safetensors")
    for parallelism in ("fsdp", "ddp"):
        gather(None)
        if is_main():
            shutil.rmtree(run / "checkpoints" / "step-00000020")
        gather(None)
        fit(folder, "fsdp", *common, resume=True, parallelism=parallelism, **settings)
        again = load_file(folder / "fsdp.safetensors")
        gather(None)
        for key, weight in first.items():
            torch.testing.assert_close(again[key], weight, atol=1e-6, rtol=0)

    weights_are_put_into_parts(folder, model, parts)


def an_encoder_in_parts_learns_by_losses_after_the_step(folder, parts):
    weighs, strategy, sampler, settings = SAME["famo"]
    settings = {**settings, "log_every_steps": 4, "parallelism": "fsdp"}
    fit(folder, "fsdp_famo", parts, weighs, strategy, sampler, 20, **settings)


def an_encoder_in_parts_that_pads_makes_as_many_passes_on_all(folder, parts):
    """Rows of each length would make a pass of their own in the whole of a model that pads."""
    weighs, strategy, sampler, settings = SAME["uncertainty"]
    settings = {**settings, "log_every_steps": 4, "parallelism": "fsdp"}
    padding = encoder_of_texts(packing=False)
    padding.load_state_dict(parts[0].state_dict())
    groups = []
    encode = Encoder._encode_padded_group

    def counted(self, input_ids, token_types, layout):
        groups.append(len(group_for_passes(layout.lengths)))
        return encode(self, input_ids, token_types, layout)

    with (
        mock.patch("mtl_cli.encoders.grouping._PASS_COST", 0),
        mock.patch.object(Encoder, "_encode_padded_group", counted),
    ):
        model = fit(folder, "fsdp_padded", (padding, *parts[1:]), weighs, strategy, sampler, 20, **settings)
        assert model.encoder.num_slots(np.array([3, 9])) == 18
    first, second = gather(groups)
    assert len(first) == len(second)
    assert sum(one != other for one, other in zip(first, second, strict=True)) > 5


def what_is_divided_stays_so():
    """Also behind a pass without gradients, which leaves the outermost module whole."""
    model = nn.Sequential(nn.Linear(4, 4))
    assert not is_divided(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (num_ranks(),)))
    assert is_divided(model)
    with torch.no_grad():
        model(torch.ones(1, 4))
    assert is_divided(model)


def an_encoder_without_a_list_of_blocks_is_not_divided(parts):
    encoder, tasks, data = parts
    model = MultiTaskModel(deepcopy(encoder), sharing.HardSharing(), tasks, {name: data[name].labels for name in tasks})
    model.encoder._blocks_path = None
    with pytest.raises(UserError, match=r"^trainer.parallelism: found 'fsdp', which .* with any: trainer=default"):
        divide(model, CPU)


def dropout_differs_between_ranks(folder, parts):
    """In a run: what would be dropped at each forward pass in training."""
    weighs, strategy, sampler, _ = SAME["uncertainty"]
    dropped = []
    forward = MultiTaskModel.forward

    def looked_at(self, step):
        if self.training:
            with torch.random.fork_rng([]):
                dropped.append(fast_dropout(torch.ones(64), 0.5, training=True).tolist())
        return forward(self, step)

    with mock.patch.object(MultiTaskModel, "forward", looked_at):
        fit(folder, "dropout", parts, weighs, strategy, sampler, 3)
    first, second = gather(dropped)
    assert first
    assert not [draw for draw in first if draw in second]


def weights_are_put_into_parts(folder, model, parts):
    """Also behind an evaluation, which leaves some parameters whole."""
    other = {name: weight + 1.0 for name, weight in load_file(folder / "fsdp.safetensors").items()}
    first = next(iter(other))
    files = {
        "other": other,
        "without": {name: weight for name, weight in other.items() if name != first},
        "besides": {**other, "heads.nobody.weight": torch.zeros(2)},
    }
    for name, weights in files.items():
        if is_main():
            save_file(weights, folder / f"{name}.safetensors")
    gather(None)
    Evaluator(CPU, "fp32").logits(model, "names", parts[2]["names"].splits["validation"])
    load_weights(model, str(folder / "other.safetensors"))
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    found = whole_weights(model)
    assert not is_main() or found.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in found.items())
    for name, missing, unexpected in (("without", first, "none"), ("besides", "none", "heads.nobody.weight")):
        said = f"{name}.safetensors: not the weights of this model; missing: {missing}; unexpected: {unexpected}"
        with pytest.raises(UserError, match=re.escape(said)):
            load_weights(model, str(folder / f"{name}.safetensors"))


def a_run_of_one_process_goes_on_with_more(folder, parts):
    """From the middle of what one process did before: all of the model on each, or parts."""
    weighs, strategy, sampler, settings = SAME["uncertainty"]
    for parallelism in ("ddp", "fsdp"):
        name = f"more_{parallelism}"
        if is_main():
            shutil.copytree(folder.parent / "one" / "uncertainty", folder / name)
            shutil.rmtree(folder / name / "checkpoints" / "step-00000020")
        gather(None)
        settings = {**settings, "log_every_steps": 4, "parallelism": parallelism}
        fit(folder, name, parts, weighs, strategy, sampler, 20, resume=True, **settings)


def folders_that_are_not_the_same_are_refused(folder):
    check_folder_in_common(folder)
    of_rank = folder / f"of_rank_{rank()}"
    of_rank.mkdir()
    (of_rank / processes._MARK).write_text("of an earlier run")
    processes._SEEN_WITHIN_SECONDS = 0.3
    with pytest.raises(UserError, match=rf"{of_rank}: rank 1 on \S+ cannot see the run folder of rank 0"):
        check_folder_in_common(of_rank)
    assert not (folder / processes._MARK).exists()


def every_row_is_scored_once(model, data):
    split = data["names"].splits["validation"]
    rows = []
    logits = Evaluator(CPU, "fp32", 64, lambda: False).logits(model, "names", split, rows.append)
    assert len(logits) == (len(split.labels) if is_main() else 0)
    # Each process counts its own rows for all of them.
    assert sum(gather(sum(rows))) == num_ranks() * len(split.lengths)
    if is_main():
        whole = model._logits("names", split, 8192)
        torch.testing.assert_close(torch.from_numpy(logits), torch.from_numpy(whole), atol=1e-5, rtol=1e-4)


def what_is_exchanged():
    assert gather({"rank": rank(), "text": "é" * rank()}) == [{"rank": 0, "text": ""}, {"rank": 1, "text": "é"}]
    assert from_main([1.5, None, float("inf")] if is_main() else None) == [1.5, None, float("inf")]
    # More than one bucket, a tensor larger than one, types apart, memory that does not lie in order.
    large = torch.full((9 * 2**20,), float(rank() + 1))
    small = torch.arange(6.0).view(2, 3).t() * (rank() + 1)
    half = torch.full((3,), 0.5, dtype=torch.bfloat16)
    sum_in_buckets([small, large, half, torch.zeros(0)])
    assert float(large.min()) == float(large.max()) == 3.0
    assert small.tolist() == [[0.0, 9.0], [3.0, 12.0], [6.0, 15.0]]
    assert half.tolist() == [1.0, 1.0, 1.0]


def gradients_of_all_kinds_add_up():
    none, one_sided, rows, mixed = (nn.Parameter(torch.zeros(4, 2)) for _ in range(4))
    if rank() == 0:
        one_sided.grad = torch.ones(4, 2)
        mixed.grad = torch.ones(4, 2)
    ids = torch.tensor([[0, 1]]) if rank() == 0 else torch.tensor([[1, 3]])
    rows.grad = torch.sparse_coo_tensor(ids, torch.ones(2, 2), (4, 2))
    if rank() == 1:
        mixed.grad = torch.sparse_coo_tensor(torch.tensor([[2]]), torch.ones(1, 2), (4, 2))
    sum_gradients_over_ranks([none, one_sided, rows, mixed])
    assert none.grad is None
    assert one_sided.grad.tolist() == [[1.0, 1.0]] * 4
    assert rows.grad.is_sparse
    assert rows.grad.to_dense()[:, 0].tolist() == [1.0, 2.0, 0.0, 1.0]
    assert mixed.grad[:, 0].tolist() == [1.0, 1.0, 2.0, 1.0]


def ranks_that_drift_apart_are_refused(model):
    memory = {"groups": {"whole": {"weights": torch.ones(4)}}}
    check_agreement(model, memory, 1)
    first = next(iter(model.named_parameters()))
    for name, tensor in (first, ("weighting.groups.whole.weights", memory["groups"]["whole"]["weights"])):
        before = tensor.detach().clone()
        with torch.no_grad():
            tensor.view(-1)[-1] += 1e-6 * rank()
        said = f"step 7: the {num_ranks()} processes no longer hold the same model ({name} differs)"
        with pytest.raises(UserError, match=re.escape(said)):
            check_agreement(model, memory, 7)
        tensor.data.copy_(before)
