import re

import pytest
from compose import composed
from encoders.tiny_encoders import CONFIGS
from transformers import AutoConfig

from mtl_cli.check_config import ConfigError, check_config, check_settings
from mtl_cli.cli import conf_dir
from mtl_cli.commands.settings import EvaluateSettings, PredictSettings
from mtl_cli.overrides import groups_in
from mtl_cli.search.settings import SearchSettings
from mtl_cli.studies.settings import StudySettings

GROUPS = groups_in([conf_dir()])


def problems(*overrides: str, allow_targets: list[str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_config(composed(*overrides), allow_targets)
    return caught.value.problems


def test_the_default_configuration_is_sound():
    check_config(composed())


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group, options in GROUPS.items() for option in options],
    ids=lambda name: name,
)
def test_every_shipped_option_composes_and_binds_to_the_code(group, option):
    required = {
        "huggingface": ["encoder.path=some/model"],
        "hierarchical": ["sharing.order=[sentiment,entities]"],
        "lora": ["encoder=minilm"],
        "mtl_lora": ["encoder=minilm"],
    }
    value = f"[{option}]" if group in ("task", "logger") else option
    command = "search" if group == "search" else "train"
    config = composed(f"{group}={value}", *required.get(option, []), command=command)
    # Nodes of commands that make many runs have a check of their own.
    for node, settings in (("study", StudySettings), ("search", SearchSettings)):
        if node in config:
            check_settings(settings, config.pop(node), prefix=f"{node}.")
    check_config(config)


def test_all_errors_are_reported_at_once():
    found = problems(
        "trainer.epochs=-1", "trainer.epoch=3", "optimizer.lr=fast", "tasks.sentiment.txt=review", "sed=3", "seed=-2"
    )
    assert len(found) == 6
    text = "\n".join(found)
    assert "trainer.epochs: found -1, input should be greater than 0" in text
    assert "trainer.epoch: Trainer has no such setting; did you mean epochs?" in text
    assert "optimizer.lr: found 'fast', input should be a valid number" in text
    assert "tasks.sentiment.txt: SingleTextClassification has no such setting; did you mean text?" in text
    assert "sed: no such key; did you mean seed?" in text
    assert "seed: found -2, input should be greater than or equal to 0" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.epochs=true", "trainer.epochs: found True, input should be a valid number"),
        ("sampler.batch_size=1.5", "sampler.batch_size: found 1.5"),
        ("trainer.precision=fp16", "trainer.precision: found 'fp16', input should be 'auto', 'bf16' or 'fp32'"),
        ("trainer.best_metric=sentiment/acuracy", "did you mean sentiment/accuracy"),
        ("tasks.sentiment.validation_fraction=1.5", "tasks.sentiment.validation_fraction: found 1.5"),
        ("tasks.sentimnt.max_length=5", "tasks.sentimnt: no such task in this run .* did you mean sentiment"),
        ("encoder=huggingface", "encoder.path: required and not set; give encoder.path=VALUE"),
        ("encoder.hidden_size=130", "encoder.hidden_size: 130 is not a multiple of encoder.num_heads"),
        ("weighting=static", None),
        ("sampler.batch_size={sentiment: 4}", "no batch size for: entities, inference"),
        ("tasks.sentiment.share_head_with=inference", "has another type or other labels"),
        ("tasks.sentiment.share_head_with=nobody", "found 'nobody', allowed: another task of the run"),
        ("tasks.sentiment.metrics=[acuracy]", "Did you mean 'accuracy'"),
        ("tasks.sentiment.source.relatedness=2", "tasks.sentiment.source.relatedness: found 2"),
        ("tasks.sentiment.source.seed=null", "tasks.sentiment.source.seed: found None"),
        ("sharing.num_shared_layers=99", "sharing.num_shared_layers: 99, but the encoder has 3 blocks"),
        ("trainer.device=gpu", "trainer.device: found 'gpu', allowed: auto, cpu, cuda"),
        ("encodr=minilm", "encodr: no such key; did you mean encoder"),
    ],
)
def test_what_is_wrong_is_said_with_the_key_what_was_found_and_what_is_allowed(override, message):
    if message is None:
        check_config(composed(override))
        return
    found = problems(override)
    assert len(found) == 1
    assert re.search(message, found[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["weighting=pcgrad", "sampler=round_robin"],
            r"weighting: PCGrad needs several tasks in a step, but the steps of RoundRobin hold one task; samplers "
            r"that fit: all_tasks, annealed, proportional, temperature, uniform$",
        ),
        (
            ["weighting=modo", "sampler=proportional"],
            r"weighting: MoDo needs 3 batches of every task in a step, but the steps of Proportional hold some of the "
            r"tasks; samplers that fit: all_tasks$",
        ),
        (["weighting=trimmed_mean", "sampler=temperature"], r"TrimmedMean needs every task in a step"),
        (
            ["weighting=modo", "sampler.batch_size=2"],
            r"sampler.batch_size: found 2, but MoDo cuts .* allowed: 3 or more",
        ),
        (["weighting=pcgrad", "weighting.scope=4"], r"weighting.scope: found 4, but tasks share 3 blocks; .* 1 to 3"),
        (
            ["weighting=pcgrad", "weighting.scope=3", "sharing.num_shared_layers=2"],
            r"weighting.scope: found 3, but tasks share 2 blocks",
        ),
        (
            ["weighting=pcgrad", "weighting.scope=representation", "sharing.num_shared_layers=0"],
            r"weighting.scope: 'representation' needs a block that tasks share",
        ),
        (["weighting=graddrop", "weighting.scope=1"], r"weighting.scope: found 1, but GradDrop combines all gradients"),
        (["weighting=moco", "weighting.scope=representation"], r"weighting.scope: found 'representation', but MoCo"),
        (["weighting=trimmed_mean", "weighting.grouping=block"], r"weighting.grouping: found 'block', but TrimmedMean"),
        (
            [
                "weighting=pcgrad",
                "weighting.scope=representation",
                "weighting.engine=segmented",
                "trainer.compile=true",
            ],
            r"1 error in the configuration:\n.*weighting.engine: found 'segmented' with weighting.scope=representation",
        ),
        (["weighting=stch", "weighting.reference_steps=5"], r"weighting.reference_steps: found 5 with .*losses=raw"),
        (["weighting=pcgrad", "weighting.engine=fast"], r"weighting.engine: found 'fast'"),
        (["weighting=krum", "weighting.num_byzantine=1"], r"weighting.num_byzantine: found 1 with 3 tasks"),
        (
            ["weighting=stch", "weighting.preference={entity: 2}"],
            r"weighting.preference.entity: .*did you mean 'entities'",
        ),
    ],
)
def test_a_weighting_that_does_not_fit_the_run_is_refused_before_anything_is_loaded(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_config(composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["trainer.compile=true"], "the model is compiled (trainer.compile)"),
        (["sharing=cross_stitch"], "every row goes through the columns of all tasks"),
        (["sharing=moe"], "an expert sees the tokens that are routed to it, not all of a step"),
        (["encoder.packing=false"], "the encoder runs padded rows"),
        (["encoder=minilm", "encoder.packing=false"], "the encoder runs padded rows"),
    ],
)
def test_gradients_that_one_pass_cannot_give_are_refused_before_anything_is_loaded(overrides, reason):
    (found,) = problems("weighting=pcgrad", "weighting.engine=segmented", *overrides)
    assert found == f"weighting.engine: found 'segmented', but {reason}; use auto or per_task"
    for fits in ("weighting.engine=auto", "weighting.engine=per_task"):
        check_config(composed("weighting=pcgrad", fits, *overrides))


def test_an_engine_that_does_not_fit_is_said_with_all_other_errors():
    found = problems("weighting=pcgrad", "weighting.engine=segmented", "sharing=moe", "sharing.blocks=[7]")
    assert [text.split(":")[0] for text in found] == ["sharing.blocks", "weighting.engine"]


def test_blocks_that_cannot_be_compiled_are_said_with_all_other_errors():
    found = problems("weighting=pcgrad", "weighting.engine=segmented", "encoder.packing=false", "trainer.compile=true")
    assert found == [
        "weighting.engine: found 'segmented', but the encoder runs padded rows and the model is compiled "
        "(trainer.compile); use auto or per_task",
        "trainer.compile: true, but a 'modernbert' model runs padded rows, whose shape differs in each step; leave "
        "trainer.compile out, or take encoder.packing=auto",
    ]
    found = problems("sharing=moe", "sharing.blocks=[7]", "trainer.compile=true")
    assert [text.split(":")[0] for text in found] == ["sharing.blocks", "trainer.compile"]
    assert "the sharing strategy puts layers into the blocks, which read whose tokens they see" in found[1]
    assert found[1].endswith("leave trainer.compile out, or take sharing=hard")


@pytest.mark.parametrize(
    "overrides",
    [
        ["sharing=hard"],
        ["sharing=hard", "sharing.num_shared_layers=3"],
        ["sharing=mtrl", "sharing.prior_on=heads"],
        ["sharing=grouped", "sharing.groups=[[sentiment,entities,inference]]"],
        ["encoder=huggingface", "encoder.path=some/model", "sharing=moe"],  # of a family that is not known yet
    ],
)
def test_blocks_that_may_be_compiled_pass(overrides):
    check_config(composed("trainer.compile=true", "trainer.activation_checkpointing=true", *overrides))


def test_the_depth_of_the_bundled_encoder_is_known_without_loading_it():
    from mtl_cli.encoders import BundledMiniLM

    assert len(BundledMiniLM().build().blocks) == BundledMiniLM().known_shape().num_blocks
    assert len(problems("encoder=minilm", "sharing.num_shared_layers=7")) == 1


def test_a_part_that_is_missing_is_asked_for():
    config = composed()
    del config["encoder"]
    with pytest.raises(ConfigError, match="encoder: missing; choose one with encoder=NAME"):
        check_config(config)


def test_static_weights_of_a_task_that_is_not_in_the_run_are_refused():
    found = problems("weighting=static", "weighting.task_weights={sentimnt: 2}")
    assert found == [
        "weighting.task_weights.sentimnt: no such task in this run, tasks are sentiment, entities, inference; "
        "did you mean 'sentiment'?"
    ]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "allowed packages are mtl_cli, torch, transformers; .* allow_targets=\\[os\\]"),
        ("subprocess.run", "allowed packages"),
        ("torchhub.load", "allowed packages"),
        ("torch.hub.load", "which is not a Source"),
        ("torch.load", "which is not a Source"),
        ("transformers.pipeline", "which is not a Source"),
        ("torch.nn.Linear", "which is not a Source"),
        ("mtl_cli.cli.main", "which is not a Source"),
        ("mtl_cli.data.Source", "abstract class"),
        ("mtl_cli.data.NoSuch", "cannot be imported"),
    ],
)
def test_a_target_must_be_a_class_of_the_kind_that_its_place_asks_for(target, message):
    found = problems(f"tasks.sentiment.source._target_={target}")
    assert any(re.search(message, problem) for problem in found), found


def test_targets_that_the_user_allows_are_still_of_the_right_kind():
    found = problems("tasks.sentiment.source._target_=os.system", allow_targets=["os"])
    assert any("which is not a Source" in problem for problem in found)


def test_a_configuration_cannot_allow_targets_to_itself():
    config = composed("allow_targets=[os]", "tasks.sentiment.source._target_=os.system")
    with pytest.raises(ConfigError, match="allowed packages"):
        check_config(config, [])


def test_hydras_other_underscored_keys_are_refused():
    found = problems("tasks.sentiment.source._partial_=true")
    assert found == [
        "tasks.sentiment.source._partial_: not allowed; a node holds _target_ and the arguments of its class"
    ]


@pytest.mark.parametrize(
    "hidden",
    [
        "{a: {_target_: pathlib.Path.touch, _args_: [{_target_: pathlib.Path, _args_: [MARK]}]}}",
        "{a: [{_target_: pathlib.Path.touch, _args_: [{_target_: pathlib.Path, _args_: [MARK]}]}]}",
        "{a: {b: {_target_: mtl_cli.data.FileSource}}}",
    ],
)
def test_nothing_that_hydra_would_construct_hides_inside_a_value(hidden, tmp_path):
    mark = tmp_path / "ran"
    override = f"encoder.config_overrides={hidden.replace('MARK', str(mark))}"
    found = problems("encoder=huggingface", "encoder.path=some/model", override)
    assert any("not allowed inside a plain value" in problem for problem in found)
    assert not mark.exists()


def test_an_encoder_yaml_of_the_users_need_not_say_its_learning_rate(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "own.yaml").write_text("_target_: mtl_cli.encoders.HuggingFaceEncoder\npath: some/model\n")
    config = composed("encoder=own", config_dir=tmp_path)
    check_config(config)
    assert (config["optimizer"]["lr"], config["trainer"]["epochs"]) == (5e-5, 3)


def test_a_yaml_without_its_package_line_is_explained(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "reviews.yaml").write_text("# Reviews\n_target_: mtl_cli.tasks.SingleTextClassification\n")
    with pytest.raises(ConfigError, match=r"first line must be `# @package tasks.NAME`"):
        check_config(composed("task=[reviews]", config_dir=tmp_path))


@pytest.mark.parametrize(("command", "settings"), [("evaluate", EvaluateSettings), ("predict", PredictSettings)])
def test_the_settings_of_other_commands_bind_to_the_code(command, settings):
    required = ["run=r", *(["input=i.csv", "output=o.csv"] if command == "predict" else [])]
    config = composed(*required, command=command)
    assert check_settings(settings, config) == settings(**{key.split("=")[0]: key.split("=")[1] for key in required})


def test_a_missing_and_a_misspelt_setting_of_another_command_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        check_settings(EvaluateSettings, composed("split=[test]", "splits=[dev]", command="evaluate"))
    text = str(caught.value)
    assert "run: required and not set" in text
    assert "split: no such key; did you mean splits?" in text
    assert "splits: found ['dev'], splits.0: input should be 'train', 'validation' or 'test'" in text


def test_random_weights_are_not_left_as_they_are():
    (found,) = problems("sharing=lora")
    assert found.startswith("sharing.train_encoder: found false, but this encoder begins with random weights")
    check_config(composed("sharing=lora", "sharing.train_encoder=true"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sharing=soft_l2", "weighting=pcgrad"], "weighting: PCGrad balances .* SoftL2 shares none"),
        (
            ["sharing=moe", "weighting=pcgrad", "weighting.scope=representation"],
            "weighting.scope: found 'representation', but .*lowest block",
        ),
        (
            ["sharing=adashare", "sharing.blocks=[-3]", "weighting=pcgrad", "weighting.scope=representation"],
            "weighting.scope: found 'representation', but each task skips blocks .*from the lowest on",
        ),
        (["sharing=adapters", "sharing.blocks=[9]"], r"sharing\.blocks"),
        (["sharing=grouped", "sharing.groups=[[sentiment,nobody]]"], r"sharing\.groups.*nobody"),
    ],
)
def test_what_a_strategy_cannot_do_is_said_before_anything_is_loaded(overrides, message):
    (found,) = problems(*overrides)
    assert re.search(message, found), found


@pytest.fixture(scope="module")
def hub_folders(tmp_path_factory):
    """Folders in the hub's format with a config alone: neither weights nor a tokenizer."""
    found = {}
    for family in ("bert", "deberta-v2"):
        found[family] = tmp_path_factory.mktemp(family)
        CONFIGS[family].save_pretrained(found[family])
    return found


@pytest.mark.parametrize(
    ("family", "overrides", "messages"),
    [
        # The tiny models have 3 blocks of width 32 with 4 heads.
        ("bert", ["sharing=adapters", "sharing.blocks=[1,3]"], [r"sharing\.blocks: found \[1, 3\], but .* 3 blocks"]),
        ("bert", ["sharing=moe", "sharing.blocks=[-4]"], [r"sharing\.blocks: found \[-4\], .* down to -3"]),
        ("bert", ["sharing=mmoe", "sharing.blocks=[3]"], [r"sharing\.blocks: found \[3\]"]),
        ("bert", ["sharing=cross_stitch", "sharing.blocks=[3]"], [r"sharing\.blocks: found \[3\]"]),
        ("bert", ["sharing=adashare", "sharing.blocks=[3]"], [r"sharing\.blocks: found \[3\]"]),
        ("bert", ["sharing=hard", "sharing.num_shared_layers=4"], [r"sharing\.num_shared_layers: 4, but .* 3 blocks"]),
        (
            "bert",
            ["sharing=pal", "sharing.hidden_size=6", "sharing.blocks=[7]", "encoder.num_frozen_blocks=4"],
            [
                r"encoder\.num_frozen_blocks: found 4, but the encoder has 3 blocks; allowed: 0 to 3",
                r"sharing\.blocks: found \[7\]",
                r"sharing\.hidden_size: found 6 with 4 heads; allowed: multiples of 4",
            ],
        ),
        ("bert", ["sharing=sluice", "sharing.num_subspaces=5"], [r"sharing\.num_subspaces: found 5, .*divisors of 32"]),
        (
            "deberta-v2",
            ["sharing=lora", "sharing.targets=[query,key,value]"],
            [r"sharing\.targets: found 'query', 'key', .*'deberta-v2'.* allowed: value, attention_output"],
        ),
        (
            "albert",
            ["trainer=fsdp"],
            [r"^trainer\.parallelism: found 'fsdp', which needs .* 2 blocks, .*'albert'.* any: trainer=default"],
        ),
        ("deberta-v2", ["encoder.packing=true"], [r"encoder\.packing: true, but a 'deberta-v2' model"]),
        (
            "bert",
            ["encoder.config_overrides={layers: 2}"],
            [r"encoder\.config_overrides\.layers: a 'bert' config"],
        ),
        (
            "bert",
            ["encoder.config_overrides={num_hidden_layers: 2}", "sharing=adapters", "sharing.blocks=[2]"],
            [r"sharing\.blocks: found \[2\], but the encoder has 2 blocks"],
        ),
        *(
            ("albert", [f"sharing={name}", *more], [r"sharing needs an encoder with a list of 2 blocks, .*'albert'"])
            for name, *more in (
                ["soft_l2"], ["cross_stitch"], ["layer_mix"], ["adashare"], ["adapters"], ["task_conditioning"],
                ["ple"], ["mmoe", "sharing.experts=block"], ["hard", "sharing.num_shared_layers=1"],
            )
        ),
        *(
            ("mpnet", [f"sharing={name}"], [r"'mpnet' model has weights outside .*sharing\.num_shared_layers to 1 or"])
            for name in ("soft_trace_norm", "cross_stitch", "sluice", "grouped")
        ),
        *(
            (family, ["trainer.compile=true"], [rf"trainer\.compile: true, but a '{family}' model runs padded rows"])
            for family in ("deberta-v2", "mpnet", "t5")
        ),
        (
            "mpnet",
            ["trainer.compile=true", "sharing=adashare", "sharing.blocks=[7]", "trainer.activation_checkpointing=true"],
            [
                r"sharing\.blocks: found \[7\]",
                r"trainer\.compile: .*padded rows, .*, and the sharing strategy puts .* encoder and take sharing=hard",
                r"trainer\.activation_checkpointing: true, but a 'mpnet' model of transformers has none; set",
            ],
        ),
        ("albert", ["trainer.activation_checkpointing=true"], [r"activation_checkpointing: true, but a 'albert'"]),
        ("bert", ["weighting=pcgrad", "weighting.scope=4"], [r"weighting\.scope: found 4, but tasks share 3 blocks"]),
        (
            "deberta-v2",
            ["weighting=pcgrad", "weighting.engine=segmented"],
            [r"weighting\.engine: found 'segmented', but the encoder runs padded rows; use auto or per_task"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_models_config_is_refused_before_its_weights_are_loaded(
    family, overrides, messages, hub_folders, tmp_path
):
    path = hub_folders.get(family) or config_alone(tmp_path, family)
    found = problems("encoder=huggingface", f"encoder.path={path}", *overrides)
    assert len(found) == len(messages)
    for text, message in zip(found, messages, strict=True):
        assert re.search(message, text), text


def config_alone(folder, family):
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    AutoConfig.for_model(family, vocab_size=300, **shape).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("albert", ["sharing=hard"]),
        ("albert", ["sharing=mtrl", "sharing.prior_on=heads"]),
        ("mpnet", ["sharing=cross_stitch", "sharing.num_shared_layers=1"]),
    ],
)
def test_what_does_without_blocks_or_shares_what_cannot_be_split_fits(family, overrides, tmp_path):
    check_config(composed("encoder=huggingface", f"encoder.path={config_alone(tmp_path, family)}", *overrides))


def test_a_prior_on_heads_is_refused_where_tasks_have_one_together():
    config = composed("sharing=mtrl", "sharing.prior_on=heads")
    config["tasks"]["again"] = {**config["tasks"]["sentiment"], "share_head_with": "sentiment"}
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    (found,) = caught.value.problems
    assert "sharing.prior_on: found 'heads', but again have one head together with another task" in found


def test_a_prior_on_heads_is_refused_where_labels_that_the_yaml_names_make_heads_with_nothing_in_common():
    prior = ["sharing=mtrl", "sharing.prior_on=heads"]
    (found,) = problems("task=[glue/sst2,glue/mnli,glue/stsb]", *prior)
    shapes = r"sst2: 1.weight \(2, 128\), 1.bias \(2,\); mnli: 1.weight \(3, 128\).*; stsb: 1.weight \(1, 128\)"
    assert re.search(rf"sharing.prior_on: found 'heads', but no parameter has the same name and shape.*{shapes}", found)
    check_config(composed("task=[glue/sst2,glue/rte]", *prior))
    check_config(composed("task=[glue/sst2,embedded/inference]", *prior))  # labels that only the data name
    hidden_layers = [f"tasks.{task}.head={{_target_: mtl_cli.tasks.MLPHead}}" for task in ("sst2", "mnli")]
    check_config(composed("task=[glue/sst2,glue/mnli]", *prior, *hidden_layers))


def test_what_a_config_that_cannot_be_read_says_is_left_to_loading(tmp_path):
    for path in (str(tmp_path), "some/model"):
        where = ["encoder=huggingface", f"encoder.path={path}"]
        check_config(composed(*where, "sharing=adapters", "sharing.blocks=[99]"))
        check_config(composed(*where, "weighting=pcgrad", "weighting.engine=segmented"))


def test_a_config_that_brings_code_is_not_read(hub_folders):
    where = ["encoder=huggingface", f"encoder.path={hub_folders['bert']}", "encoder.trust_remote_code=true"]
    check_config(composed(*where, "sharing=adapters", "sharing.blocks=[99]"))
