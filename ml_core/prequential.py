"""Test, then learn: scores of a model that learns from each outcome when it is known, and never before.

    row p           scored with what was learned from batches whose every label ends before its time
    |----- label of p -----|
                           from here on p is in a batch of matured rows; a full batch is learned from once

Rows mature in the order in which their labels end, each at the first time behind that end: until then another tick of
that very time may still change the label. A batch is full when its last row has matured. Between two such times the
model stands still, so that all rows there are scored at once. Shapes: N rows, B rows of a batch, T rows of a window, F
features, H horizons.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ml_core.contenders import predict_with
from ml_core.errors import InputError
from ml_core.learners.network import loss_of
from ml_core.learners.port import Task
from ml_core.model.graph import ScoringGraph
from ml_core.trainer.incremental import anchor
from ml_core.trainer.loop import clip_gradients
from ml_core.trainer.losses import TensorBatch, per_batch, weighted_mean
from ml_core.types import Float32, Float64, Int64


class OnlineLearner(Protocol):
    """A model that scores rows and learns from matured ones; rows go by their numbers in a data set."""

    def scores(self, chosen_B: Int64) -> Float64:
        """Return the scores (B, H) of rows; changes nothing."""
        ...

    def learn(self, chosen_B: Int64) -> None:
        """Learn from rows whose outcomes are known, oldest outcome first."""
        ...


def prequential(
    learner: OnlineLearner,
    rows_I: Int64,
    ts_ns_N: Int64,
    end_ns_N: Int64,
    *,
    batch: int,
    scored_from_ns: int | None = None,
) -> tuple[Int64, Float64]:
    """Return rows by time and what the learner said of each at its time.

    Args:
        learner: As it is at the start; afterwards it has learned from every batch that was full in time for a row.
        rows_I: Numbers of the rows to score and to learn from, in any order.
        ts_ns_N: Event times of all rows.
        end_ns_N: When the last label of each row ends; not before the row.
        batch: Matured rows that are learned from at once.
        scored_from_ns: Earlier rows are learned from and not scored; None: all are scored.

    Returns:
        Numbers of the rows that were scored, ascending by time, and their scores (rows, H).

    Raises:
        InputError: A label ends before its row, or there is no row to score. A retry will not help.
    """
    ts_ns_I, end_ns_I = ts_ns_N[rows_I], end_ns_N[rows_I]
    if (end_ns_I < ts_ns_I).any():
        raise InputError("a label ends before its row")
    order_I = np.argsort(ts_ns_I, kind="stable")
    if scored_from_ns is not None:
        order_I = order_I[np.searchsorted(ts_ns_I[order_I], scored_from_ns) :]
    if not len(order_I):
        raise InputError("no row to score")
    matured_I = np.argsort(end_ns_I, kind="stable")
    full = len(matured_I) // batch
    # the first row that each batch is learned for: it stands behind the end of the last label in the batch
    first_B = np.searchsorted(ts_ns_I[order_I], end_ns_I[matured_I[batch - 1 : full * batch : batch]], side="right")
    parts, done = [], 0
    for number, first in enumerate([*first_B.tolist(), len(order_I)]):
        if first > done:
            parts.append(learner.scores(rows_I[order_I[done:first]]))
            done = first
        if number < full and done < len(order_I):
            learner.learn(rows_I[matured_I[number * batch : (number + 1) * batch]])
    return rows_I[order_I], np.concatenate(parts)


class OnlineNetwork:
    """A network that takes one gradient step for each batch of matured rows and some older ones.

    The older ones are drawn from the last ``memory`` rows that it knows: a step on the newest alone follows noise. An
    anchor holds the weights near those it came with.
    """

    def __init__(
        self,
        graph: ScoringGraph,
        task: Task,
        *,
        learning_rate: float,
        strength: float = 0.0,
        memory: int = 0,
        known_I: Int64 | None = None,
    ) -> None:
        """Go on from the weights of ``graph``, which is changed.

        Args:
            graph: Trained, or as it was built.
            task: What ``graph`` is a model of; its seed is that of drawing older rows and of dropout.
            learning_rate: Of AdamW.
            strength: Of the anchor; 0: none.
            memory: Rows to draw older ones from, as many as a batch has; 0: none are drawn.
            known_I: Rows that ``graph`` has learned from, oldest first; None: it remembers none.
        """
        self._graph, self._dataset = graph, task.processed.dataset
        self._predict = predict_with(graph, task)
        self._loss = per_batch(loss_of(task, graph), graph)
        self._optimizer = torch.optim.AdamW(graph.parameters(), lr=learning_rate, weight_decay=0.0)
        self._penalty = anchor(graph, strength) if strength else None
        self._limit, self._memory = task.spec.train.gradient_limit, memory
        self._known_M: Int64 = np.empty(0, np.int64)
        if known_I is not None and memory:
            self._known_M = known_I[-memory:]
        self._rng = np.random.default_rng(task.seed)
        self._seed, self._steps = task.seed, 0

    def scores(self, chosen_B: Int64) -> Float64:
        """Return the scores (B, H)."""
        return self._predict(chosen_B)

    def learn(self, chosen_B: Int64) -> None:
        """Take one step.

        Raises:
            InputError: The loss is not finite; the weights stay as they were.
        """
        rows_B = chosen_B
        if self._memory and len(self._known_M):
            rows_B = np.concatenate([chosen_B, self._rng.choice(self._known_M, size=len(chosen_B))])
        dataset = self._dataset
        columns = (dataset.x_MF[dataset.idx_NT[rows_B]], dataset.y_NH[rows_B], dataset.weight_N[rows_B])
        batch = TensorBatch(*map(torch.from_numpy, columns))
        self._graph.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed + self._steps)
            loss = weighted_mean(self._loss(batch), batch.weight_B)
            if self._penalty is not None:
                loss = loss + self._penalty()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        if not np.isfinite(clip_gradients(list(self._graph.parameters()), self._limit)):
            raise InputError(f"step {self._steps} of the online network: the gradient is not finite")
        self._optimizer.step()
        self._steps += 1
        self._known_M = np.concatenate([self._known_M, chosen_B])[-self._memory :] if self._memory else self._known_M


class RowByRow:
    """A model of one row at a time, such as one of river, as an `OnlineLearner`."""

    def __init__(
        self,
        z_NF: Float32,
        y_N: npt.NDArray[np.floating],
        *,
        say: Callable[[Float32], float],
        hear: Callable[[Float32, float], None],
    ) -> None:
        """Score with ``say(z_F)`` and learn with ``hear(z_F, y)``; rows are scaled already."""
        self._z_NF, self._y_N, self._say, self._hear = z_NF, y_N, say, hear

    def scores(self, chosen_B: Int64) -> Float64:
        """Return the scores (B, 1)."""
        return np.array([[self._say(self._z_NF[row])] for row in chosen_B], dtype=np.float64).reshape(-1, 1)

    def learn(self, chosen_B: Int64) -> None:
        """Learn from one row after the other."""
        for row in chosen_B:
            self._hear(self._z_NF[row], float(self._y_N[row]))
