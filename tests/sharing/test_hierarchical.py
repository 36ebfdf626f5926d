"""Hierarchical sharing: which blocks a task's rows see and train, label embeddings, successive regularisation."""

import logging

import pytest
import torch
from checkpointing import checkpoint_activations
from encoders import tiny_encoders
from encoders.tiny_encoders import CONFIGS, PACKED
from gradients.steps import CPU, LABELS, gradients_of, step_of, tasks

from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.saved_model import _describe, _rebuild
from mtl_cli.sharing import TrainingMoment, parameter_partition
from mtl_cli.sharing.hierarchical import ExitBlock, Hierarchical
from mtl_cli.sharing.label_embeddings import final_norm
from mtl_cli.types import UserError
from mtl_cli.weighting import PCGrad

LENGTHS = {"a": [5, 17, 2], "b": [9], "c": [3, 30]}
WAYS = [(family, packed) for family in CONFIGS for packed in ([True, False] if family in PACKED else [False])]
FINAL_NORMS = {"modernbert": "final_norm", "gpt2": "ln_f", "t5": "encoder.final_layer_norm"}


def hidden(encoder, lengths=LENGTHS):
    input_ids_N, layout = tiny_encoders.rows(lengths, packed=encoder.packed)
    return encoder(input_ids_N, None, layout), layout


def model_with(strategy, family="bert", names=("mood", "nli", "tags")):
    torch.manual_seed(0)
    encoder = Encoder(
        tiny_encoders.reference_model(family), tiny_encoders.tokenizer(), pooling="mean", packed=family in PACKED
    )
    chosen = {name: tasks()[name] for name in names}
    return MultiTaskModel(encoder, strategy, chosen, {name: LABELS[name] for name in names}).eval()


def perturb(module, scale=0.3):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def labels_of(model):
    return model.encoder.extras["hierarchical_labels"]


# Which blocks.


@pytest.mark.parametrize(
    ("order", "num_blocks", "expected"),
    [
        (["a", "b"], 12, {"a": 6, "b": 12, "c": 12, "d": 12, "e": 12}),
        (["a", "b"], 3, {"a": 2, "b": 3, "c": 3, "d": 3, "e": 3}),  # 1 of 2 over 3 blocks: 1.5, rounded up
        # 12/5, 24/5, 36/5, 48/5 = 2.4, 4.8, 7.2, 9.6, rounded up
        (["a", "b", "c", "d", "e"], 12, {"a": 3, "b": 5, "c": 8, "d": 10, "e": 12}),
        ([["a", "b"], ["c"], "d"], 3, {"a": 1, "b": 1, "c": 2, "d": 3, "e": 3}),
    ],
)
def test_an_order_is_spread_evenly_over_the_blocks(order, num_blocks, expected):
    assert Hierarchical(order=order).levels_of("abcde", num_blocks) == expected


def test_levels_are_taken_as_they_are_and_others_sit_at_the_top():
    strategy = Hierarchical(levels={"a": 2, "c": 1})
    assert strategy.levels_of("abc", 6) == {"a": 2, "b": 6, "c": 1}
    strategy.check_tasks("abc")
    assert strategy.num_shared_blocks(6) == 2  # blocks 3 to 6 see the rows of b alone


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_with_every_head_at_the_top_it_is_hard_sharing(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    before_ND, _ = hidden(encoder)
    Hierarchical(levels={"a": 3, "b": 3}).attach(encoder, ["a", "b", "c"])
    assert torch.equal(hidden(encoder)[0], before_ND)
    assert not any(isinstance(block, ExitBlock) for block in encoder.blocks)


@pytest.mark.parametrize(("family", "packed"), WAYS)
def test_a_task_s_hidden_states_are_those_of_an_encoder_that_ends_at_its_level(make_encoder, family, packed):
    levels = {"a": 1, "b": 3, "c": 2}
    encoder = make_encoder(family, packed).eval()
    Hierarchical(levels=levels).attach(encoder, ["a", "b", "c"])
    found_ND, layout = hidden(encoder)
    for task, level in levels.items():
        shorter = make_encoder(family, packed).eval()
        del shorter.blocks[level:]
        expected_ND, _ = hidden(shorter)
        part = layout.token_slices[task]
        torch.testing.assert_close(found_ND[part], expected_ND[part], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "packed"), [("bert", True), ("gpt2", True), ("deberta-v2", False), ("t5", False)])
def test_a_task_s_rows_are_the_same_with_and_without_other_tasks(make_encoder, family, packed):
    encoder = make_encoder(family, packed).eval()
    Hierarchical(order=["a", "b", "c"]).attach(encoder, ["a", "b", "c"])
    together_ND, layout = hidden(encoder)
    input_ids_N, _ = tiny_encoders.rows(LENGTHS, packed=packed)
    for task, lengths in LENGTHS.items():
        part = tiny_encoders.rows({task: lengths}, packed=packed)[1]
        alone_ND = encoder(input_ids_N[layout.token_slices[task]], None, part)
        torch.testing.assert_close(together_ND[layout.token_slices[task]], alone_ND, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "packed"), [("bert", True), ("gpt2", True), ("deberta-v2", False), ("t5", False)])
def test_a_task_trains_the_blocks_below_its_head_and_none_above(make_encoder, family, packed):
    levels = {"a": 1, "b": 2, "c": 3}
    for task, level in levels.items():
        encoder = make_encoder(family, packed).train()
        Hierarchical(levels=levels).attach(encoder, ["a", "b", "c"])
        found_ND, layout = hidden(encoder)
        found_ND[layout.token_slices[task]].pow(2).sum().backward()
        for index, block in enumerate(encoder.blocks):
            gradients = [p.grad for p in block.parameters() if p.ndim > 1]
            if index < level:
                assert all(g is not None and g.abs().sum() > 0 for g in gradients), (task, index)
            else:
                assert all(g is None or not g.any() for g in gradients), (task, index)


def test_packed_rows_that_pass_a_block_by_cost_nothing(make_encoder):
    encoder = make_encoder("bert").eval()
    Hierarchical(levels={"a": 1, "b": 2}).attach(encoder, ["a", "b", "c", "d"])
    seen = []
    for block in (encoder.blocks[0], *(block.wrapped for block in encoder.blocks[1:])):
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    hidden(encoder, {**LENGTHS, "d": [4]})
    assert seen == [24 + 9 + 33 + 4, 9 + 33 + 4, 33 + 4]


def test_a_block_that_is_left_to_one_task_is_its_own(make_encoder):
    encoder = make_encoder("bert")
    Hierarchical(levels={"a": 1, "b": 2}).attach(encoder, ["a", "b", "c"])
    partition = parameter_partition(encoder)
    assert {part for name, part in partition.items() if ".layer.2." in name} == {"c"}
    assert {part for name, part in partition.items() if ".layer.2." not in name} == {"shared"}


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_blocks_above_every_head_are_not_trained(make_encoder, family, caplog):
    encoder = make_encoder(family).train()
    with caplog.at_level(logging.WARNING):
        Hierarchical(levels={"a": 1, "b": 2}).attach(encoder, ["a", "b"])
    assert "the highest head is at block 2, so that the 1 blocks above it are not used" in caplog.text
    hidden(encoder, {"a": [3], "b": [4]})[0].pow(2).sum().backward()
    assert not any(p.requires_grad for p in encoder.blocks[2].parameters())
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad and p.ndim > 1)


def test_other_code_reads_a_block_s_attributes_through_its_wrapper(make_encoder):
    encoder = make_encoder("modernbert")
    expected = [block.attention_type for block in encoder.blocks]
    Hierarchical(levels={"a": 1, "b": 2}).attach(encoder, ["a", "b", "c"])
    assert [block.attention_type for block in encoder.blocks] == expected
    assert not hasattr(encoder.blocks[2], "no_such_attribute")


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(make_encoder, family):
    found = []
    for checkpointing in (False, True):
        encoder = make_encoder(family)
        Hierarchical(levels={"a": 1}).attach(encoder, ["a", "b", "c"])
        if checkpointing:
            checkpoint_activations(encoder)
        encoder.train()
        torch.manual_seed(0)
        hidden(encoder)[0].pow(2).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found)


# Errors.


def test_both_ways_to_say_it_are_one_too_many():
    with pytest.raises(UserError, match=r"sharing\.levels and sharing\.order: found \{'a': 1\} and \['a'\]"):
        Hierarchical(levels={"a": 1}, order=["a"])


@pytest.mark.parametrize("settings", [{}, {"levels": {}}, {"order": []}])
def test_saying_nothing_is_an_error_with_an_example(settings):
    with pytest.raises(UserError, match=r"sharing\.order: missing.*'sharing\.order=\[a,\[b,c\]\]'.*levels=\{a: 2\}"):
        Hierarchical(**settings).check_tasks(["a", "b", "c"])


@pytest.mark.parametrize(
    ("settings", "key"), [({"levels": {"x": 1}}, "levels"), ({"order": ["a", ["x", "b"]]}, "order")]
)
def test_a_task_that_is_not_there(settings, key):
    with pytest.raises(UserError, match=rf"sharing\.{key}: 'x' is no task of this run\. Tasks: a, b"):
        Hierarchical(**settings).check_tasks(["a", "b"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": {"a": 0}}, r"sharing\.levels\.a: found 0; at least 1"),
        ({"order": ["a", []]}, r"sharing\.order: found \['a', \[\]\], in which a list names no task"),
        ({"order": ["a", ["b", "a"]]}, r"sharing\.order: found a more than once"),
        ({"order": ["a"], "snapshot_every_steps": 5}, r"sharing\.snapshot_every_steps: found 5, which has no effect"),
    ],
)
def test_settings_that_contradict_themselves(settings, message):
    with pytest.raises(UserError, match=message):
        Hierarchical(**settings)


def test_heights_that_the_encoder_does_not_have(make_encoder):
    with pytest.raises(UserError, match=r"sharing\.levels\.a: found 4, but the encoder has 3 blocks\. Give 1 to 3"):
        Hierarchical(levels={"a": 4}).attach(make_encoder("bert"), ["a", "b"])
    with pytest.raises(UserError, match=r"sharing\.order: found 4 heights, but the encoder has 3 blocks"):
        Hierarchical(order=list("abcd")).attach(make_encoder("bert"), list("abcd"))


def test_settings_survive_being_saved(tmp_path):
    strategy = Hierarchical(order=["tags", ["nli", "mood"]], label_embeddings=True)
    assert _rebuild(_describe(strategy), {"Hierarchical": Hierarchical}, tmp_path) == strategy
    strategy = Hierarchical(levels={"tags": 2})
    assert _rebuild(_describe(strategy), {"Hierarchical": Hierarchical}, tmp_path) == strategy


# Label embeddings.


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_label_embeddings_change_nothing_at_first(family):
    levels = {"tags": 1, "mood": 2}
    step = step_of(("mood", "nli", "tags"))
    with torch.no_grad():
        plain = model_with(Hierarchical(levels=levels), family)
        fed = model_with(Hierarchical(levels=levels, label_embeddings=True), family)
        expected = plain(step)
        for task, logits_MC in fed(step).items():
            torch.testing.assert_close(logits_MC, expected[task], atol=1e-5, rtol=1e-5)
        perturb(labels_of(fed))
        changed = fed(step)
    torch.testing.assert_close(changed["tags"], expected["tags"], atol=1e-5, rtol=1e-5)
    assert all((changed[task] - expected[task]).abs().max() > 1e-3 for task in ("mood", "nli"))


def seen_by(module, run):
    """The first argument of a module while `run` runs."""
    found = []
    handle = module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return found[0]


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert", "deberta-v2", "t5"])
def test_what_is_added_is_the_expected_label_embedding_behind_the_lower_task_s_exit(family):
    model = model_with(Hierarchical(levels={"tags": 1, "mood": 2}, label_embeddings=True), family)
    labels = labels_of(model)
    perturb(labels)
    perturb(model.heads, 1.0)
    step = step_of(("mood", "nli"))  # rows of 7, 3 and 12 tokens; of 9 and 4
    norm = model.encoder.model.get_submodule(FINAL_NORMS[family]) if family in FINAL_NORMS else torch.nn.Identity()

    def rows_of(module):
        found = seen_by(module, lambda: model(step))
        return [found[0, -13:-4], found[0, -4:]] if family in PACKED else [found[-2, :9], found[-1, :4]]

    own = labels.of_task["nli"]
    first, second = model.encoder.blocks[1], model.encoder.blocks[2]
    # Behind block 1 the tagger is asked about each token.
    head, embedding = model.heads["tags"], labels.shared["tags"].weight
    projection = own["projections"]["tags"].weight
    for before, after in zip(rows_of(first), rows_of(first.wrapped), strict=True):
        for state, changed in zip(before, after, strict=True):
            shares = head(norm(state)).softmax(-1)
            vector = sum(share * embedding[:, label] for label, share in enumerate(shares))
            torch.testing.assert_close(changed, state + projection @ vector, atol=1e-5, rtol=1e-4)
    # Behind block 2 the classifier is asked about the mean of each row.
    head, embedding = model.heads["mood"], own["embeddings"]["mood"].weight
    projection = own["projections"]["mood"].weight
    for before, after in zip(rows_of(second), rows_of(second.wrapped["nli"]), strict=True):
        mean = sum(norm(state) for state in before) / len(before)
        shares = head(mean).softmax(-1)
        vector = sum(share * embedding[:, label] for label, share in enumerate(shares))
        torch.testing.assert_close(after, before + projection @ vector, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FINAL_NORMS)
def test_the_normalisation_in_front_of_the_heads_is_found(make_encoder, family):
    encoder = make_encoder(family)
    assert final_norm(encoder) is encoder.model.get_submodule(FINAL_NORMS[family])


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "deberta-v2"])
def test_families_without_a_final_normalisation(make_encoder, family):
    assert final_norm(make_encoder(family)) is None


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_higher_task_trains_label_embeddings_but_not_the_lower_task_s_head(family):
    model = model_with(Hierarchical(levels={"tags": 1, "mood": 2}, label_embeddings=True), family)
    perturb(labels_of(model))
    reached = {}
    for task, batch in step_of(("mood", "nli", "tags")).items():
        model.zero_grad(set_to_none=True)
        model({task: batch})[task].pow(2).sum().backward()
        reached[task] = {name for name, gradient in gradients_of(model).items() if gradient.any()}
    assert {name for name in reached["nli"] if name.startswith("heads.")} == {"heads.nli.1.weight", "heads.nli.1.bias"}
    prefix = "encoder.extras.hierarchical_labels."
    assert {name for name in reached["nli"] if name.startswith(prefix)} == {
        f"{prefix}shared.tags.weight",
        f"{prefix}of_task.nli.projections.tags.weight",
        f"{prefix}of_task.nli.projections.mood.weight",
        f"{prefix}of_task.nli.embeddings.mood.weight",
    }
    assert {name for name in reached["mood"] if name.startswith(prefix)} == {
        f"{prefix}shared.tags.weight",
        f"{prefix}of_task.mood.projections.tags.weight",
    }
    assert not any(name.startswith(prefix) for name in reached["tags"])
    partition = model.parameter_partition()
    assert partition[f"{prefix}shared.tags.weight"] == "shared"
    assert partition[f"{prefix}of_task.nli.embeddings.mood.weight"] == "nli"


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_one_pass_and_a_pass_a_task_give_the_same_balanced_gradient(family):
    # The lower task's head, which it shares with the task at the top, and the final normalisation are also called for
    # predictions that no gradient passes.
    found = []
    for engine in ("segmented", "per_task"):
        torch.manual_seed(0)
        encoder = Encoder(tiny_encoders.reference_model(family), tiny_encoders.tokenizer(), pooling="mean", packed=True)
        chosen = {name: tasks(share_head=True)[name] for name in ("mood", "nli", "tags", "mood2")}
        labels = {**LABELS, "mood2": LABELS["mood"]}
        strategy = Hierarchical(levels={"mood": 1, "tags": 2}, label_embeddings=True)
        model = MultiTaskModel(encoder, strategy, chosen, {name: labels[name] for name in chosen}).eval()
        perturb(labels_of(model))
        perturb(model.shared_heads)
        weighting = PCGrad(engine=engine)
        weighting.start(list(model.tasks), seed=1)
        GradientEngine(model, weighting, Losses(model, "fp32", CPU)).step([[step_of(tuple(chosen))]])
        found.append(gradients_of(model))
    assert found[0].keys() == found[1].keys()
    length = torch.stack([gradient.norm() for gradient in found[1].values()]).norm()
    difference = torch.stack([(found[0][key] - found[1][key]).norm() for key in found[1]]).norm()
    assert difference < 1e-4 * length


def test_the_lower_task_s_head_is_trained_under_autocast_too():
    # Within one pass autocast has cast the head's weights before the head's own rows come by.
    model = model_with(Hierarchical(levels={"tags": 1, "mood": 2}, label_embeddings=True)).train()
    step = step_of(("mood", "nli", "tags"))
    losses = Losses(model, "bf16", CPU)
    found = losses(step, losses.normalizers([step], list(step)))
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.heads.parameters())
    assert all(module.training for module in model.heads.modules())


def test_dropout_of_the_lower_head_leaves_its_predictions_for_others_alone():
    model = model_with(Hierarchical(levels={"mood": 2}, label_embeddings=True))
    labels = labels_of(model)
    perturb(model.heads, 1.0)
    layout = tiny_encoders.rows({"nli": [4, 3]}, packed=True)[1]
    states = torch.randn(1, 7, 32)
    expected = labels.probabilities("mood", states, layout)
    model.train()
    model.heads["mood"][0].p = 0.9
    assert torch.equal(labels.probabilities("mood", states, layout), expected)
    torch.testing.assert_close(expected.sum(-1), torch.ones(2))


def test_a_task_with_scores_has_no_labels_to_feed(caplog):
    names = ("score", "nli")
    with caplog.at_level(logging.WARNING):
        model = model_with(Hierarchical(levels={"score": 1}, label_embeddings=True), names=names)
    assert "sharing.label_embeddings has no effect" in caplog.text
    assert "hierarchical_labels" not in model.encoder.extras
    model = model_with(Hierarchical(levels={"score": 1, "mood": 2}, label_embeddings=True), names=(*names, "mood"))
    assert set(labels_of(model).sources) == {"mood"}


def test_the_shared_representation_is_refused_with_label_embeddings_alone():
    assert Hierarchical(levels={"a": 1}).why_no_representation(3) is None
    assert "label embeddings" in Hierarchical(levels={"a": 1}, label_embeddings=True).why_no_representation(3)


# Successive regularisation.


def moment(step, steps_per_epoch=4):
    return TrainingMoment(step, 100, steps_per_epoch)


def test_the_penalty_is_the_squared_distance_from_the_last_snapshot():
    strategy = Hierarchical(levels={"tags": 1, "mood": 2}, successive_regularisation=0.5)
    model = model_with(strategy)
    strategy.start_step(model, moment(0))
    assert strategy.penalties(model)["successive_regularisation"] == 0.0
    block = model.encoder.blocks[0]
    own = model.encoder.blocks[2].wrapped["nli"]
    with torch.no_grad():
        block.output.dense.bias += 0.1  # 32 numbers
        block.attention.self.query.weight[0, 0] -= 2.0
        own.output.dense.bias += 1.0  # nli alone goes through this block
        model.heads["nli"][1].bias += 1.0
    strategy.start_step(model, moment(3))
    penalty = strategy.penalties(model)["successive_regularisation"]
    torch.testing.assert_close(penalty, torch.tensor(0.5 * (32 * 0.01 + 4.0)), atol=1e-4, rtol=1e-4)
    penalty.backward()  # 0.5 * 2 * the difference
    torch.testing.assert_close(block.output.dense.bias.grad, torch.full((32,), 0.1))
    assert own.output.dense.bias.grad is None
    strategy.start_step(model, moment(4))
    assert strategy.penalties(model)["successive_regularisation"] == 0.0


def test_snapshots_at_steps_of_one_s_own_choice():
    strategy = Hierarchical(levels={"tags": 1}, successive_regularisation=1.0, snapshot_every_steps=3)
    model = model_with(strategy)
    distances = []
    for step in range(7):
        with torch.no_grad():
            model.encoder.blocks[0].output.dense.bias[0] += 1.0
        strategy.start_step(model, moment(step))
        distances.append(round(strategy.penalties(model)["successive_regularisation"].item(), 3))
    assert distances == [0, 1, 4, 0, 1, 4, 0]


def test_the_snapshot_is_part_of_the_model_s_state_and_only_where_it_is_asked_for():
    plain = model_with(Hierarchical(levels={"tags": 1}))
    assert not any("snapshot" in name for name in plain.state_dict())
    assert plain.sharing.penalties(plain) == {}
    strategy = Hierarchical(levels={"tags": 1}, successive_regularisation=1.0)
    model, other = model_with(strategy), model_with(strategy)
    perturb(model.encoder.model)
    other.load_state_dict(model.state_dict())
    found = strategy.penalties(other)["successive_regularisation"]
    assert found == strategy.penalties(model)["successive_regularisation"] > 1.0


def test_frozen_parameters_are_kept_in_the_snapshot_but_cost_nothing():
    torch.manual_seed(0)
    strategy = Hierarchical(levels={"tags": 1}, successive_regularisation=1.0)
    free, frozen = model_with(strategy), model_with(strategy)
    frozen.encoder.freeze(embeddings=True, num_blocks=3)
    assert frozen.state_dict().keys() == free.state_dict().keys()
    for parameter in frozen.encoder.model.parameters():
        parameter.requires_grad_(False)
    assert strategy.penalties(frozen) == {}


# What is reported.


def test_learnt_tells_which_blocks_a_task_goes_through_and_how_long_label_embeddings_are():
    strategy = Hierarchical(levels={"tags": 1, "mood": 2}, label_embeddings=True, label_embedding_size=2)
    model = model_with(strategy)
    with torch.no_grad():
        labels = labels_of(model)
        for parameter in labels.parameters():
            parameter.zero_()
        labels.shared["tags"].weight[0] = torch.tensor([3.0, 0.0, 4.0])  # labels x first number of their embeddings
        labels.of_task["nli"]["projections"]["tags"].weight[5, 0] = 2.0
    found = strategy.learnt(model)
    assert set(found) == {"levels", "label_embeddings"}
    assert found["levels"].rows == ("mood", "nli", "tags")
    assert found["levels"].columns == ("block_0", "block_1", "block_2")
    assert found["levels"].values == ((1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0))
    # Label lengths 6, 0, 8: sqrt((36 + 0 + 64) / 3) = 5.77350.
    (mood, nli, tags) = found["label_embeddings"].values
    assert mood == (None, None, 0.0)
    assert nli == pytest.approx((0.0, None, 5.77350), abs=1e-4)
    assert tags == (None, None, None)
    plain = model_with(Hierarchical(order=["tags", "nli"]))
    assert set(plain.sharing.learnt(plain)) == {"levels"}
