"""Every shipped task YAML composes, passes the configuration check, and turns what the Hub holds into encoded rows.

No network: `datasets.load_dataset` is replaced by one that gives small data with the features of `hub_facts`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Value
from hub_facts import HUB, WORD_LIST, HubData, spans
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mtl_cli.build import instantiate
from mtl_cli.check_config import check_tasks
from mtl_cli.data import TaskData, prepare
from mtl_cli.listing import list_options

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = [option.name for option in list_options([CONF], group="task")]
NUM_ROWS = 60


def compose_tasks(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base=None):
        tasks = compose("train", overrides=list(overrides)).tasks
    container = OmegaConf.to_container(tasks, resolve=True)
    assert isinstance(container, dict)
    return {str(name): node for name, node in container.items()}


@pytest.fixture(scope="module")
def nodes() -> dict[str, dict[str, Any]]:
    """The composed node of each option, by the option's name."""
    composed = list(compose_tasks(f"task=[{','.join(OPTIONS)}]").values())
    # Two options under one package would have merged into one node.
    assert len(composed) == len(OPTIONS)
    return dict(zip(OPTIONS, composed, strict=True))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {
        token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORD_LIST, "word"])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


class Hub:
    """Stands in for `datasets.load_dataset`: knows one data set, and how it must be asked for."""

    def __init__(self, data: HubData, opened: dict[str, str]) -> None:
        self.path, self.opened, self.splits = data.path, opened, data.make(NUM_ROWS)

    def __call__(self, path: str, name: str | None = None, split: str | None = None, **options: Any) -> Any:
        found = {key: value for key, value in {"name": name, **options}.items() if value is not None}
        assert (path.removeprefix("hf://datasets/"), found) == (self.path, self.opened)
        return self.splits if split is None else self.splits[split]


@pytest.fixture
def load(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def load(node: dict[str, Any], data: HubData, opened: dict[str, str] | None = None) -> TaskData:
        monkeypatch.setattr(datasets, "load_dataset", Hub(data, data.opened if opened is None else opened))
        return prepare(instantiate(node), tokenizer, seed=1, cache_dir=tmp_path, max_length_limit=None)

    return load


def test_the_facts_cover_every_task_of_the_hub() -> None:
    assert sorted(HUB) == sorted(option for option in OPTIONS if not option.startswith("embedded/"))


def test_every_task_passes_the_configuration_check(nodes: dict[str, dict[str, Any]]) -> None:
    check_tasks(nodes)


@pytest.mark.parametrize("option", HUB)
def test_what_the_hub_holds_becomes_encoded_rows(option: str, nodes: dict[str, dict[str, Any]], load: Any) -> None:
    data, node = HUB[option], nodes[option]
    prepared: TaskData = load(node, data)

    assert set(prepared.splits) == {"train", "validation", *data.roles}
    for role, split in prepared.splits.items():
        # Without a validation split, prepare carves one from train.
        hub_split = data.roles.get(role, "train")
        assert (split.labels is None) == (data.splits[hub_split] == "none")
        assert len(split) == split.num_examples
        if "validation" in data.roles:
            assert split.num_examples == NUM_ROWS - (data.splits[hub_split] == "most")
        # A text, and not a column of something else: more than special tokens; and from the right split of the Hub.
        assert min(split.lengths) > 3
        for column in instantiate(node).input_columns():
            assert hub_split in str(prepared.examples[role][0][column])
    if data.labels is not None:
        assert prepared.labels == (node["labels"] or data.labels)
        # The ids of the Hub are those of the YAML's labels. (Seen in a split that is neither carved nor unlabelled.)
        role = "validation" if "validation" in data.roles else "test"
        split = prepared.splits[role]
        assert split.labels is not None
        assert split.labels.tolist() == [id_ for row in range(split.num_examples) for id_ in data.label_ids(row)]


def test_labels_that_the_yaml_lists_are_those_of_the_hub_in_index_order(nodes: dict[str, dict[str, Any]]) -> None:
    renamed = {"paws_x"}
    for option, data in HUB.items():
        if option not in renamed and nodes[option].get("labels") is not None:
            assert nodes[option]["labels"] == data.labels, option


def test_the_main_metric_is_the_first(nodes: dict[str, dict[str, Any]]) -> None:
    assert {option for option in HUB if nodes[option]["main_metric"] != nodes[option]["metrics"][0]} == set()


def test_stsb_without_public_test_labels_has_none(nodes: dict[str, dict[str, Any]], load: Any) -> None:
    splits = load(nodes["glue/stsb"], HUB["glue/stsb"]).splits
    assert splits["test"].labels is None
    assert splits["train"].labels.tolist() == [row % 6 for row in range(NUM_ROWS)]


def test_wic_shows_the_encoder_the_word(
    nodes: dict[str, dict[str, Any]], load: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    split = load(nodes["superglue/wic"], HUB["superglue/wic"]).splits["train"]
    # Row 0 holds, in each column, "river river ", the column's name and the split; the vocabulary knows `word` only.
    start, end = split.row_starts[:2]
    assert tokenizer.decode(split.input_ids[start:end]) == (
        "[CLS] river river word [UNK] [UNK] river river [UNK] [UNK] [SEP] river river [UNK] [UNK] [SEP]"
    )


@pytest.mark.parametrize(
    ("option", "override", "opened"),
    [
        ("xnli", "tasks.xnli.source.name=de", {"name": "de"}),
        ("paws_x", "tasks.paws_x.source.name=ja", {"name": "ja"}),
        # Norwegian, which YAML would read as a boolean.
        ("wikiann", "tasks.wikiann.source.name=no", {"name": "no"}),
        ("ud", "tasks.ud.source.name=fr_sequoia", {"name": "fr_sequoia"}),
        ("tweet_eval", "tasks.tweet_eval.source.name=irony", {"name": "irony"}),
        ("massive", "tasks.massive.source.data_dir=de-DE", {"revision": "refs/convert/parquet", "data_dir": "de-DE"}),
    ],
)
def test_a_language_a_subset_or_a_treebank_is_one_setting(
    option: str, override: str, opened: dict[str, str], load: Any
) -> None:
    (node,) = compose_tasks(f"task=[{option}]", override).values()
    assert load(node, HUB[option], opened).splits["train"].labels is not None


@pytest.mark.parametrize(
    ("option", "override", "hub_splits"),
    [
        (
            "anli",
            "tasks.anli.source.splits={train: train_r3, validation: dev_r3, test: test_r3}",
            ["train_r3", "dev_r3", "test_r3"],
        ),
        (
            "glue/mnli",
            "tasks.mnli.source.splits.validation=validation_mismatched",
            ["train", "validation_mismatched", "test_matched"],
        ),
    ],
)
def test_other_splits_of_the_hub_can_be_named(option: str, override: str, hub_splits: list[str], load: Any) -> None:
    (node,) = compose_tasks(f"task=[{option}]", override).values()
    examples = load(node, HUB[option]).examples
    assert [examples[role]["premise"][0].split()[-1] for role in ("train", "validation", "test")] == hub_splits


def test_irony_takes_the_metrics_of_its_benchmark(load: Any) -> None:
    metric = ["tasks.tweet_eval.metrics=[f1,accuracy]", "tasks.tweet_eval.main_metric=f1"]
    (node,) = compose_tasks("task=[tweet_eval]", "tasks.tweet_eval.source.name=irony", *metric).values()
    irony = replace(
        HUB["tweet_eval"],
        opened={"name": "irony"},
        labels=["non_irony", "irony"],
        features={"text": Value("string"), "label": ClassLabel(names=["non_irony", "irony"])},
    )
    assert load(node, irony).labels == ["non_irony", "irony"]


@pytest.mark.parametrize(
    ("option", "overrides", "labels"),
    [
        ("massive", ["tasks.massive.label=scenario"], ["datetime", "iot"]),
        ("trec", ["tasks.trec.label=fine_label", "tasks.trec.labels=null"], ["ABBR:abb", "NUM:date"]),
        ("conll2003", ["tasks.conll2003.tags=chunk_tags", "tasks.conll2003.labels=null"], spans("NP", "VP")),
    ],
)
def test_other_columns_of_a_data_set_can_be_learnt(
    option: str, overrides: list[str], labels: list[str], load: Any
) -> None:
    (node,) = compose_tasks(f"task=[{option}]", *overrides).values()
    assert load(node, HUB[option]).labels == labels


def test_one_yaml_serves_several_languages_at_once(load: Any) -> None:
    tasks = compose_tasks("task=[xnli]", "+task@tasks.xnli_de=xnli", "tasks.xnli_de.source.name=de")
    assert {name: node["source"]["name"] for name, node in tasks.items()} == {"xnli": "en", "xnli_de": "de"}
    check_tasks(tasks)
