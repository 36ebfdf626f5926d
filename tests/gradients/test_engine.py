"""Each way to form gradients against a float64 reference: what ends up in `.grad` of every parameter."""

from dataclasses import dataclass

import pytest
import torch
from encoders import tiny_encoders
from gradients.steps import (
    AverageProbe,
    LargestProbe,
    LossProbe,
    Probe,
    ThreeBatchProbe,
    gradients_of,
    gramian_weights,
    halves,
    model_of,
    offset_gramian,
    reference,
    relative_error,
    run,
    step_of,
)

from mtl_cli.gradients.blocks import RowBlock
from mtl_cli.gradients.segmented_layers import (
    LayerCall,
    norm_backward_at_once,
    norm_backward_by_task,
    sums,
    sums_by_product,
)
from mtl_cli.sharing import Grouped, Hierarchical
from mtl_cli.training import AdamW
from mtl_cli.training.clipping import clip_gradients
from mtl_cli.types import UserError
from mtl_cli.weighting import Equal, ExcessMTL, LossWeighting, PCGrad

ENGINES = ("segmented", "per_task")


def check(model, step, weighting, parts=None, tolerance=1e-5, precision="fp32"):
    expected = reference(model, step)
    _, result, found = run(model, weighting, parts or [[step]], precision)
    weights = gramian_weights(expected.gramian())
    assert torch.stack(list(result.weights.values())).double() == pytest.approx(weights, rel=100 * tolerance)
    assert relative_error(found, {**expected.combined(weights), **expected.own}) < tolerance
    for task, loss in zip(step, expected.losses, strict=False):
        assert float(result.losses[task]) == pytest.approx(float(loss), rel=100 * tolerance)
    return result


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", tiny_encoders.PACKED)
def test_the_combined_gradient_is_the_reference_for_each_packed_family(family, engine):
    check(model_of(family), step_of(), Probe(engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pooling", ["first", "last"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_the_combined_gradient_is_the_reference_where_few_tokens_are_read(family, pooling, engine):
    check(model_of(family, pooling=pooling), step_of(), Probe(engine=engine))


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "t5"])
def test_padded_families_take_a_pass_a_task(family):
    model = model_of(family, packed=False)
    check(model, step_of(), Probe())


@pytest.mark.parametrize(("engine", "keep_share"), [("segmented", 100.0), ("segmented", 0.0), ("per_task", 100.0)])
def test_bf16_autocast_gives_the_reference_within_its_rounding(engine, keep_share, monkeypatch):
    # A share of 0: no layer keeps its gradients, all are formed anew, twice, of inputs and gradients in bf16.
    monkeypatch.setattr("mtl_cli.gradients.collecting._KEEP_SHARE", keep_share)
    check(model_of(), step_of(), Probe(engine=engine), tolerance=2e-2, precision="bf16")


@pytest.mark.parametrize("engine", ENGINES)
def test_micro_batches_add_up_to_the_gradients_of_the_whole_step(engine):
    step = step_of()
    check(model_of(), step, Probe(engine=engine), parts=[halves(step)])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_micro_batch_may_lack_a_task(engine):
    step = step_of(("mood", "nli"))
    first, second = halves(step)
    alone = {"mood": step["mood"]}
    check(model_of(), step, Probe(engine=engine), parts=[[alone, {"nli": first["nli"]}, {"nli": second["nli"]}]])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_may_hold_some_of_the_tasks_or_one(engine):
    model = model_of()
    check(model, step_of(("nli", "tags")), Probe(engine=engine))
    check(model, step_of(("tags",)), Probe(engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_task_specific_upper_blocks_keep_their_own_gradients(engine):
    model = model_of(num_shared_layers=1)
    result = check(model, step_of(), Probe(engine=engine))
    assert result.conflict.tasks == ("mood", "nli", "tags", "score")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_that_two_tasks_share_counts_as_shared(engine):
    check(model_of(share_head=True), step_of(("mood", "nli", "mood2")), Probe(engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_gradient_checkpointing_changes_nothing(family, engine):
    model = model_of(family)
    model.encoder.model.activation_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    check(model, step_of(), Probe(engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_tied_weights_get_the_sum_over_their_uses(engine):
    body = tiny_encoders.reference_model("bert")
    blocks = body.encoder.layer
    blocks[1].attention.self.query.weight = blocks[0].attention.self.query.weight
    blocks[2] = blocks[1]  # a block that runs twice, as in ALBERT
    check(model_of(model=body), step_of(), Probe(engine=engine))


def test_an_embedding_that_is_also_a_weight_elsewhere_gets_the_sum_of_both():
    body = tiny_encoders.reference_model("bert")
    narrow = torch.nn.Embedding(32, 32)
    narrow.weight = body.encoder.layer[0].attention.self.key.weight
    body.embeddings.word_embeddings = _FoldedIds(narrow)
    for engine in ENGINES:
        check(model_of(model=body), step_of(), Probe(engine=engine))


class _FoldedIds(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids):
        return self.inner(ids % 32)


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_that_a_step_does_not_use_get_no_gradient(engine):
    body = tiny_encoders.reference_model("bert")
    body.unused = torch.nn.Linear(3, 3)
    model = model_of(model=body)
    step = step_of(("mood", "nli"))
    check(model, step, Probe(engine=engine))
    assert body.unused.weight.grad is None
    assert all(p.grad is None for p in model.task_specific_parameters("score"))


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_are_left_alone(engine):
    model = model_of()
    model.encoder.freeze(embeddings=True, num_blocks=1)
    model.encoder.blocks[2].output.dense.bias.requires_grad_(False)
    check(model, step_of(), Probe(engine=engine))
    assert model.encoder.blocks[0].output.dense.weight.grad is None


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, from inside of it
def test_a_compiled_encoder_takes_a_pass_a_task_and_says_why():
    model = model_of()
    model.encoder.model = torch.compile(model.encoder.model, backend="aot_eager")
    step = step_of(("mood", "tags"))
    engine, _, _ = run(model, Probe(), [[step]])
    assert "because the model is compiled" in engine.how
    plain = model_of()
    expected = reference(plain, step)
    found = {name.replace("_orig_mod.", ""): p.grad for name, p in model.named_parameters() if p.grad is not None}
    wanted = {**expected.combined(gramian_weights(expected.gramian())), **expected.own}
    assert relative_error(found, wanted) < 1e-5


def test_a_compiled_encoder_refuses_the_segmented_engine():
    model = model_of()
    model.encoder.model = torch.compile(model.encoder.model, backend="aot_eager")
    with pytest.raises(UserError, match=r"weighting.engine: found 'segmented', but the model is compiled"):
        run(model, Probe(engine="segmented"), [[step_of()]])


def test_padded_rows_refuse_the_segmented_engine():
    with pytest.raises(UserError, match="the encoder runs padded rows; use auto or per_task"):
        run(model_of(packed=False), Probe(engine="segmented"), [[step_of()]])


# What a weighting looks at.


@pytest.mark.parametrize("engine", ENGINES)
def test_the_scope_of_some_blocks_gives_weights_from_them_and_applies_them_to_all(engine):
    model, step = model_of(num_shared_layers=2), step_of()
    expected = reference(model, step)
    weighting = Probe(engine=engine, scope=1)
    _, _, found = run(model, weighting, [[step]])
    in_scope = {name for name in expected.shared if ".layer.1." in name}
    assert in_scope
    gramian = expected.gramian(in_scope)
    assert weighting.seen == pytest.approx(gramian, rel=1e-4, abs=1e-6 * float(gramian.max()))
    assert relative_error(found, {**expected.combined(gramian_weights(gramian)), **expected.own}) < 1e-5


def test_a_scope_of_more_blocks_than_tasks_share_is_refused():
    with pytest.raises(UserError, match=r"weighting.scope: found 3, but there are 2 blocks"):
        run(model_of(num_shared_layers=2), Probe(scope=3), [[step_of()]])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("scope", "blocks"), [("all", ""), (1, "2"), (2, "12")])
def test_squares_of_gradients_are_looked_at_and_kept_within_the_scope_alone(scope, blocks, engine):
    model, weighting = model_of(), ExcessMTL(step_size=1.0, scope=scope, engine=engine)
    expected = [reference(model, step_of(seed=seed)) for seed in range(3)]
    in_scope = {
        name for name in expected[0].shared if scope == "all" or any(f".layer.{block}." in name for block in blocks)
    }
    runner, result, found = run(model, weighting, [[step_of()]])
    squares, baseline, logs = 0.0, None, torch.full((4,), 0.25, dtype=torch.float64).log()
    for seed, of_step in enumerate(expected):
        if seed > 0:
            runner.after_update()
            model.zero_grad(set_to_none=True)
            result = runner.step([[step_of(seed=seed)]])
            found = gradients_of(model)
        rows = torch.cat([of_step.shared[name].flatten(1) for name in sorted(in_scope)], dim=1)
        squares = squares + rows.square()
        risk = (rows.square() / (squares + 1e-7).sqrt()).sum(1)
        if baseline is None:
            baseline = risk
            logs = torch.log_softmax(logs + 1.0, dim=0)  # while a baseline is collected, e_k / b_k counts as 1
        else:
            logs = torch.log_softmax(logs + risk / (baseline + 1e-7), dim=0)
        weights = logs.exp()
        assert torch.stack(list(result.weights.values())) == pytest.approx(weights, rel=1e-4)
        own = {
            name: g * weights[list(model.tasks).index(model.parameter_partition()[name])]
            for name, g in of_step.own.items()
        }
        assert relative_error(found, {**of_step.combined(weights), **own}) < 1e-5
    assert set(weighting.memory["parameters"]) == in_scope


@pytest.mark.parametrize("engine", ENGINES)
def test_grouping_by_block_balances_each_block_by_itself(engine):
    model, step = model_of(), step_of()
    expected = reference(model, step)
    _, _, found = run(model, Probe(engine=engine, grouping="block"), [[step]])
    groups = {}
    for name in expected.shared:
        groups.setdefault(name.split(".layer.")[1][0] if ".layer." in name else "embeddings", set()).add(name)
    assert len(groups) == 4
    wanted = {}
    for names in groups.values():
        weights = gramian_weights(expected.gramian(names))
        wanted |= {name: value for name, value in expected.combined(weights).items() if name in names}
    assert relative_error(found, {**wanted, **expected.own}) < 1e-5


def last_shared(num_shared_layers):
    """From a model to the module whose outputs are the last that all tasks share."""
    return lambda model: model.encoder if num_shared_layers is None else model.encoder.blocks[num_shared_layers - 1]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize(("num_shared_layers", "packed"), [(None, True), (2, True), (2, False)])
def test_the_representation_scope_weighs_by_the_gradient_of_an_offset(num_shared_layers, packed, pooling, cut):
    model, step = model_of(num_shared_layers=num_shared_layers, packed=packed, pooling=pooling), step_of()
    expected = reference(model, step)
    gramian = offset_gramian(model, step, last_shared(num_shared_layers))
    weighting = Probe(scope="representation")
    _, result, found = run(model, weighting, [halves(step) if cut else [step]])
    assert weighting.seen == pytest.approx(gramian, rel=1e-4, abs=1e-6 * float(gramian.max()))
    assert relative_error(found, {**expected.combined(gramian_weights(gramian)), **expected.own}) < 1e-5
    assert float(result.losses["nli"]) == pytest.approx(float(expected.losses[1]), rel=1e-4)


@pytest.mark.parametrize(
    ("sharing", "num_common"),
    [
        (Grouped(groups=[["mood", "nli"], ["tags", "score"]], num_shared_layers=1), 1),
        (Grouped(groups=[["mood", "nli"]], num_shared_layers=2), 2),
        (Grouped(groups=[["mood", "nli", "tags", "score"]]), None),
        (Hierarchical(levels={"tags": 1}), 1),
        (Hierarchical(levels={"tags": 2, "score": 2, "mood": 2}), 2),
    ],
)
def test_the_representation_is_what_all_tasks_share_and_not_some(sharing, num_common):
    model, step = model_of(sharing=sharing), step_of()
    gramian = offset_gramian(model, step, last_shared(num_common))
    weighting = Probe(scope="representation")
    run(model, weighting, [[step]])
    assert weighting.seen == pytest.approx(gramian, rel=1e-4, abs=1e-6 * float(gramian.max()))


def test_the_representation_scope_needs_a_shared_block():
    with pytest.raises(UserError, match=r"weighting.scope: 'representation' needs a block that all tasks share"):
        run(model_of(num_shared_layers=0), Probe(scope="representation"), [[step_of()]])


# Methods that do more than weigh.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_transformed_gradient_takes_the_place_of_the_tasks_gradients(engine):
    model, step = model_of(), step_of()
    expected = reference(model, step)
    weighting = AverageProbe(engine=engine)
    run_engine, _, _ = run(model, weighting, [[step]])
    run_engine.after_update()
    model.zero_grad(set_to_none=True)
    run_engine.step([[step]])
    # The same gradients twice: g, then g / 2 + g.
    weights = gramian_weights(expected.gramian() * 1.5**2)
    wanted = {name: 1.5 * value for name, value in expected.combined(weights).items()}
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert relative_error(found, {**wanted, **expected.own}) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_coordinates_are_combined_one_by_one(engine):
    model, step = model_of(), step_of()
    expected = reference(model, step)
    _, result, found = run(model, LargestProbe(engine=engine), [[step]])
    wanted = {name: g.gather(0, g.abs().argmax(0, keepdim=True))[0] for name, g in expected.shared.items()}
    assert relative_error(found, {**wanted, **expected.own}) < 1e-5
    assert all(weight != weight for weight in result.weights.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_three_batches_give_the_inner_products_of_two_and_the_update_of_the_third(engine):
    model = model_of()
    steps = [step_of(seed=seed) for seed in (0, 10, 20)]
    first, second, third = (reference(model, step) for step in steps)
    weighting = ThreeBatchProbe(engine=engine)
    _, result, found = run(model, weighting, [[step] for step in steps])
    left, right = (torch.cat([g.flatten(1) for g in r.shared.values()], dim=1) for r in (first, second))
    gramian = left @ right.T
    assert weighting.seen == pytest.approx(gramian, rel=1e-3, abs=1e-5 * float(gramian.abs().max()))
    weights = 1.0 + gramian.sum(1) / gramian.abs().max()
    assert relative_error(found, {**third.combined(weights), **third.own}) < 1e-5
    mean = (first.losses + second.losses + third.losses) / 3
    assert torch.stack(list(result.losses.values())).double() == pytest.approx(mean, rel=1e-4)


# Clipping.


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_clipped_is_the_combined_gradient(engine, lazy, cut):
    model, step = model_of(), step_of(("nli", "score"))
    expected = reference(model, step)
    # Gradient surgery of two tasks that conflict: g_1 + g_2, each without its part along the other.
    (a, c), (_, b) = expected.gramian().tolist()
    assert c < 0
    combined = {**expected.combined(torch.tensor([1 - c / a, 1 - c / b], dtype=torch.float64)), **expected.own}
    norm = float(torch.cat([value.flatten() for value in combined.values()]).norm())
    wanted = {name: value * 0.1 / norm for name, value in combined.items()}

    optimizer = AdamW(lr=1e-3).build(model, lazy=lazy)
    run(model, PCGrad(engine=engine), [halves(step) if cut else [step]])
    found_norm = clip_gradients(optimizer, [p for p in model.parameters() if p.requires_grad], 0.1)
    optimizer.step()
    assert float(found_norm) == pytest.approx(norm, rel=1e-4)
    # After one step the first moment is the gradient that the optimizer has seen, times 1 - 0.9.
    seen = {
        name: optimizer.state[parameter]["exp_avg"] / 0.1
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }
    assert relative_error(seen, wanted) < 1e-5


# Weightings of losses.


def check_losses(weighting, parts, step, tolerance=1e-5):
    model = model_of()
    expected = reference(model, step)
    _, result, found = run(model, weighting, parts)
    weights = 1.0 / (0.5 + expected.losses)
    own = {name: g * weights[list(step).index(model.parameter_partition()[name])] for name, g in expected.own.items()}
    assert torch.stack(list(result.weights.values())).double() == pytest.approx(weights, rel=1e-4)
    assert relative_error(found, {**expected.combined(weights), **own}) < tolerance
    return result


def test_a_weighting_of_losses_weighs_all_parameters():
    check_losses(LossProbe(), [[step_of()]], step_of())


def test_with_micro_batches_the_weights_follow_from_the_losses_of_the_whole_step():
    check_losses(LossProbe(), [halves(step_of())], step_of())


def test_a_step_whose_conflict_is_tracked_makes_the_same_update():
    result = check_losses(LossProbe(track_conflict_every=2), [[step_of()]], step_of())
    expected = reference(model_of(), step_of()).gramian()
    assert result.conflict.norms_K == pytest.approx(expected.diagonal().sqrt(), rel=1e-4)
    cosines = expected / (expected.diagonal()[:, None] * expected.diagonal()[None, :]).sqrt()
    assert result.conflict.cosines_KK == pytest.approx(cosines, abs=1e-5)


def test_conflict_is_tracked_on_every_so_manieth_step_only():
    model = model_of()
    engine, first, _ = run(model, Equal(track_conflict_every=2), [[step_of()]])
    seen = [first.conflict is not None]
    for _ in range(3):
        engine.after_update()
        model.zero_grad(set_to_none=True)
        seen.append(engine.step([[step_of()]]).conflict is not None)
    assert seen == [True, False, True, False]


@dataclass(kw_only=True)
class AfterProbe(LossWeighting):
    needs_loss_after_step = True

    def weights(self, step):
        step.scratch["before"] = step.losses_K
        return torch.ones_like(step.losses_K)

    def after_step(self, step, losses_after_K):
        self.memory["pair"] = [step.scratch["before"], losses_after_K]


def test_losses_after_the_step_are_those_of_the_same_rows_with_the_same_dropout():
    model = model_of().train()
    assert any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())
    weighting = AfterProbe()
    torch.manual_seed(5)
    engine, _, _ = run(model, weighting, [halves(step_of())])
    state = torch.get_rng_state()
    engine.after_update()
    # Nothing was updated in between, so the losses are the same to the bit, and dropout goes on where it was.
    before, after = weighting.memory["pair"]
    assert torch.equal(before, after)
    assert torch.equal(torch.get_rng_state(), state)


def test_replaying_dropout_for_micro_batches_leaves_the_generator_where_one_pass_would():
    def after(weighting):
        torch.manual_seed(5)
        run(model_of().train(), weighting, [halves(step_of())])
        return torch.get_rng_state()

    assert torch.equal(after(LossProbe()), after(Equal()))


# Schedules, and what is not finite.


def test_warm_up_steps_have_equal_weights_and_the_method_begins_after_them():
    model, step = model_of(), step_of()
    expected = reference(model, step)
    weighting = Probe(warmup_steps=1)
    engine, result, found = run(model, weighting, [[step]])
    ones = torch.ones(4, dtype=torch.float64)
    assert relative_error(found, {**expected.combined(ones), **expected.own}) < 1e-5
    assert [float(w) for w in result.weights.values()] == [1.0] * 4
    engine.after_update()
    model.zero_grad(set_to_none=True)
    engine.step([[step]])
    assert weighting.seen.shape == (4, 4)


@pytest.mark.parametrize("scope", ["all", "representation"])
def test_a_loss_that_is_not_finite_reaches_the_gradient_and_no_solver(scope):
    model, step = model_of(), step_of()
    with torch.no_grad():
        model.heads["score"][-1].weight.fill_(float("nan"))
    weighting = Probe(scope=scope)
    _, result, found = run(model, weighting, [[step]])
    assert not hasattr(weighting, "seen")
    assert not result.losses["score"].isfinite()
    assert any(not gradient.isfinite().all() for gradient in found.values())


def test_a_single_number_of_kept_bytes_changes_nothing(monkeypatch):
    step = step_of()
    for share in (0.0, 100.0):
        monkeypatch.setattr("mtl_cli.gradients.collecting._KEEP_SHARE", share)
        check(model_of(), step, Probe(engine="segmented"))


# Corner cases.


@pytest.mark.parametrize("settings", [{}, {"grouping": "block"}, {"scope": 1}])
def test_gradients_of_a_wholly_frozen_encoder_are_refused(settings):
    model = model_of()
    model.encoder.requires_grad_(False)
    with pytest.raises(UserError, match=r"none are trained \(is the encoder frozen"):
        run(model, Probe(**settings), [[step_of()]])


def test_a_frozen_encoder_below_a_shared_head_has_no_representation_to_weigh():
    model = model_of(share_head=True)
    model.encoder.requires_grad_(False)
    with pytest.raises(UserError, match="needs an encoder that is trained"):
        run(model, Probe(scope="representation"), [[step_of(("mood", "mood2"))]])


@pytest.mark.parametrize("engine", ENGINES)
def test_with_grouping_a_shared_head_is_balanced_with_the_block_below_it(engine):
    model, step = model_of(share_head=True), step_of(("mood", "nli", "mood2"))
    expected = reference(model, step)
    _, result, found = run(model, Probe(engine=engine, grouping="block"), [[step]])
    assert list(result.group_weights["nli"]) == ["embeddings", "block_0", "block_1", "block_2"]
    names = {name for name in expected.shared if ".layer.2." in name or "shared_heads" in name}
    weights = gramian_weights(expected.gramian(names))
    wanted = {name: value for name, value in expected.combined(weights).items() if name in names}
    assert relative_error({name: found[name] for name in names}, wanted) < 1e-5
    assert float(result.group_weights["nli"]["block_2"]) == pytest.approx(float(weights[1]), rel=1e-3)


def test_each_group_has_a_say_in_the_weights_of_heads():
    @dataclass(kw_only=True)
    class Heads(Probe):
        def weights(self, gramian_KK, step):
            step.scratch["trace"] = float(gramian_KK.trace())
            return torch.ones(len(gramian_KK), dtype=torch.float64)

        def head_weights(self, step, weights_K):
            return weights_K * step.scratch["trace"]

    model, step = model_of(), step_of()
    expected = reference(model, step)
    _, _, found = run(model, Heads(grouping="block"), [[step]])
    mean = float(expected.gramian().trace()) / 4  # embeddings and three blocks; traces add up
    own = {name: mean * value for name, value in expected.own.items()}
    assert relative_error({name: found[name] for name in own}, own) < 1e-4


def test_a_step_that_cannot_be_cut_has_equal_weights_that_sum_to_one():
    model, step = model_of(), step_of()
    expected = reference(model, step)
    _, result, found = run(model, ThreeBatchProbe(), [[step]])
    quarter = torch.full((4,), 0.25, dtype=torch.float64)
    assert relative_error(found, {**expected.combined(quarter), **expected.own}) < 1e-5
    assert [float(weight) for weight in result.weights.values()] == [0.25] * 4


def assert_conflict_of(conflict, gramian):
    norms = gramian.diagonal().sqrt()
    assert conflict.norms_K == pytest.approx(norms, rel=1e-4)
    assert conflict.cosines_KK == pytest.approx(gramian / torch.outer(norms, norms), abs=1e-5)


@pytest.mark.parametrize("weighting", [Probe(warmup_steps=1), AverageProbe(warmup_steps=1)])
def test_warm_up_measures_conflict_too(weighting):
    model, step = model_of(), step_of()
    _, result, _ = run(model, weighting, [[step]])
    assert_conflict_of(result.conflict, reference(model, step).gramian())
    assert weighting.memory == {}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("num_shared_layers", "packed"), [(None, True), (2, True), (2, False)])
def test_warm_up_measures_the_conflict_at_the_representation(num_shared_layers, packed, cut):
    model, step = model_of(num_shared_layers=num_shared_layers, packed=packed), step_of()
    expected = reference(model, step)
    weighting = Probe(scope="representation", warmup_steps=1)
    _, result, found = run(model, weighting, [halves(step) if cut else [step]])
    assert_conflict_of(result.conflict, offset_gramian(model, step, last_shared(num_shared_layers)))
    ones = torch.ones(4, dtype=torch.float64)
    assert relative_error(found, {**expected.combined(ones), **expected.own}) < 1e-5
    assert weighting.memory == {}


def test_gradients_too_long_to_square_are_said_and_summed(caplog):
    model, step = model_of(), step_of()
    with torch.no_grad():
        model.heads["score"][-1].weight.mul_(1e30)
    with caplog.at_level("WARNING"):
        run(model, Probe(), [[step]])
    assert "are not finite in step 1 of Probe" in caplog.text


def test_a_weight_that_is_used_outside_of_its_layer_is_found():
    model = model_of()
    layer = model.encoder.blocks[2].output.dense
    model.encoder.blocks[2].register_forward_hook(lambda module, inputs, output: output + layer.weight.sum() * 1e-3)
    with pytest.raises(RuntimeError, match=r"output.dense.weight is used outside of its layer. Set weighting.engine"):
        run(model, Probe(engine="segmented"), [[step_of()]])


def test_rows_of_an_embedding_multiply_as_the_whole_embedding_does():
    generator = torch.Generator().manual_seed(2)

    def block(seed):
        generator.manual_seed(seed)
        task, ids = (torch.randint(0, high, (40,), generator=generator) for high in (3, 12))
        return RowBlock.sum_up(task, ids, torch.randn(40, 5, generator=generator), 3, torch.Size([12, 5]))

    first, second = block(1), block(2)
    for other in (None, second):
        dense = first.to_dense().inner_products(None if other is None else other.to_dense())
        assert first.inner_products(other) == pytest.approx(dense, rel=1e-5)
    assert first.add(second).to_dense().values.numpy() == pytest.approx(
        (first.to_dense().values + second.to_dense().values).numpy(), abs=1e-5
    )


@pytest.mark.parametrize("with_bias", [True, False])
def test_both_ways_to_form_a_normalisations_gradients_agree(with_bias):
    generator = torch.Generator().manual_seed(4)
    inputs, gradients = (torch.randn(1, 9, 8, generator=generator) for _ in range(2))
    weight, bias = torch.rand(8, generator=generator), torch.rand(8, generator=generator) if with_bias else None
    _, mean, scale = torch.native_layer_norm(inputs, (8,), weight, bias, 1e-5)
    call = LayerCall(None, {}, [(0, slice(0, 2)), (2, slice(2, 7)), (1, slice(7, 9))])
    arguments = (inputs, gradients, mean, scale, weight, bias, call)
    one, other = norm_backward_by_task(*arguments), norm_backward_at_once(*arguments)
    assert torch.allclose(one[0], other[0], atol=1e-6)
    assert torch.allclose(torch.stack(one[1]), torch.stack(other[1]), atol=1e-5)
    if with_bias:
        assert torch.allclose(torch.stack(one[2]), torch.stack(other[2]), atol=1e-5)
    flat = gradients[0]
    assert torch.allclose(torch.stack(sums(flat, call)), torch.stack(sums_by_product(flat, call)), atol=1e-6)
