"""What AdamW does, in the steps that do not touch it, to a row of a parameter, all at once.

Without a gradient the moments shrink, m_k = beta1^k m and v_k = beta2^k v, and the row goes on to move. Behind step s,
with the rates lr_i of the steps and the weight decay w, n steps come to:

    p_n = D(s, s+n) p - m sum_{k=1..n} c_k / (x_k sqrt(v) + eps)
    D(a, b) = prod_{i=a+1..b} (1 - lr_i w)
    c_k = lr_{s+k} beta1^k / (1 - beta1^{s+k}) D(s+k, s+n)
    x_k = sqrt(beta2^k / (1 - beta2^{s+k}))

m, v and p differ between the numbers of a row; c and x do not. The sum is one over the points x_k with weights c_k of
a function that is smooth in x, and Gauss's rule for these points and weights gives it by 4 to 8 nodes in place of
hundreds of points (Golub and Welsch, Math. Comp., 1969): exactly for polynomials of degree 2 Q - 1. A rule is taken
where it gives the sum at eps = 0, the least smooth one, to 5e-8: to the rounding of what is added up in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Tried one after the other; what no rule gives is summed point by point (the first steps of a run).
_NUM_NODES = (4, 8)
_TOLERANCE = 5e-8
# What is left of the sum when it is cut off.
_REMAINDER = 1e-8
_TINY = 1e-300


@dataclass(frozen=True)
class Missed:
    """What rows missed since the step that they are up to date with, by that step; S such steps, Q nodes.

    Attributes:
        places: these steps among those that were asked for, int64 (S,).
        decay_S: D.
        nodes_SQ: values of x.
        weights_SQ: what stands for c.
        keep_first_S: beta1^n.
        keep_second_S: beta2^n.
    """

    places: np.ndarray
    decay_S: np.ndarray
    nodes_SQ: np.ndarray
    weights_SQ: np.ndarray
    keep_first_S: np.ndarray
    keep_second_S: np.ndarray


class RateHistory:
    """The learning rates of the steps that some row has missed.

    Args:
        beta1: decay of the first moment, below the root of `beta2` (else the moves of a row without a gradient grow).
        beta2: of the second.
        weight_decay: w.
        first: the step behind which the history begins.
        rates: of the steps from then on.
    """

    def __init__(self, beta1: float, beta2: float, weight_decay: float, first: int, rates: np.ndarray) -> None:
        self.beta1, self.beta2, self.weight_decay = beta1, beta2, weight_decay
        self.first, self.step = first, first
        ratio = beta1 / math.sqrt(beta2)
        # The terms of the sum shrink by this ratio.
        self._num_summed = 1 if ratio == 0 else max(1, math.ceil(math.log(_REMAINDER) / math.log(ratio)))
        # By place of a step: its rate; rate / (1 - beta1^i); 1 / (1 - beta2^i); log D(first, i), from i = first on.
        self._of_steps = np.zeros((4, 64))
        for rate in rates:
            self.append(float(rate))

    @property
    def rates(self) -> np.ndarray:
        """The rates of the steps `first` + 1 to `step`, float64."""
        return self._of_steps[0, : self.step - self.first]

    def append(self, rate: float) -> None:
        """Take in the rate of the next step."""
        place = self.step - self.first
        if place + 1 == self._of_steps.shape[1]:
            self._of_steps = np.concatenate((self._of_steps, np.zeros_like(self._of_steps)), axis=1)
        self.step += 1
        corrected, widened = rate / (1 - self.beta1**self.step), 1 / (1 - self.beta2**self.step)
        self._of_steps[:3, place] = rate, corrected, widened
        self._of_steps[3, place + 1] = self._of_steps[3, place] + math.log1p(-rate * self.weight_decay)

    def missed(self, since_S: np.ndarray) -> list[Missed]:
        """Say what rows missed that are up to date with these steps, int64 (S,), each below `step`.

        Returns:
            A part for each number of nodes; each of the S is in one of them.
        """
        counts_S = self.step - since_S
        k_K = np.arange(1, min(int(counts_S.max()), self._num_summed) + 1)
        place_S1 = (since_S - self.first)[:, None]
        last_place = self.step - self.first
        place_SK = np.minimum(place_S1 + k_K - 1, last_place - 1)
        _, corrected, widened, log_decay = self._of_steps
        left_SK = np.exp(log_decay[last_place] - log_decay[place_SK + 1])
        c_SK = corrected[place_SK] * self.beta1**k_K * left_SK * (k_K <= counts_S[:, None])
        x_SK = np.sqrt(self.beta2**k_K * widened[place_SK])
        decay_S = np.exp(log_decay[last_place] - log_decay[place_S1[:, 0]])
        keep_first_S, keep_second_S = self.beta1**counts_S, self.beta2**counts_S

        def part(at: np.ndarray, nodes: np.ndarray, weights: np.ndarray) -> Missed:
            return Missed(at, decay_S[at], nodes, weights, keep_first_S[at], keep_second_S[at])

        found, left = [], np.arange(len(since_S))
        for num_nodes in _NUM_NODES:
            if len(left) == 0 or len(k_K) <= num_nodes:
                break
            nodes, weights = gauss_rule(x_SK[left], c_SK[left], num_nodes)
            exact = (c_SK[left] / x_SK[left]).sum(1)
            good = np.abs((weights / nodes).sum(1) - exact) <= _TOLERANCE * exact
            if good.any():
                found.append(part(left[good], nodes[good], weights[good]))
            left = left[~good]
        if len(left):
            found.append(part(left, x_SK[left], c_SK[left]))
        return found


def gauss_rule(x_SK: np.ndarray, c_SK: np.ndarray, num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of Gauss's rule for sums over points x with weights c >= 0, (S, Q) each.

    By Stieltjes' procedure, which builds the polynomials that are orthogonal under these weights; their three-term
    recurrence is a symmetric tridiagonal matrix, its eigenvalues are the nodes.
    """
    total_S1 = c_SK.sum(1, keepdims=True)
    share_SK = c_SK / np.maximum(total_S1, _TINY)
    matrix_SQQ = np.zeros((len(x_SK), num_nodes, num_nodes))
    before_SK, now_SK, beside_S1 = np.zeros_like(x_SK), np.ones_like(x_SK), np.zeros_like(total_S1)
    for q in range(num_nodes):
        weighted_SK = share_SK * now_SK
        matrix_SQQ[:, q, q] = centre_S = np.einsum("sk,sk,sk->s", weighted_SK, now_SK, x_SK)
        if q + 1 == num_nodes:
            break
        next_SK = (x_SK - centre_S[:, None]) * now_SK - beside_S1 * before_SK
        beside_S1 = np.sqrt(np.einsum("sk,sk,sk->s", share_SK, next_SK, next_SK))[:, None]
        # Fewer different points than nodes: the rest are worth nothing.
        beside_S1 = np.where(beside_S1 > 1e-10 * x_SK.max(1, keepdims=True), beside_S1, 0.0)
        matrix_SQQ[:, q, q + 1] = matrix_SQQ[:, q + 1, q] = beside_S1[:, 0]
        before_SK, now_SK = now_SK, np.where(beside_S1 > 0, next_SK, 0.0) / np.maximum(beside_S1, _TINY)
    nodes_SQ, vectors_SQQ = np.linalg.eigh(matrix_SQQ)
    return np.maximum(nodes_SQ, _TINY), total_S1 * vectors_SQQ[:, 0, :] ** 2
