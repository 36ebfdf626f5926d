"""Settings that all tasks have."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import typing

import pytest
from pydantic import TypeAdapter, ValidationError

from mtl_cli.data.source import Source
from mtl_cli.tasks import (
    ExampleError,
    Regression,
    SingleTextClassification,
    Task,
    TextPairClassification,
    TokenTagging,
)
from mtl_cli.types import UserError

TYPES = [SingleTextClassification, TextPairClassification, Regression, TokenTagging]


@pytest.mark.parametrize(
    ("task_type", "metrics"),
    [
        (SingleTextClassification, ["accuracy", "f1_macro"]),
        (TextPairClassification, ["accuracy", "f1_macro"]),
        (Regression, ["pearson", "spearman", "mse"]),
        (TokenTagging, ["span_f1", "span_precision", "span_recall", "token_accuracy"]),
    ],
)
def test_metrics_have_defaults_and_the_first_is_the_main_one(
    source: Source, task_type: type[Task], metrics: list[str]
) -> None:
    task = task_type(source=source)
    assert task.metrics == metrics
    assert task.main_metric == metrics[0]


def test_metrics_and_main_metric_are_settings(source: Source) -> None:
    task = SingleTextClassification(source=source, metrics=["accuracy", "matthews"], main_metric="matthews")
    assert task.main_score({"accuracy": 0.9, "matthews": 0.4}) == 0.4


def test_a_main_metric_where_less_is_better_counts_negative(source: Source) -> None:
    task = Regression(source=source, metrics=["mse"])
    assert not task.higher_is_better("mse")
    assert task.higher_is_better("pearson")
    assert task.main_score({"mse": 0.25}) == -0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["acuracy"]}, "`metrics` holds 'acuracy'. .* has accuracy, .* Did you mean 'accuracy'?"),
        ({"metrics": ["span_f1"]}, "`metrics` holds 'span_f1'"),
        ({"metrics": []}, "`metrics` is empty. Name at least one of accuracy"),
        ({"metrics": ["accuracy"], "main_metric": "matthews"}, "`main_metric` is 'matthews', which is not computed"),
        ({"labels": ["a", "b", "a"]}, "`labels` names a more than once"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    source: Source, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SingleTextClassification(source=source, **settings)


def test_span_metrics_need_a_scheme(source: Source) -> None:
    with pytest.raises(UserError, match="TokenTagging with these settings has token_accuracy, f1_macro"):
        TokenTagging(source=source, scheme="none", metrics=["span_f1"])
    assert TokenTagging(source=source, scheme="none").metrics == ["token_accuracy"]


@pytest.mark.parametrize("task_type", TYPES)
def test_the_constructor_alone_tells_the_types_of_all_settings(task_type: type[Task]) -> None:
    """The configuration check binds YAML to the signature: inherited settings must be types there, not strings."""
    parameters = inspect.signature(task_type).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert {field.name for field in dataclasses.fields(task_type) if field.init} == {p.name for p in parameters}
    hints = typing.get_type_hints(task_type.__init__, include_extras=True)
    for parameter in parameters:
        assert hints[parameter.name] == parameter.annotation
        assert not isinstance(parameter.annotation, str)


def test_bounds_of_settings_are_in_their_annotations() -> None:
    parameters = inspect.signature(TokenTagging).parameters
    for name, value in [
        ("max_length", 0),
        ("validation_fraction", 1.0),
        ("train_fraction", 0.0),
        ("label_smoothing", 1.0),
        ("class_weights", [-1.0]),
        ("class_weights", "even"),
        ("window_overlap", -1),
        ("scheme", "bio"),
        ("pooling", "cls"),
    ]:
        with pytest.raises(ValidationError):
            TypeAdapter(parameters[name].annotation).validate_python(value, strict=True)
    for name, value in [("max_length", None), ("train_fraction", 1.0), ("class_weights", "balanced"), ("scheme", "io")]:
        TypeAdapter(parameters[name].annotation).validate_python(value, strict=True)


@pytest.mark.parametrize("task_type", TYPES)
def test_inputs_are_the_columns_without_the_label(source: Source, task_type: type[Task]) -> None:
    task = task_type(source=source)
    assert {*task.input_columns(), task.label_column} == set(task.columns().values())
    assert task.label_column not in task.input_columns()


def test_an_example_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(ExampleError(4, "tags", "no tag")))
    assert (error.offset, error.column, error.reason) == (4, "tags", "no tag")
    assert str(error) == "example 5 of the batch, column `tags`: no tag"
