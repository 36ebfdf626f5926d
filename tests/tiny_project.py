"""A user's folder in small: data files of four task types and YAML for them. A label follows from one word."""

from __future__ import annotations

import random
from pathlib import Path

GOOD, BAD = ["fine", "lovely", "great"], ["poor", "dull", "grim"]
THINGS = ["film", "song", "meal", "walk", "book", "train"]
PEOPLE = ["Ada", "Bo", "Cy", "Dee"]

TINY = [
    "encoder=transformer",
    "encoder.vocab_size=300",
    "encoder.hidden_size=32",
    "encoder.num_layers=2",
    "encoder.num_heads=2",
    "encoder.dropout=0.1",
    "sampler.batch_size=8",
    "trainer.precision=fp32",
    "trainer.device=cpu",
    "logger=none",
]
"""Overrides that make a run take a second or two."""


def write(folder: Path, num_train: int = 48) -> Path:
    """Write data/ and conf/ below `folder`; return conf/."""
    draw = random.Random(5)
    data, conf = folder / "data", folder / "conf" / "task"
    data.mkdir(parents=True)
    conf.mkdir(parents=True)
    for split, size in (("train", num_train), ("validation", 16), ("test", 16)):
        texts = [_text(draw) for _ in range(size)]
        _lines(data / f"reviews.{split}.csv", ["text,label", *(f"{text},{label}" for text, label in texts)])
        pairs = [(_text(draw), _text(draw)) for _ in range(size)]
        _lines(
            data / f"pairs.{split}.tsv",
            ["a\tb\tsame", *(f"{a}\t{b}\t{'yes' if x == y else 'no'}" for (a, x), (b, y) in pairs)],
        )
        _lines(
            data / f"scores.{split}.jsonl",
            [f'{{"text": "{text}", "score": {2.5 if label == "good" else 0.5}}}' for text, label in texts],
        )
        _lines(data / f"names.{split}.conll", [line for _ in range(size) for line in _sentence(draw)])
    splits = "\n".join(f"  {split}: {data}/NAME.{split}.SUFFIX" for split in ("train", "validation", "test"))
    for name, suffix, source, task in (
        ("reviews", "csv", "FileSource", "SingleTextClassification\ntext: text\nlabel: label"),
        ("pairs", "tsv", "FileSource", "TextPairClassification\ntext: a\ntext_pair: b\nlabel: same"),
        ("scores", "jsonl", "FileSource", "Regression\ntext: text\nlabel: score"),
        ("names", "conll", "ConllSource", "TokenTagging\nwords: tokens\ntags: tags\nscheme: iob2"),
    ):
        columns = "\n  columns: [tokens, tags]" if suffix == "conll" else ""
        where = splits.replace("NAME", name).replace("SUFFIX", suffix)
        (conf / f"{name}.yaml").write_text(
            f"# @package tasks.{name}\n# {name.capitalize()} in a file of the user's\n_target_: mtl_cli.tasks.{task}\n"
            f"source:\n  _target_: mtl_cli.data.{source}\n{where}{columns}\n"
        )
    return folder / "conf"


def _text(draw: random.Random) -> tuple[str, str]:
    good = draw.random() < 0.5
    judgement = draw.choice(GOOD if good else BAD)
    words = ["the", draw.choice(THINGS), "was", *["so"] * draw.randrange(4), judgement]
    return " ".join(words), "good" if good else "bad"


def _sentence(draw: random.Random) -> list[str]:
    first, last = draw.sample(PEOPLE, 2)
    words = [(first, "B-PER"), (last, "I-PER"), ("took", "O"), ("the", "O"), (draw.choice(THINGS), "O")]
    return [*(f"{word}\t{tag}" for word, tag in words), ""]


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
