from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig
from transformers.models.roberta.modeling_roberta import RobertaClassificationHead

from mtl_cli.tasks import LinearHead, MLPHead


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def copy(source: nn.Linear, target: nn.Linear) -> None:
    target.load_state_dict(source.state_dict())


def test_a_linear_head_is_dropout_and_one_layer() -> None:
    head = LinearHead(dropout=0.3).build(8, 3)
    assert [type(layer) for layer in head] == [nn.Dropout, nn.Linear]
    assert head[0].p == 0.3
    assert head(torch.ones(5, 8)).shape == (5, 3)


def test_the_default_mlp_head_is_the_pooler_and_classifier_of_bert() -> None:
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    model = BertForSequenceClassification(config).eval()
    head = MLPHead().build(16, 3).eval()
    dense, output = linears(head)
    copy(model.bert.pooler.dense, dense)
    copy(model.classifier, output)
    input_ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        first_token = model.bert(input_ids).last_hidden_state[:, 0]
        torch.testing.assert_close(head(first_token), model(input_ids).logits, rtol=0, atol=0)


def test_in_training_the_mlp_head_drops_where_bert_and_roberta_do() -> None:
    # BERT: dense, tanh, dropout, classifier. RoBERTa: dropout, dense, tanh, dropout, classifier.
    config = RobertaConfig(hidden_size=16, hidden_dropout_prob=0.4, num_labels=3)
    reference = RobertaClassificationHead(config).train()
    head = MLPHead(dropout=0.4, input_dropout=0.4).build(16, 3).train()
    for source, target in zip(linears(reference), linears(head), strict=True):
        copy(source, target)
    features = torch.randn(4, 16)
    torch.manual_seed(1)
    expected = reference(features[:, None])
    torch.manual_seed(1)
    torch.testing.assert_close(head(features), expected)
    assert MLPHead().build(16, 3)[0].p == 0


def test_width_and_activation_of_an_mlp_head_are_settings() -> None:
    head = MLPHead(width=5, activation="relu").build(16, 3)
    assert [layer.out_features for layer in linears(head)] == [5, 3]
    assert isinstance(head[2], nn.ReLU)


@pytest.mark.parametrize("settings", [LinearHead(), MLPHead()])
def test_new_weights_are_normal_with_deviation_0_02_and_biases_are_zero(settings: LinearHead | MLPHead) -> None:
    torch.manual_seed(0)
    for layer in linears(settings.build(400, 50)):
        # The standard error of the deviation of n normal values is sigma / sqrt(2 n): 1e-4 for 400 x 50.
        assert layer.weight.std().item() == pytest.approx(0.02, abs=5e-4)
        assert layer.weight.mean().item() == pytest.approx(0, abs=5e-4)
        assert not layer.bias.any()
