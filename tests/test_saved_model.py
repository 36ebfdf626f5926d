"""Saving and loading: bit for bit, without a network or code of strangers."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from encoders import tiny_encoders

from mtl_cli.encoders import Encoder, TransformerEncoder
from mtl_cli.model import MultiTaskModel
from mtl_cli.saved_model import UnavailableSource, load_model, save_model
from mtl_cli.sharing import HardSharing
from mtl_cli.tasks import MLPHead, Regression, SingleTextClassification, TextPairClassification, TokenTagging
from mtl_cli.types import UserError

NO_SOURCE = UnavailableSource()
LABELS = {
    "mood": ["bad", "good"],
    "nli": ["yes", "maybe", "no"],
    "again": ["yes", "maybe", "no"],
    "tags": ["O", "B-P", "I-P"],
    "score": None,
}
TEXTS = {
    "mood": ["the cat sat", "it rained all day", "é 東 🚀"],
    "nli": [("the cat", "a dog"), ("why", "the bell rang")],
    "again": [("the cat", "a dog"), ("why", "the bell rang")],
    "tags": [["the", "cat", "sat"], ["Bob"] * 40],
    "score": ["a dog", "the moon"],
}


def tasks():
    return {
        "mood": SingleTextClassification(source=NO_SOURCE, head=MLPHead(width=9, activation="gelu"), pooling="max"),
        "nli": TextPairClassification(source=NO_SOURCE, max_length=16, class_weights="balanced"),
        "again": TextPairClassification(source=NO_SOURCE, max_length=16, share_head_with="nli"),
        "tags": TokenTagging(source=NO_SOURCE, window_overlap=4, label_smoothing=0.1),
        "score": Regression(source=NO_SOURCE, text="text", min_score=0.0, max_score=5.0),
    }


def randomise(model):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def small_model():
    torch.manual_seed(0)
    spec = TransformerEncoder(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2, max_length=24, pooling="mean")
    encoder = spec.build(tiny_encoders.SENTENCES)
    model = MultiTaskModel(encoder, HardSharing(num_shared_layers=1), tasks(), LABELS)
    model.tasks["nli"].fit_class_weights(torch.tensor([0, 0, 1, 2]).numpy(), LABELS["nli"])
    return randomise(model)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    model = small_model()
    save_model(model, folder)
    return model, folder


def test_weights_and_predictions_survive_bit_for_bit(saved):
    model, folder = saved
    loaded = load_model(folder)
    weights, again = model.state_dict(), loaded.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    for name, texts in TEXTS.items():
        assert loaded.predict(name, texts) == model.predict(name, texts)
    assert not loaded.training
    assert loaded.parameter_partition() == model.parameter_partition()


def test_settings_survive(saved):
    model, folder = saved
    loaded = load_model(folder)
    assert loaded.labels == LABELS
    assert loaded.sharing == HardSharing(num_shared_layers=1)
    assert (loaded.encoder.pooling, loaded.encoder.packed, loaded.encoder.max_length) == ("mean", True, 24)
    for name, task in model.tasks.items():
        other = loaded.tasks[name]
        assert type(other) is type(task)
        assert (other.head, other.metrics, other.max_length) == (task.head, task.metrics, task.max_length)
    assert loaded.tasks["nli"].fitted_class_weights == model.tasks["nli"].fitted_class_weights != [1.0, 1.0, 1.0]
    with pytest.raises(UserError, match="A loaded model has no data"):
        loaded.tasks["mood"].source.load()


@pytest.mark.parametrize("family", tiny_encoders.CONFIGS)
def test_every_family_survives(family, tmp_path):
    tokenizer = tiny_encoders.tokenizer_without_padding() if family == "gpt2" else tiny_encoders.tokenizer()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    packed = family in tiny_encoders.PACKED
    encoder = Encoder(tiny_encoders.reference_model(family), tokenizer, pooling="last", packed=packed)
    chosen = {name: tasks()[name] for name in ("mood", "tags")}
    model = randomise(MultiTaskModel(encoder, HardSharing(num_shared_layers=2), chosen, LABELS))
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    for name in chosen:
        assert loaded.predict(name, TEXTS[name]) == model.predict(name, TEXTS[name])


def test_the_run_folder_will_do(saved):
    _, folder = saved
    assert load_model(str(folder.parent)).labels == LABELS


def test_loading_leaves_the_random_generator_alone(saved):
    state = torch.get_rng_state()
    load_model(saved[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_saving_again_replaces_the_model(saved, tmp_path):
    folder = shutil.copytree(saved[1], tmp_path / "model")
    model = load_model(folder)
    with torch.no_grad():
        model.heads["mood"][-1].bias.fill_(3.0)
    save_model(model, folder)
    assert load_model(folder).heads["mood"][-1].bias.tolist() == [3.0, 3.0]
    assert not list(folder.glob("*.partial"))


def test_loading_needs_no_hydra_and_no_network(saved):
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from mtl_cli.saved_model import load_model\n"
        f"print(load_model({str(saved[1])!r}).predict('mood', ['the cat sat'])[0]['prediction'])\n"
        "print([name for name in ('hydra', 'omegaconf') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [saved[0].predict("mood", ["the cat sat"])[0]["prediction"], "[]"]


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "model")


def describe(folder, change):
    path = folder / "mtl.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["tasks"]["mood"].update({"class": "os.system"}), "class 'os.system', which is not part of mtl"),
        (lambda d: d["tasks"]["mood"]["args"]["head"].update({"class": "builtins.eval"}), "class 'builtins.eval'"),
        (lambda d: d["sharing"].update({"class": "subprocess.Popen"}), "class 'subprocess.Popen'"),
        (lambda d: d.update(version=99), "format version 99, but this version of mtl reads 1"),
        (lambda d: d.update(format="other"), "does not describe a model of this tool"),
        (lambda d: d.pop("tasks"), "is damaged or was written by another version"),
        (lambda d: d["tasks"]["mood"]["args"].update(colour="red"), "is damaged or was written by another version"),
        (lambda d: d["encoder"].update(pooling="middle"), "is damaged or was written by another version"),
        (
            lambda d: d["tasks"]["mood"].update(labels=["a", "b", "c"]),
            r"model\.safetensors is missing, damaged, or of another",
        ),
    ],
)
def test_a_description_that_cannot_be_trusted(copy, change, message):
    describe(copy, change)
    with pytest.raises(UserError, match=message):
        load_model(copy)


def test_damaged_and_missing_files(copy, tmp_path):
    (copy / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match=r"model\.safetensors is missing, damaged"):
        load_model(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing, damaged"):
        load_model(copy)
    (copy / "mtl.json").write_text("{")
    with pytest.raises(UserError, match=r"mtl\.json is damaged"):
        load_model(copy)
    with pytest.raises(UserError, match=r"holds no model: neither mtl\.json nor model/mtl\.json"):
        load_model(tmp_path / "nowhere")


@dataclass(kw_only=True)
class OwnTask(SingleTextClassification):
    shade: str = "blue"


def test_classes_of_the_user_are_named_by_the_caller(tmp_path):
    torch.manual_seed(0)
    spec = TransformerEncoder(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, max_length=24)
    own = {"mood": OwnTask(source=NO_SOURCE, shade="green")}
    save_model(MultiTaskModel(spec.build(tiny_encoders.SENTENCES), HardSharing(), own, LABELS), tmp_path)
    with pytest.raises(UserError, match=r"OwnTask', which is not part of mtl.*load_model\(folder, classes="):
        load_model(tmp_path)
    assert load_model(tmp_path, classes=[OwnTask]).tasks["mood"].shade == "green"
