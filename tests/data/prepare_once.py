"""Reads and tokenises FOLDER/a.csv as soon as another process is ready to do the same; a program for test_tokenised."""

import os
import sys
import time
from pathlib import Path

import datasets

from mtl_cli.data import FileSource
from mtl_cli.data.tokenised import tokenise

NUM_PROCESSES = 2


class LetterTokenizer:
    """As much of a slow tokenizer of transformers as the cache's key asks for, without importing the package."""

    is_fast = False
    special_tokens_map: dict[str, str] = {}  # noqa: RUF012
    added_tokens_decoder: dict[int, str] = {}  # noqa: RUF012
    model_input_names = ("input_ids",)
    truncation_side = "right"

    def get_vocab(self):
        return {letter: ord(letter) for letter in "abc"}


class LetterTask:
    def __init__(self):
        self.num_calls = 0

    def encoding_settings(self):
        return {}

    def encode(self, examples, tokenizer, max_length, label_ids):
        self.num_calls += 1
        return {
            "input_ids": [[tokenizer.get_vocab()[letter] for letter in text] for text in examples["text"]],
            "example_offset": list(range(len(examples["text"]))),
        }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    datasets.disable_progress_bars()
    (folder / f"ready.{os.getpid()}").touch()
    while len(list(folder.glob("ready.*"))) < NUM_PROCESSES:
        time.sleep(0.01)
    rows = FileSource(train=str(folder / "a.csv")).load()["train"]
    task = LetterTask()
    split = tokenise(
        task,
        rows,
        LetterTokenizer(),
        None,
        None,
        key=rows._fingerprint,
        folder=folder / "tokens",
        place_error=lambda example, error: error,
    )
    print(len(split), int(split.input_ids.sum()), int(task.num_calls > 0))
