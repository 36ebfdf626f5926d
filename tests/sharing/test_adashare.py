"""Policies that select or skip blocks: samples, annealing, penalties worked out by hand, evaluation."""

import math
from copy import deepcopy

import pytest
import torch
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS
from gradients.steps import LABELS, tasks
from tiny_project import TINY
from torch import nn

from mtl_cli.cli import _main
from mtl_cli.encoders import Encoder
from mtl_cli.model import MultiTaskModel
from mtl_cli.sharing import TrainingMoment, parameter_partition
from mtl_cli.sharing.adashare import AdaShare, SelectedBlock
from mtl_cli.training import AdamW
from mtl_cli.types import UserError

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
FAMILIES = ["bert", "gpt2", "modernbert", "deberta-v2", "t5"]


def without_dropout(encoder, training):
    """Switch dropout off, so that the policies alone draw samples."""
    for module in encoder.train(training).modules():
        for name in ("p", "dropout", "attention_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    return encoder


def hidden(encoder, lengths=LENGTHS, training=False):
    without_dropout(encoder, training)
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def set_logits(encoder, logits):
    """Block number -> task -> z."""
    with torch.no_grad():
        for index, of_task in logits.items():
            for task, logit in of_task.items():
                encoder.blocks[index].of_task[task].logit.fill_(logit)


def without_blocks(encoder, skipped):
    """The same encoder, with nothing in the place of some blocks; T5's make no position bias then."""

    class Nothing(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.attention_type = getattr(block, "attention_type", None)
            self.block = [block]

        def forward(self, states, *args, **kwargs):
            output = self.block[0](states, *args, **kwargs)
            return (states, *output[1:]) if isinstance(output, tuple) else states

    for index in skipped:
        encoder.blocks[index] = Nothing(encoder.blocks[index])
    return encoder


def model(family="bert", names=("mood", "nli", "tags"), **settings):
    torch.manual_seed(0)
    encoder = Encoder(
        tiny_encoders.reference_model(family),
        tiny_encoders.tokenizer(),
        pooling="mean",
        packed=family in tiny_encoders.PACKED,
    )
    of_tasks = {task: found for task, found in tasks().items() if task in names}
    return MultiTaskModel(encoder, AdaShare(**settings), of_tasks, {task: LABELS[task] for task in names})


@pytest.mark.parametrize("family", CONFIGS)
def test_at_first_evaluation_is_hard_sharing(make_encoder, family):
    encoder = make_encoder(family)
    before_ND, _ = hidden(encoder)
    AdaShare().attach(encoder, ["a", "b", "c"])
    assert all(isinstance(block, SelectedBlock) for block in encoder.blocks)
    torch.testing.assert_close(hidden(encoder)[0], before_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hard", [True, False])
def test_in_the_warm_up_training_is_hard_sharing(family, hard):
    whole = model(family, hard=hard, warmup_epochs=2.0)
    plain = Encoder(
        tiny_encoders.reference_model(family), tiny_encoders.tokenizer(), pooling="mean", packed=whole.encoder.packed
    )
    lengths = {"mood": [4, 9], "nli": [7]}
    set_logits(whole.encoder, {1: {"mood": -3.0}})
    whole.sharing.start_step(whole, TrainingMoment(19, 100, 10))
    for training in (True, False):
        found_ND, _ = hidden(whole.encoder, lengths, training)
        torch.testing.assert_close(found_ND, hidden(plain, lengths, training)[0], atol=1e-6, rtol=1e-6)
    whole.sharing.start_step(whole, TrainingMoment(20, 100, 10))
    assert (hidden(whole.encoder, lengths)[0] - hidden(plain, lengths)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_each_task_is_evaluated_with_the_blocks_it_selects(make_encoder, family):
    encoder = make_encoder(family)
    AdaShare().attach(encoder, ["a", "b", "c"])
    set_logits(encoder, {0: {"b": -0.1}, 1: {"b": -0.1, "c": -5.0}, 2: {"a": -1.0, "b": -0.1, "c": 0.1}})
    found_ND, layout = hidden(encoder)
    for task, skipped in {"a": [2], "b": [0, 1, 2], "c": [1]}.items():
        expected_ND, _ = hidden(without_blocks(make_encoder(family), skipped))
        part = layout.token_slices[task]
        torch.testing.assert_close(found_ND[part], expected_ND[part], atol=1e-5, rtol=1e-5)
    full_ND, _ = hidden(make_encoder(family))
    assert all((found_ND - full_ND)[part].abs().max() > 0.05 for part in layout.token_slices.values())


def test_packed_rows_that_pass_by_are_not_computed(make_encoder):
    encoder = make_encoder("bert")
    AdaShare().attach(encoder, ["a", "b", "c"])
    set_logits(encoder, {1: {"a": -1.0}, 2: {"a": -1.0, "b": -1.0, "c": -1.0}})
    seen = []
    for block in encoder.blocks:
        block.wrapped.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    hidden(encoder)
    assert seen == [66, 42]  # of 24, 9 and 33 tokens; the highest block is not run at all


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize(("hard", "training"), [(True, False), (False, False), (True, True), (False, True)])
def test_a_task_s_rows_do_not_depend_on_other_tasks(make_encoder, family, hard, training):
    encoder = make_encoder(family)
    AdaShare(hard=hard).attach(encoder, ["a", "b", "c"])
    set_logits(encoder, {0: {"b": 0.3}, 1: {"b": -0.4}, 2: {"b": 0.1}})
    without_dropout(encoder, training)
    for block in encoder.blocks:
        block._sample = from_a_generator_a_task(block)
    input_ids_9 = torch.arange(20, 29)
    found = []
    for lengths in ({"b": [9], "a": [5, 17]}, {"b": [9], "c": [40]}, {"b": [9]}):
        input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
        input_ids_N[:9] = input_ids_9
        found.append(encoder(input_ids_N, None, layout)[:9])
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[2], found[0], atol=1e-5, rtol=1e-5)


def from_a_generator_a_task(block):
    """Samples that are the same whatever other tasks are in the step."""
    sample = block._sample

    def one_by_one(task_names):
        samples = []
        for task in task_names:
            torch.manual_seed(ord(task))
            samples.append(sample([task]))
        return torch.cat(samples)

    return one_by_one


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_soft_evaluation_mixes_block_and_bypass_by_the_median_sample(make_encoder, family):
    encoder = make_encoder(family)
    AdaShare(hard=False, blocks=[1], initial_temperature=2.0).attach(encoder, ["a", "b", "c"])
    set_logits(encoder, {1: {"a": 1.0, "b": -3.0, "c": 0.0}})
    seen = {}
    handle = encoder.blocks[1].register_forward_hook(
        lambda _, args, output: seen.update(before=args[0], after=output[0] if isinstance(output, tuple) else output)
    )
    inside = encoder.blocks[1].wrapped.register_forward_hook(
        lambda _, __, output: seen.update(block=output[0] if isinstance(output, tuple) else output)
    )
    _, layout = hidden(encoder)
    handle.remove()
    inside.remove()
    places = layout.token_slices if layout.packed else layout.row_slices
    for task, logit in {"a": 1.0, "b": -3.0, "c": 0.0}.items():
        share = 1 / (1 + math.exp(-logit / 2.0))
        before, block, after = (
            seen[key][0, places[task]] if layout.packed else seen[key][places[task]]
            for key in ("before", "block", "after")
        )
        torch.testing.assert_close(after, share * block + (1 - share) * before, atol=1e-5, rtol=1e-5)


def test_hard_samples_are_0_or_1_as_often_as_the_probability_says(make_encoder):
    encoder = make_encoder("bert")
    AdaShare().attach(encoder, ["a", "b", "c"])
    set_logits(encoder, {0: {"a": 2.0, "b": -1.0, "c": 0.0}})
    block = encoder.blocks[0].train()
    torch.manual_seed(0)
    samples = torch.stack([block._sample(["a", "b", "c"]) for _ in range(4000)]).detach()
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    expected = torch.tensor([2.0, -1.0, 0.0]).sigmoid()
    torch.testing.assert_close(samples.mean(0), expected, atol=0.025, rtol=0)


@pytest.mark.parametrize("hard", [True, False])
def test_samples_have_the_gradient_of_gumbel_softmax(make_encoder, hard):
    encoder = make_encoder("bert")
    AdaShare(hard=hard, initial_temperature=0.7).attach(encoder, ["a", "b"])
    set_logits(encoder, {0: {"a": 0.4, "b": -0.2}})
    block = encoder.blocks[0].train()
    torch.manual_seed(5)
    sample_K = block._sample(["a", "b"])
    sample_K.sum().backward()
    torch.manual_seed(5)
    uniform_K = torch.rand(2)
    for place, (task, logit) in enumerate({"a": 0.4, "b": -0.2}.items()):
        # g = log u - log(1 - u); s = 1 / (1 + exp(-(z + g) / tau)); ds/dz = s (1 - s) / tau
        u = uniform_K[place].item()
        soft = 1 / (1 + math.exp(-(logit + math.log(u) - math.log(1 - u)) / 0.7))
        assert sample_K[place].item() == pytest.approx(float(soft >= 0.5) if hard else soft, abs=1e-5)
        gradient = block.of_task[task].logit.grad.item()
        assert gradient == pytest.approx(soft * (1 - soft) / 0.7, rel=1e-3)


def test_a_task_s_loss_trains_its_own_policy_and_the_shared_blocks(make_encoder):
    encoder = make_encoder("bert")
    AdaShare(hard=False).attach(encoder, ["a", "b", "c"])
    torch.manual_seed(1)
    hidden_ND, layout = hidden(encoder, training=True)
    hidden_ND[layout.token_slices["b"]].pow(3).sum().backward()
    partition = parameter_partition(encoder)
    for index, block in enumerate(encoder.blocks):
        for task in LENGTHS:
            name = f"model.encoder.layer.{index}.of_task.{task}.logit"
            assert partition[name] == task
            gradient = block.of_task[task].logit.grad
            assert (gradient is not None and bool(gradient != 0)) == (task == "b")
        assert all(p.grad.abs().sum() > 0 for p in block.wrapped.parameters() if p.ndim > 1)
    assert set(partition.values()) == {"shared", "a", "b", "c"}


def test_penalties_are_those_of_the_paper():
    whole = model(names=("mood", "nli", "tags"), sparsity=0.5, sharing=2.0)
    alphas = {0: (0.9, 0.6, 0.6), 1: (0.5, 0.2, 0.8), 2: (0.3, 0.1, 0.7)}
    set_logits(
        whole.encoder,
        {i: {t: math.log(p / (1 - p)) for t, p in zip(whole.tasks, of, strict=True)} for i, of in alphas.items()},
    )
    found = whole.sharing.penalties(whole)
    sparsity = sum(math.log(p) for of in alphas.values() for p in of)
    assert found["sparsity"].item() == pytest.approx(0.5 * sparsity, rel=1e-5)
    # Pairs: 0.3 + 0.3 + 0 = 0.6; 0.3 + 0.3 + 0.6 = 1.2; 0.2 + 0.4 + 0.6 = 1.2; weights 2/3, 1/3, 0
    assert found["sharing"].item() == pytest.approx(2.0 * (0.6 * 2 / 3 + 1.2 / 3), rel=1e-5)
    found["sparsity"].backward()
    # d log alpha / dz = 1 - alpha
    assert whole.encoder.blocks[0].of_task["mood"].logit.grad.item() == pytest.approx(0.5 * 0.1, rel=1e-4)


def test_penalties_as_in_the_official_code():
    whole = model(names=("mood", "nli"), sparsity=0.5, sharing=0.0, sparsity_form="code")
    set_logits(whole.encoder, {i: {"mood": 0.0, "nli": math.log(3.0)} for i in range(3)})
    # The mean over blocks of -log(1 - alpha), summed over tasks: log 2 + log 4
    assert whole.sharing.penalties(whole).keys() == {"sparsity"}
    assert whole.sharing.penalties(whole)["sparsity"].item() == pytest.approx(0.5 * math.log(8.0), rel=1e-5)


def test_the_temperature_falls_from_the_end_of_the_warm_up_on():
    whole = model(warmup_epochs=1.0, initial_temperature=5.0, temperature_decay=0.5, min_temperature=1.0)

    def temperature(step):
        whole.sharing.start_step(whole, TrainingMoment(step, 100, 10))
        return whole.encoder.blocks[1].temperature.item()

    assert [temperature(step) for step in (0, 10, 20, 30, 40, 100)] == [5.0, 5.0, 2.5, 1.25, 1.0, 1.0]
    assert temperature(15) == pytest.approx(5 * 0.5**0.5)


def test_the_curriculum_goes_from_the_highest_block_down():
    whole = model(curriculum=True, warmup_epochs=0.5, sparsity=1.0)
    set_logits(whole.encoder, {i: {"mood": -1.0, "nli": 1.0, "tags": 0.0} for i in range(3)})

    def learnt(step):
        whole.sharing.start_step(whole, TrainingMoment(step, 100, 10))
        whole.zero_grad()
        hidden(whole.encoder, {"mood": [4, 9], "nli": [7]}, training=True)[0].sum().backward()
        whole.sharing.add_penalty_gradients(whole)
        trained = [block.of_task["mood"].logit.grad is not None for block in whole.encoder.blocks]
        assert trained == [block.is_learnt.item() == 1.0 for block in whole.encoder.blocks]
        return trained

    assert learnt(4) == [False, False, False]
    assert learnt(5) == learnt(14) == [False, False, True]
    assert learnt(15) == [False, True, True]
    assert learnt(25) == learnt(99) == [True, True, True]


def test_a_policy_moves_as_fast_however_long_the_warm_up_was():
    def logit_after(warmup_steps):
        whole = model(names=("mood", "nli"), sparsity=0.5, warmup_epochs=warmup_steps / 10, initial_select=0.8)
        optimizer = AdamW(lr=1e-3).build(whole)
        for step in range(warmup_steps + 20):
            whole.sharing.start_step(whole, TrainingMoment(step, 200, 10))
            hidden(whole.encoder, {"mood": [4], "nli": [7]}, training=True)[0].sum().mul(0.0).backward()
            whole.sharing.add_penalty_gradients(whole)
            optimizer.step()
            optimizer.zero_grad()
        return whole.encoder.blocks[1].of_task["mood"].logit.item()

    at_once = logit_after(0)
    assert at_once < math.log(4.0) - 1.0
    assert logit_after(60) == pytest.approx(at_once, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "moment", "message"),
    [
        ({"warmup_epochs": 2.0}, TrainingMoment(0, 20, 10), "sharing.warmup_epochs: found 2.0, but the run has 2 epo"),
        ({"curriculum": True, "warmup_epochs": 0.5}, TrainingMoment(0, 20, 10),
         "sharing.curriculum: a run of 2 epochs reaches the policies of the 2 highest of 3 blocks"),
        ({"warmup_epochs": 1.9}, TrainingMoment(0, 20, 10), None),
        ({}, TrainingMoment(0, 5, 5), None),
        ({"curriculum": True}, TrainingMoment(0, 30, 10), None),
        ({"warmup_epochs": 2.0}, TrainingMoment(1, 20, 10), None),
    ],
)  # fmt: skip
def test_a_run_too_short_for_the_policies_is_warned_of_at_its_first_step(settings, moment, message, caplog):
    whole = model(**settings)
    whole.sharing.start_step(whole, moment)
    assert [m.startswith(message or "-") for m in caplog.messages] == ([] if message is None else [True])


def test_by_default_the_warm_up_is_a_fifth_of_the_run():
    whole = model()

    def is_learnt(step):
        whole.sharing.start_step(whole, TrainingMoment(step, 50, 100))
        return {block.is_learnt.item() for block in whole.encoder.blocks}

    assert [is_learnt(step) for step in (0, 9, 10, 49)] == [{0.0}, {0.0}, {1.0}, {1.0}]


@pytest.mark.parametrize("warmup_epochs", [None, 2.0])
def test_weights_that_are_kept_from_the_warm_up_are_told_of(warmup_epochs):
    whole = model(names=("mood", "nli"), warmup_epochs=warmup_epochs)
    kept = {}
    for step in (19, 20, 99):  # the last of the warm-up, the first after it, the last of the run
        whole.sharing.start_step(whole, TrainingMoment(step, 100, 10))
        kept[step] = deepcopy(whole.state_dict())
    for step, weights in kept.items():
        whole.load_state_dict(weights)
        found = whole.sharing.warnings_at_end(whole)
        assert len(found) == (step == 19)
        if found:
            given = "null, a fifth of the run" if warmup_epochs is None else "2.0"
            assert found[0].startswith(
                f"sharing.warmup_epochs: found {given}; the best evaluation, whose weights are kept"
            )
            assert "Lower it (0: no warm-up) or train longer" in found[0]


def test_a_run_that_never_left_the_warm_up_was_told_so_at_its_first_step():
    whole = model(names=("mood", "nli"), warmup_epochs=10.0)
    whole.sharing.start_step(whole, TrainingMoment(99, 100, 10))
    assert whole.sharing.warnings_at_end(whole) == []


@pytest.mark.parametrize(("warmup_epochs", "warns"), [("null", True), ("0.0", False)])
def test_a_run_whose_best_evaluation_was_in_the_warm_up_ends_with_a_warning(project, tmp_path, warmup_epochs, warns):
    # Of ten steps two are the warm-up; no later evaluation is better by so much than the first.
    steps = ["trainer.max_steps=10", "trainer.evaluate_every=1", "trainer.min_improvement=100"]
    arguments = [
        *TINY,
        *steps,
        "task=[reviews,names]",
        f"sharing.warmup_epochs={warmup_epochs}",
        f"hydra.run.dir={tmp_path}",
    ]
    assert _main(["train", "--config-dir", str(project), "sharing=adashare", *arguments]) == 0
    text = (tmp_path / "log.txt").read_text()
    assert ("the best evaluation, whose weights are kept, was in this warm-up" in text) == warns


def test_selection_by_task_and_block():
    whole = model(names=("mood", "nli"), blocks=[2, 1])
    assert [isinstance(block, SelectedBlock) for block in whole.encoder.blocks] == [False, True, True]
    set_logits(whole.encoder, {1: {"mood": 0.0, "nli": math.log(3.0)}})
    found = whole.sharing.learnt(whole)["block_selection"]
    assert (found.rows, found.columns, found.scale) == (("mood", "nli"), ("block_1", "block_2"), "share")
    assert found.values[0] == pytest.approx((0.5, 0.95))
    assert found.values[1] == pytest.approx((0.75, 0.95))
    whole.sharing.start_step(whole, TrainingMoment(0, 100, 10))
    assert whole.sharing.learnt(whole)["block_selection"].values == ((1.0, 1.0), (1.0, 1.0))


def test_policies_learn_faster_and_without_weight_decay():
    whole = model()
    group_of = {id(p): group for group in AdamW(lr=1e-4).build(whole).param_groups for p in group["params"]}
    group = group_of[id(whole.encoder.blocks[0].of_task["nli"].logit)]
    assert group["lr"] == pytest.approx(1e-2)
    assert group["weight_decay"] == 0.0
    assert group_of[id(whole.encoder.blocks[0].wrapped.output.dense.weight)]["lr"] == pytest.approx(1e-4)


def test_the_sparsity_loss_lets_a_task_skip_what_it_does_not_need():
    whole = model(names=("mood", "nli"), sparsity=0.5, warmup_epochs=0.0, initial_select=0.8)
    optimizer = AdamW(lr=1e-3).build(whole)
    for step in range(60):
        whole.sharing.start_step(whole, TrainingMoment(step, 60, 10))
        sum(whole.sharing.penalties(whole).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert max(max(row) for row in whole.sharing.learnt(whole)["block_selection"].values) < 0.1


def test_errors_name_the_setting(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.blocks: found \[1, 3\], but the encoder has 3 blocks; .* 0 .* to 2"):
        AdaShare(blocks=[1, 3]).attach(make_encoder("bert"), ["a", "b"])
    for blocks in ([], [1, 1]):
        with pytest.raises(UserError, match=r"sharing\.blocks: found \[.*\], but the encoder has 3 blocks"):
            AdaShare(blocks=blocks).check_num_blocks(3)
    with pytest.raises(UserError, match=r"sharing\.min_temperature: found 2\.0, above sharing\.initial_temperature, 1"):
        AdaShare(min_temperature=2.0, initial_temperature=1.0)
