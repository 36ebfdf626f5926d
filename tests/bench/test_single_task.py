"""What the baselines train computes the same as our model, and their batches hold every row once."""

from __future__ import annotations

import dataclasses
from copy import deepcopy

import numpy as np
import pytest
import torch
from compose import composed
from tiny_project import TINY

from mtl_cli.bench.epoch import Epoch
from mtl_cli.bench.epoch_clock import EpochClock
from mtl_cli.bench.hf_trainer import TrainerRuns, _Collator
from mtl_cli.bench.our_training import OurTraining
from mtl_cli.bench.protocol import Measured
from mtl_cli.bench.single_task import (
    SingleTaskModel,
    heads_of,
    padded,
    pool_padded,
    records,
    slots_of_words,
    stock_encoder,
)
from mtl_cli.bench.sorted_batches import SortedBatches, sorted_batches
from mtl_cli.bench.speed import check_same_work
from mtl_cli.bench.work import Work
from mtl_cli.commands.train import load
from mtl_cli.encoders import Layout, pool
from mtl_cli.errors import UserError
from mtl_cli.types import IGNORE_INDEX


@pytest.fixture(scope="module")
def loaded(project):
    tasks = "task=[reviews,pairs,scores,names]"
    config = composed(*TINY, tasks, "encoder.max_length=12", command="bench", config_dir=project)
    config = {key: value for key, value in config.items() if key not in ("of", "bench", "sweep")}
    return config, load(config)


@pytest.fixture(scope="module")
def work(loaded):
    config, objects = loaded
    return Work.of(config, objects, rows=24)


@pytest.fixture(scope="module")
def ours(work):
    variant = OurTraining(work, num_rounds=1)
    yield variant
    variant.close()


def test_each_task_has_as_many_examples_and_the_seed_draws_them(loaded, work):
    config, objects = loaded
    assert {split.num_examples for split in work.train_splits.values()} == {24}
    again = Work.of(config, objects, rows=24)
    other = Work.of({**config, "seed": 2}, objects, rows=24)
    ids = [w.train_splits["reviews"].input_ids for w in (work, again, other)]
    assert np.array_equal(ids[0], ids[1])
    assert not np.array_equal(ids[0], ids[2])
    assert {split.num_examples for split in Work.of(config, objects, rows=1000).train_splits.values()} == {48}


def test_losses_before_the_first_update_are_those_of_our_model(work, ours):
    expected = ours.first_losses()
    assert set(expected) == {"reviews", "pairs", "scores", "names"}
    baseline = SortedBatches(work, heads_of(work, ours.model))
    assert baseline.first_losses() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pooling", ["first", "last", "mean", "max"])
def test_padded_rows_are_pooled_like_flat_ones(pooling):
    lengths = np.array([3, 1, 4])
    layout = Layout.from_lengths({"a": lengths}, packed=True)
    hidden_ND = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    padded_BTD = torch.full((3, 4, 5), 100.0)
    for row, values in enumerate(hidden_ND.split(lengths.tolist())):
        padded_BTD[row, : len(values)] = values
    mask_BT = (torch.arange(4)[None] < torch.from_numpy(lengths)[:, None]).long()
    torch.testing.assert_close(pool_padded(padded_BTD, mask_BT, pooling), pool(hidden_ND, layout, pooling))


def test_the_stock_encoder_has_the_weights_and_none_of_ours(work):
    encoder = stock_encoder(work.encoder)
    assert encoder.config._attn_implementation != work.encoder.model.config._attn_implementation
    names = [type(module).__name__ for module in encoder.modules()]
    assert "FastDropout" not in names
    for ours, theirs in zip(work.encoder.model.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
    shared = stock_encoder(work.encoder, share_weights=True)
    assert next(shared.parameters()).data_ptr() == next(work.encoder.model.parameters()).data_ptr()


def test_tags_stand_on_the_first_token_of_each_word(work):
    split = work.train_splits["names"]
    columns = records(split)
    flat = np.concatenate([np.array(row) for row in columns["labels"]])
    assert np.array_equal(flat[slots_of_words(split)], split.labels)
    assert (flat != IGNORE_INDEX).sum() == (split.labels != IGNORE_INDEX).sum()
    assert [len(row) for row in columns["labels"]] == split.lengths.tolist()


def test_rows_are_padded_with_what_counts_for_nothing():
    rows = {"input_ids": [[7], [8, 9]], "attention_mask": [[1], [1, 1]], "labels": [[2], [3, 4]], "extra": [5.0, 6.0]}
    assert padded(rows, np.array([0]), pad_token_id=1, length=3) == {
        "input_ids": [[7, 1, 1]],
        "attention_mask": [[1, 0, 0]],
        "labels": [[2, IGNORE_INDEX, IGNORE_INDEX]],
        "extra": [5.0],
    }


def test_a_batch_of_the_trainer_is_padded_to_its_longest_row():
    rows = [
        {"input_ids": [7], "attention_mask": [1], "labels": 0},
        {"input_ids": [8, 9], "attention_mask": [1, 1], "labels": 1},
    ]
    clock = EpochClock(torch.device("cpu"))
    batch = _Collator(pad_token_id=1, clock=clock)(rows)
    assert batch["input_ids"].tolist() == [[7, 1], [8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["labels"].tolist() == [0, 1]
    # Three tokens in four slots; 1 * 1 + 2 * 2 pairs.
    found = clock.measured(updates=1)
    assert (found.tokens, found.rows, found.squares, found.updates) == (3, 2, 5, 1)
    assert clock.padding == (0.25, 0.25)


def test_sorted_batches_hold_every_row_once_within_both_limits():
    lengths = np.array([5, 1, 4, 2, 30, 3, 1])
    batches = sorted_batches(lengths, batch_size=3, batch_tokens=8)
    # Sorted: 1 1 2 | 3 4 | 5 | 30, which alone is more than a batch may hold.
    assert [lengths[batch].tolist() for batch in batches] == [[1, 1, 2], [3, 4], [5], [30]]
    assert sorted(np.concatenate(batches)) == list(range(7))


def test_a_round_of_ours_sees_each_row_once_and_pads_nothing_in_linear_layers(work, ours):
    assert ours.round().tokens == int(work.lengths.sum())
    linear, attention = ours.padding
    assert linear == 0.0
    assert 0.0 <= attention < 0.5


def test_a_round_over_other_rows_than_the_works_is_refused(work):
    check = check_same_work(work)
    rows, tokens = len(work.lengths), int(work.lengths.sum())
    check("ours", Measured(1.0, tokens, rows=rows, updates=3))
    check("ceiling", Measured(1.0))  # trains nothing
    for other in (Measured(1.0, tokens - 1, rows=rows, updates=3), Measured(1.0, tokens, rows=rows + 1, updates=3)):
        with pytest.raises(UserError, match=f"A round of B2 trained {other.tokens:,} real tokens in {other.rows} rows"):
            check("B2", other)
    limited = {**work.config, "sampler": {**work.config["sampler"], "max_tokens": 64}}
    with pytest.raises(UserError, match=r"^sampler.max_tokens: found 64, allowed: null"):
        check_same_work(dataclasses.replace(work, config=limited))("ours", Measured(1.0, 1, rows=1, updates=1))


def test_an_epoch_is_counted_as_it_will_be_trained(work, ours):
    # 24 rows of each of four tasks, in steps of 8 of each.
    assert ours.epoch == Epoch(3, dict.fromkeys(work.tasks, 24), int(work.lengths.sum()), 32)
    assert ours.steps_of_round == 3
    smallest = {
        **work.config["sampler"],
        "epoch": "smallest",
        "batch_size": {**dict.fromkeys(work.tasks, 8), "names": 24},
    }
    epoch = Epoch.of(smallest, work.train_splits, seed=1)
    assert epoch.steps == 1
    assert epoch.rows == {"reviews": 8, "pairs": 8, "scores": 8, "names": 24}


def test_b1_refuses_rows_that_run_glue_would_cut(work, monkeypatch):
    monkeypatch.setattr("mtl_cli.bench.hf_trainer.RUN_GLUE_LENGTH", 5)
    with pytest.raises(
        UserError, match=r"reviews.max_length: found a row of \d+ tokens, where B1 pads all to 5.*baselines=\[B2,B3\]"
    ):
        TrainerRuns(work, heads_of(work, None), tuned=False)


def test_b1_pads_to_no_more_than_the_encoder_takes(work):
    runs = TrainerRuns(work, heads_of(work, None), tuned=False)
    assert {len(row["input_ids"]) for trainer in runs.trainers.values() for row in trainer.train_dataset} == {12}
    runs.close()


@pytest.mark.parametrize("sharing", ["hard", "adapters", "lora"])
def test_padding_is_what_linear_layers_see(loaded, sharing):
    """A padded encoder: a pass for each length, but one for all rows where layers are wrapped inside of blocks."""
    config, objects = loaded
    settings = composed(f"sharing={sharing}", command="bench")["sharing"]
    encoder = deepcopy(objects[0])
    encoder.packed = False
    encoder.model.set_attn_implementation("sdpa")
    work = Work.of({**config, "sharing": settings}, (encoder, *objects[1:]), rows=24)
    run = OurTraining(work, num_rounds=1)
    slots = []
    layer = next(m for m in run.model.encoder.blocks[0].modules() if isinstance(m, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: slots.append(output.shape[:-1].numel()))
    tokens = run.round().tokens
    run.close()
    assert run.padding == pytest.approx((1 - tokens / sum(slots),) * 2)
    assert run.padding[0] > 0
    if sharing != "hard":
        assert len(slots) == run.epoch.steps


def test_tasks_that_share_a_head_have_no_single_task_counterpart(work):
    tasks = {"a": dataclasses.replace(work.tasks["reviews"], share_head_with="b")}
    with pytest.raises(UserError, match=r"tasks.a.share_head_with: a run of one task alone"):
        heads_of(dataclasses.replace(work, tasks=tasks), None)


def test_without_labels_a_single_task_model_gives_logits_alone(work):
    model = SingleTaskModel(stock_encoder(work.encoder), heads_of(work, None)["names"], work.tasks["names"], "mean")
    found = model(torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.long))
    assert list(found) == ["logits"]
    assert found["logits"].shape[:2] == (1, 3)
