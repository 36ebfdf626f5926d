"""The settings of the commands that work on a finished run: conf/evaluate.yaml and conf/predict.yaml."""

from dataclasses import dataclass, field

from mtl_cli.precision import Precision
from mtl_cli.types import PositiveInt, Split


@dataclass(kw_only=True)
class EvaluateSettings:
    """Settings of `mtl evaluate`.

    Args:
        run: the run folder.
        splits: which splits to score.
        output: folder for predictions and metrics; None: print the metrics only.
        device: auto, cpu, cuda, ...
        precision: None: the precision that the run was trained in.
        cache_dir: where tokenised texts are kept.
        allow_targets: packages besides the usual ones that the run's tasks may name.
        debug: show the traceback of an error.
    """

    run: str
    splits: list[Split] = field(default_factory=lambda: ["validation", "test"])
    output: str | None = None
    device: str = "auto"
    precision: Precision | None = None
    cache_dir: str | None = None
    allow_targets: list[str] = field(default_factory=list)
    debug: bool = False


@dataclass(kw_only=True)
class PredictSettings:
    """Settings of `mtl predict`.

    Args:
        run: the run folder, or its model/ folder.
        input: csv, tsv, jsonl, json, parquet, or txt with a text a line.
        output: csv, tsv or jsonl.
        tasks: a task's name or several; None: every task whose columns the input has.
        columns: which column of the input to take for a column that the run was trained with: {sentence: review}.
        device: auto, cpu, cuda, ...
        precision: auto, bf16 or fp32.
        batch_tokens: tokens a batch.
        allow_targets: packages besides ours that the model's task types, heads and strategy may come from.
        debug: show the traceback of an error.
    """

    run: str
    input: str
    output: str
    tasks: str | list[str] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    precision: Precision = "auto"
    batch_tokens: PositiveInt = 8192
    allow_targets: list[str] = field(default_factory=list)
    debug: bool = False
