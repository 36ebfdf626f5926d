import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from prepare_once import NUM_PROCESSES
from word_tokenizer import make_tokenizer

from mtl_cli.data.tokenised import tokenise, tokenizer_key
from mtl_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "no_network")


class CountingTask:
    """A token a word; counts how often it is asked. Words "bad" are refused."""

    def __init__(self, settings=None):
        self.settings, self.num_calls = settings or {}, 0

    def encoding_settings(self):
        return self.settings

    def encode(self, examples, tokenizer, max_length, label_ids):
        self.num_calls += 1
        if "bad" in examples["text"]:
            error = UserError("bad text")
            error.offset = examples["text"].index("bad")
            raise error
        rows = [tokenizer(text)["input_ids"][:max_length] for text in examples["text"]]
        columns = {"input_ids": rows, "example_offset": list(range(len(rows)))}
        if label_ids is not None:
            columns["labels"] = [label_ids[label] for label in examples["label"]]
        return columns


class WordTask(CountingTask):
    """Rows of at most two words; an example of n words gives ceil(n / 2) rows."""

    def encode(self, examples, tokenizer, max_length, label_ids):
        columns = {name: [] for name in ("input_ids", "labels", "positions", "word_numbers", "example_offset")}
        for offset, text in enumerate(examples["text"]):
            words = text.split()
            for start in range(0, len(words), 2):
                window = words[start : start + 2]
                columns["input_ids"].append(tokenizer(" ".join(window))["input_ids"])
                columns["positions"].append([1 + number for number in range(len(window))])
                columns["word_numbers"].append([start + number for number in range(len(window))])
                columns["labels"].append([label_ids[word] for word in window])
                columns["example_offset"].append(offset)
        return columns


def rows(*texts, labels=None):
    return datasets.Dataset.from_dict({"text": list(texts), **({} if labels is None else {"label": labels})})


def place_error(example, error):
    return UserError(f"example {example}: {error}")


def run(task, examples, tokenizer, tmp_path, max_length=None, label_ids=None, key="k"):
    return tokenise(
        task, examples, tokenizer, max_length, label_ids, key=key, folder=tmp_path / "tokens", place_error=place_error
    )


def test_rows_are_flat_and_in_order(tmp_path, tokenizer):
    split = run(CountingTask(), rows("a b", "c", labels=["y", "x"]), tokenizer, tmp_path, label_ids={"x": 0, "y": 1})
    # [CLS] is 2, [SEP] 3, words count from 4.
    assert split.input_ids.tolist() == [2, 4, 5, 3, 2, 6, 3]
    assert split.row_starts.tolist() == [0, 4, 7]
    assert split.labels.tolist() == [1, 0]
    assert split.example_numbers.tolist() == [0, 1]
    assert split.token_type_ids is None
    assert (split.input_ids.dtype, split.row_starts.dtype, split.labels.dtype) == (np.int32, np.int64, np.int64)


def test_examples_of_several_rows_keep_their_numbers_across_batches(tmp_path, tokenizer):
    texts = ["a b c", "d"] * 1500
    split = run(WordTask(), rows(*texts), tokenizer, tmp_path, label_ids={word: i for i, word in enumerate("abcd")})
    assert split.num_examples == 3000
    assert split.example_numbers.tolist() == [number for i in range(1500) for number in (2 * i, 2 * i, 2 * i + 1)]
    assert split.labels[:4].tolist() == split.labels[-4:].tolist() == [0, 1, 2, 3]
    assert split.word_numbers[:4].tolist() == [0, 1, 2, 0]
    assert split.label_starts[:4].tolist() == [0, 2, 3, 4]
    assert split.positions[:4].tolist() == [1, 2, 1, 1]
    assert {split.positions.dtype, split.word_numbers.dtype} == {np.dtype(np.int32)}


def test_the_same_rows_are_tokenised_once(tmp_path, tokenizer):
    examples = rows("a", "b")
    first = CountingTask()
    run(first, examples, tokenizer, tmp_path)
    again = CountingTask()
    # Another object with the same content, and state left over from a call with a limit.
    twin = make_tokenizer("a b c d e f g h")
    twin("a b c", truncation=True, max_length=3, padding="max_length")
    split = run(again, examples, twin, tmp_path)
    assert (first.num_calls, again.num_calls) == (1, 0)
    assert split.input_ids.tolist() == [2, 4, 3, 2, 5, 3]


@pytest.mark.parametrize("change", ["key", "max_length", "settings", "tokenizer", "special", "labels", "task"])
def test_whatever_changes_the_result_is_tokenised_anew(tmp_path, tokenizer, change):
    examples = rows("a", "b", labels=["x", "y"])
    arguments = {"label_ids": {"x": 0, "y": 1}}
    run(CountingTask(), examples, tokenizer, tmp_path, **arguments)
    task = CountingTask({"version": 2} if change == "settings" else None)
    if change == "key":
        arguments["key"] = "other"
    elif change == "max_length":
        arguments["max_length"] = 2
    elif change == "tokenizer":
        tokenizer = make_tokenizer("b a")
    elif change == "special":
        tokenizer.cls_token = "[PAD]"
    elif change == "labels":
        arguments["label_ids"] = {"y": 0, "x": 1}
    elif change == "task":
        task = type("Other", (CountingTask,), {})()
    run(task, examples, tokenizer, tmp_path, **arguments)
    assert task.num_calls == 1


def test_tokenizers_are_known_by_content():
    assert tokenizer_key(make_tokenizer("a b")) == tokenizer_key(make_tokenizer("a b"))
    assert tokenizer_key(make_tokenizer("a b")) != tokenizer_key(make_tokenizer("b a"))
    assert tokenizer_key(make_tokenizer("a b")) != tokenizer_key(make_tokenizer("a b", segments=False))


def test_an_error_about_an_example_is_placed_by_its_number_and_leaves_nothing_behind(tmp_path, tokenizer):
    texts = ["a"] * 1234 + ["bad"]
    with pytest.raises(UserError, match="example 1234: bad text"):
        run(CountingTask(), rows(*texts), tokenizer, tmp_path)
    assert [path.name for path in (tmp_path / "tokens").iterdir() if path.suffix != ".lock"] == []


def test_processes_at_once_share_the_work_and_the_result(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "ab\nc\n" * 5000)
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    program = Path(__file__).with_name("prepare_once.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": str(program.parents[2])},
        )
        for _ in range(NUM_PROCESSES)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * NUM_PROCESSES, outputs
    results = [out.split() for out, _ in outputs]
    # a + b + c = 97 + 98 + 99 = 294, 5000 times.
    assert [result[:2] for result in results] == [["10000", str(5000 * 294)]] * NUM_PROCESSES
    # One of them tokenised.
    assert sorted(result[2] for result in results) == ["0", "1"]
    kept = [path.suffix for path in (tmp_path / "tokens").iterdir() if path.suffix != ".lock"]
    assert kept == [".arrow"]
    assert len(list((tmp_path / "cache" / "mtl" / "files").glob("*.arrow"))) == 1


def test_many_rows_become_arrays_without_a_loop_over_tokens(tmp_path, tokenizer):
    """400,000 cached rows open within a few seconds (a Python loop over their 12 million tokens would take longer)."""
    import time

    import pyarrow as pa

    from mtl_cli.data.tokenised import _to_split

    num_rows, length = 400_000, 30
    starts = pa.array(np.arange(0, (num_rows + 1) * length, length, dtype=np.int32))
    tokens = pa.ListArray.from_arrays(starts, pa.array(np.arange(num_rows * length, dtype=np.int32)))
    table = pa.table({"input_ids": tokens, "labels": np.arange(num_rows), "example": np.arange(num_rows)})
    begin = time.process_time()
    split = _to_split(table, num_rows)
    assert time.process_time() - begin < 3
    assert split.input_ids[-1] == num_rows * length - 1
