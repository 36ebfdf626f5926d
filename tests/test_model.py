"""The multi-task model: against transformers' own heads, shared heads, the partition, independence of rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from encoders import tiny_encoders
from transformers import BertForSequenceClassification, BertForTokenClassification, DistilBertForTokenClassification

from mtl_cli.encoders import Encoder, Layout, TransformerEncoder, pool
from mtl_cli.encoders.dropout import FastDropout
from mtl_cli.model import MultiTaskModel
from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import HardSharing
from mtl_cli.tasks import (
    LinearHead,
    MLPHead,
    Regression,
    SingleTextClassification,
    TextPairClassification,
    TokenTagging,
)
from mtl_cli.types import Batch, UserError

LENGTHS = [7, 3, 12]
NO_SOURCE = UnavailableSource()
LABELS = {"mood": ["bad", "good"], "nli": ["yes", "maybe", "no"], "tags": ["O", "B-P", "I-P"], "score": None}


def batch(lengths=LENGTHS, positions=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    return Batch(
        input_ids_N=torch.randint(5, 300, (num_tokens,), generator=generator),
        lengths_B=torch.tensor(lengths),
        token_type_ids_N=torch.randint(0, 2, (num_tokens,), generator=generator),
        positions_M=None if positions is None else torch.tensor(positions),
        labels_M=None,
        rows_B=np.arange(len(lengths)),
    )


def encoder_of(family="bert", packed=True, pooling="first", model=None):
    model = tiny_encoders.reference_model(family) if model is None else model
    return Encoder(model, tiny_encoders.tokenizer(), pooling=pooling, packed=packed)


def task(kind=SingleTextClassification, **settings):
    return kind(source=NO_SOURCE, **settings)


def four_tasks():
    return {
        "mood": task(),
        "nli": task(TextPairClassification),
        "tags": task(TokenTagging),
        "score": task(Regression, text="text", pooling="mean"),
    }


def model_of(tasks=None, sharing=None, labels=LABELS, **settings):
    torch.manual_seed(0)
    return MultiTaskModel(encoder_of(**settings), sharing or HardSharing(), tasks or four_tasks(), labels)


@pytest.mark.parametrize("packed", [True, False])
def test_logits_equal_those_of_transformers_sequence_classification(packed):
    torch.manual_seed(1)
    config = tiny_encoders.CONFIGS["bert"].__class__(**{**tiny_encoders.CONFIGS["bert"].to_dict(), "num_labels": 2})
    reference = BertForSequenceClassification(config).eval()
    rows = batch()
    input_ids_BT, mask_BT = tiny_encoders.padded(rows.input_ids_N, LENGTHS, 0)
    types_BT, _ = tiny_encoders.padded(rows.token_type_ids_N, LENGTHS, 0)
    expected = reference(input_ids=input_ids_BT, attention_mask=mask_BT, token_type_ids=types_BT).logits

    # BERT's pooler is a dense layer with tanh over the first token: here the first layer of the head.
    tasks = {"mood": task(head=MLPHead(activation="tanh"))}
    body = reference.bert
    pooler, body.pooler = body.pooler, None
    model = model_of(tasks, labels={"mood": LABELS["mood"]}, model=body, packed=packed).eval()
    first, last = (layer for layer in model.heads["mood"].modules() if isinstance(layer, torch.nn.Linear))
    first.load_state_dict(pooler.dense.state_dict())
    last.load_state_dict(reference.classifier.state_dict())
    torch.testing.assert_close(model({"mood": rows})["mood"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("packed", [True, False])
def test_logits_equal_those_of_transformers_token_classification(family, packed):
    torch.manual_seed(1)
    of_family = {"bert": BertForTokenClassification, "distilbert": DistilBertForTokenClassification}
    config = tiny_encoders.CONFIGS[family].__class__(**{**tiny_encoders.CONFIGS[family].to_dict(), "num_labels": 3})
    reference = of_family[family](config).eval()
    rows = batch(positions=[1, 4, 5, 8, 11, 12, 20])
    input_ids_BT, mask_BT = tiny_encoders.padded(rows.input_ids_N, LENGTHS, 0)
    arguments = {}
    if family == "bert":
        arguments["token_type_ids"], _ = tiny_encoders.padded(rows.token_type_ids_N, LENGTHS, 0)
    logits_BTC = reference(input_ids=input_ids_BT, attention_mask=mask_BT, **arguments).logits
    # Tokens 1, 4, 5 are in row 0; 8 is token 1 of row 1; 11, 12, 20 are tokens 1, 2, 10 of row 2.
    expected = logits_BTC[[0, 0, 0, 1, 2, 2, 2], [1, 4, 5, 1, 1, 2, 10]]

    tasks = {"tags": task(TokenTagging, head=LinearHead())}
    body = getattr(reference, family)
    model = model_of(tasks, labels={"tags": LABELS["tags"]}, model=body, packed=packed).eval()
    (layer,) = (layer for layer in model.heads["tags"].modules() if isinstance(layer, torch.nn.Linear))
    layer.load_state_dict(reference.classifier.state_dict())
    torch.testing.assert_close(model({"tags": rows})["tags"], expected, atol=1e-5, rtol=1e-5)


def test_taggers_whose_rows_have_no_word_give_no_logits():
    nothing = batch([4, 3], positions=[])
    nothing = replace(nothing, positions_M=nothing.positions_M.long())
    model = model_of().eval()
    assert model({"tags": nothing})["tags"].shape == (0, 3)
    beside = model({"tags": nothing, "mood": batch()})
    assert (beside["tags"].shape, beside["mood"].shape) == ((0, 3), (3, 2))


def test_heads_drop_as_the_encoder_does():
    model = model_of()
    kinds = {type(m) for head in model.heads.children() for m in head.modules() if isinstance(m, torch.nn.Dropout)}
    assert kinds == {FastDropout}


def steps():
    return {
        "mood": batch([4, 9]),
        "nli": batch([6], seed=1),
        "tags": batch([5, 8], positions=[1, 2, 6, 7, 9], seed=2),
        "score": batch([3, 3, 2], seed=3),
    }


@pytest.mark.parametrize("sharing", [HardSharing(), HardSharing(num_shared_layers=1)])
@pytest.mark.parametrize("packed", [True, False])
def test_a_step_of_several_tasks_gives_what_single_tasks_give(sharing, packed):
    model = model_of(sharing=sharing, packed=packed).eval()
    together = model(steps())
    assert {name: tuple(logits.shape) for name, logits in together.items()} == {
        "mood": (2, 2), "nli": (1, 3), "tags": (5, 3), "score": (3, 1)
    }  # fmt: skip
    for name, rows in steps().items():
        torch.testing.assert_close(model({name: rows})[name], together[name], atol=1e-5, rtol=1e-5)


def test_the_order_of_tasks_in_a_step_does_not_matter():
    model = model_of(sharing=HardSharing(num_shared_layers=2)).eval()
    forwards, backwards = model(steps()), model(dict(reversed(steps().items())))
    for name, logits in forwards.items():
        torch.testing.assert_close(backwards[name], logits, atol=1e-6, rtol=1e-5)


def test_the_encoder_runs_once_a_step():
    model = model_of()
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    model(steps())
    assert len(calls) == 1


def test_batches_without_segments_go_with_batches_that_have_them():
    model = model_of().eval()
    step = steps()
    bare = step["mood"]
    step["mood"] = Batch(bare.input_ids_N, bare.lengths_B, None, None, None, bare.rows_B)
    zeros = Batch(bare.input_ids_N, bare.lengths_B, torch.zeros_like(bare.input_ids_N), None, None, bare.rows_B)
    together, alone = model(step), model({"mood": zeros})
    torch.testing.assert_close(together["mood"], alone["mood"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together["nli"], model(steps())["nli"], atol=1e-6, rtol=1e-5)


def test_a_task_s_own_pooling_wins_over_the_encoder_s():
    tasks = {"x": task(), "y": task(pooling="last"), "z": task(pooling="mean")}
    model = model_of(tasks, labels={name: ["a", "b"] for name in tasks}, pooling="first").eval()
    for name in ("y", "z"):
        model.heads[name].load_state_dict(model.heads["x"].state_dict())
    logits = [model({name: batch()})[name] for name in tasks]
    assert all((a - b).abs().max() > 1e-3 for a, b in [logits[:2], logits[1:], logits[::2]])
    with torch.no_grad():
        layout = Layout.from_lengths({"y": np.array(LENGTHS)}, packed=True)
        rows = batch()
        last_BD = pool(model.encoder(rows.input_ids_N, rows.token_type_ids_N, layout), layout, "last")
        torch.testing.assert_close(model.heads["x"](last_BD), logits[1])


def test_one_head_serves_tasks_that_name_it():
    tasks = {"a": task(share_head_with="b"), "b": task(share_head_with="c"), "c": task(), "d": task()}
    model = model_of(tasks, labels={name: ["no", "yes"] for name in tasks}).eval()
    assert (list(model.heads), list(model.shared_heads)) == (["d"], ["c"])
    torch.testing.assert_close(model({"a": batch()})["a"], model({"c": batch()})["c"])
    partition = model.parameter_partition()
    assert {part for name, part in partition.items() if name.startswith("shared_heads.")} == {"shared"}
    assert set(partition.values()) == {"shared", "d"}


@pytest.mark.parametrize(
    ("tasks", "labels", "message"),
    [
        ({"a": {"share_head_with": "x"}}, {"a": ["p", "q"]}, r"tasks\.a\.share_head_with: 'x' is no task of this run"),
        (
            {"a": {"share_head_with": "b"}, "b": {"share_head_with": "a"}},
            {"a": ["p", "q"], "b": ["p", "q"]},
            "a -> b -> a goes in a circle",
        ),
        (
            {"a": {"share_head_with": "b"}, "b": {}},
            {"a": ["p", "q"], "b": ["q", "p"]},
            r"same labels in the same order: set tasks\.a\.labels",
        ),
    ],
)
def test_heads_that_cannot_be_shared(tasks, labels, message):
    with pytest.raises(UserError, match=message):
        model_of({name: task(**settings) for name, settings in tasks.items()}, labels=labels)


def test_a_name_that_cannot_be_used_is_refused():
    with pytest.raises(UserError, match=r"tasks\.keys: a task cannot be called 'keys'"):
        model_of({"keys": task()}, labels={"keys": ["a", "b"]})


def test_parameters_are_parted_and_counted():
    model = model_of(sharing=HardSharing(num_shared_layers=2))
    model.encoder.freeze(embeddings=True, num_blocks=0)
    partition = model.parameter_partition()
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(partition) == sorted(trainable)
    counts = model.parameter_counts()
    own = {name: sum(p.numel() for p in model.task_specific_parameters(name)) for name in LABELS}
    block = sum(p.numel() for p in model.encoder.blocks[0].parameters())
    # A head: 32 weights and a bias an output.
    assert own == {"mood": block + 66, "nli": block + 99, "tags": block + 99, "score": block + 33}
    assert counts["task_specific"] == sum(own.values())
    assert counts["shared"] == sum(p.numel() for p in model.shared_parameters()) == 2 * block
    embeddings = sum(p.numel() for p in model.encoder.model.embeddings.parameters())
    # Two shared blocks and one for each of the four tasks; heads of 2, 3, 3 and 1 outputs.
    assert counts["total"] == embeddings + 6 * block + 66 + 99 + 99 + 33


def test_a_task_s_loss_reaches_its_head_and_the_encoder_only():
    model = model_of()
    logits = model(steps())
    logits["nli"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.heads["nli"].parameters())
    for name in ("mood", "tags", "score"):
        assert all(p.grad is None or not p.grad.any() for p in model.heads[name].parameters())
    assert model.encoder.model.embeddings.word_embeddings.weight.grad.any()


def trained_model():
    torch.manual_seed(0)
    spec = TransformerEncoder(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2, max_length=24)
    tasks = {
        "mood": task(),
        "nli": task(TextPairClassification),
        "tags": task(TokenTagging, window_overlap=4),
        "score": task(Regression, text="text"),
    }
    return MultiTaskModel(spec.build(tiny_encoders.SENTENCES), HardSharing(), tasks, LABELS)


def test_raw_texts_are_predicted_in_their_order():
    model = trained_model().train()
    texts = ["the cat", "a much longer text about a dog that barked", "", "the moon"]
    records = model.predict("mood", texts, max_tokens=20)
    assert model.training
    assert [record["text"] for record in records] == texts
    for text, record in zip(texts, records, strict=True):
        (alone,) = model.predict("mood", [text])
        assert alone["prediction"] == record["prediction"]
        assert alone["probabilities"] == pytest.approx(record["probabilities"], abs=2e-6)
    assert sum(records[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_pairs_words_and_scores_are_predicted():
    model = trained_model()
    pairs = model.predict("nli", [("the cat sat", "a cat sat"), ["it rained", "why"]])
    assert [(record["premise"], record["hypothesis"]) for record in pairs] == [
        ("the cat sat", "a cat sat"),
        ("it rained", "why"),
    ]
    assert pairs[0]["prediction"] in LABELS["nli"]
    words = [["the", "cat"], ["dog"] * 60]  # the second is longer than the encoder takes
    tags = model.predict("tags", words)
    assert [len(record["prediction"]) for record in tags] == [2, 60]
    assert isinstance(model.predict("score", ["the cat"])[0]["prediction"], float)
    assert model.predict("mood", []) == []


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("moods", ["a"], "no task 'moods'. It has: mood, nli, tags, score"),
        ("mood", ["a", ("b", "c")], "Text 2: found .*takes a string"),
        ("nli", ["ab"], r"Text 1: found 'ab', but TextPairClassification takes 2 strings \(premise, hypothesis\)"),
        ("tags", ["a b"], "takes a non-empty list of words"),
        ("tags", [[]], "takes a non-empty list of words"),
    ],
)
def test_texts_of_the_wrong_form_are_refused(name, texts, message):
    with pytest.raises(UserError, match=message):
        trained_model().predict(name, texts)
