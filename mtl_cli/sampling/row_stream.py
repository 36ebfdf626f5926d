"""The rows of one task, for ever, in shuffled passes of which each holds every row once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtl_cli.sampling.keyed_generator import keyed_generator
from mtl_cli.types import UserError


class RowStream:
    """Gives out the rows of a task's training split: pass after pass, each in an order of its own.

    The order of a pass depends on the seed, the task's name, the number of the pass and this class's arguments alone:
    other tasks of the run do not change it, and the state is two numbers.

    Bucketing: a pass is a random permutation. Windows of `bucket_window` batches are sorted by length (equal lengths
    stay in random order) and cut into batches, and all batches of the pass are shuffled. Rows that fill no batch are
    set aside before, so that they are a random choice, and come last.

    Args:
        lengths: tokens of each row, shape (R,).
        task: the task's name.
        seed: the seed of the run.
        batch_size: most rows of a batch.
        max_tokens: most tokens of a batch; a longer row is a batch of its own. None: no limit.
        bucket_window: batches a window; 0: no bucketing.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        task: str,
        seed: int,
        batch_size: int,
        max_tokens: int | None = None,
        bucket_window: int = 50,
    ) -> None:
        if len(lengths) == 0:
            raise UserError(f"tasks.{task}: no training rows. Give it training data or leave it out.")
        self.task = task
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._seed = seed
        self._batch_size = batch_size
        self._max_tokens = max_tokens
        self._bucket_window = bucket_window
        self._start_pass(0)

    def __len__(self) -> int:
        """Rows in a pass."""
        return len(self._lengths)

    @property
    def batches_in_pass(self) -> int:
        """Batches of the running pass. Without `max_tokens`, the same in every pass."""
        return len(self._batch_ends)

    @property
    def passes(self) -> float:
        """Passes over the task so far, with the part of the running one."""
        return self._pass + self._position / len(self)

    def next_batch(self) -> np.ndarray:
        """Return the next batch as the pass was cut (what is left of it, where `take` has begun it)."""
        end = self._batch_ends[np.searchsorted(self._batch_ends, self._position, side="right")]
        return self._advance(int(end))

    def take(self, num_rows: int, max_tokens: int | None = None) -> np.ndarray:
        """Return the next rows of this pass: so many, or fewer where the tokens or the pass come to their end.

        At least one row comes, however long.
        """
        end = min(self._position + num_rows, len(self))
        if max_tokens is not None:
            end = min(end, _token_end(self._token_ends, self._position, max_tokens))
        return self._advance(end)

    def fill(self, num_rows: int) -> np.ndarray:
        """Return the next rows, also beyond the end of the pass: so many, or fewer within the stream's `max_tokens`."""
        rows = self.take(num_rows, self._max_tokens)
        while len(rows) < num_rows and self._position == 0:  # the pass came to its end
            tokens_left = None if self._max_tokens is None else self._max_tokens - int(self._lengths[rows].sum())
            if tokens_left is not None and self._token_ends[1] > tokens_left:
                break
            rows = np.concatenate((rows, self.take(num_rows - len(rows), tokens_left)))
        return rows

    def state_dict(self) -> dict[str, int]:
        """Return the place in the stream, as JSON takes it."""
        return {"pass": self._pass, "position": self._position, "num_rows": len(self)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a `state_dict`; raises UserError where it was written with other data."""
        if state["num_rows"] != len(self):
            raise UserError(
                f"tasks.{self.task}: {len(self)} training rows found, {state['num_rows']} in the checkpoint. "
                "Resume with the data and the settings of that run, or start a new one."
            )
        self._start_pass(state["pass"])
        self._position = state["position"]

    def _advance(self, end: int) -> np.ndarray:
        rows = self._order[self._position : end].copy()
        self._position = end
        if end == len(self):
            self._start_pass(self._pass + 1)
        return rows

    def _start_pass(self, number: int) -> None:
        generator = keyed_generator(self._seed, "rows", self.task, number)
        order = generator.permutation(len(self))
        head, rest = np.split(order, [len(self) - len(self) % self._batch_size])
        if self._bucket_window:
            windows = np.arange(len(head)) // (self._bucket_window * self._batch_size)
            batches = self._cut(head[np.lexsort((self._lengths[head], windows))])
            batches = [batches[index] for index in generator.permutation(len(batches))]
        else:
            batches = self._cut(head)
        batches += self._cut(rest)
        self._order = np.concatenate(batches)
        self._batch_ends = np.cumsum([len(batch) for batch in batches])
        self._token_ends = np.concatenate(([0], np.cumsum(self._lengths[self._order])))
        self._pass, self._position = number, 0

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        """Cut rows into batches within both limits; no batch reaches over the end of a window."""
        token_ends = np.concatenate(([0], np.cumsum(self._lengths[rows])))
        window = self._bucket_window * self._batch_size or len(rows)
        batches, start = [], 0
        while start < len(rows):
            end = min(start + self._batch_size, (start // window + 1) * window, len(rows))
            if self._max_tokens is not None:
                end = min(end, _token_end(token_ends, start, self._max_tokens))
            batches.append(rows[start:end])
            start = end
        return batches


def _token_end(token_ends: np.ndarray, start: int, max_tokens: int) -> int:
    """Return the end of the most rows from `start` on that hold `max_tokens` at most, or of one row if that has more.

    token_ends: tokens before each row and, last, of all rows.
    """
    end = np.searchsorted(token_ends, token_ends[start] + max_tokens, side="right") - 1
    return max(int(end), start + 1)
