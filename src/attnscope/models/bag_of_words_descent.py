"""Full-batch gradient descent on `BagOfWordsAttention` in closed algebra: the same numbers as autograd, faster.

Sentences enter as a sparse matrix of counts C. With e = exp(scores), Z = C e:

    context = C (e * E) / Z,    G = dloss/dcontext,    T = C^T (G / Z)
    dloss/dE = e * T,           dloss/ds = e * (rowsum(E * T) - C^T (rowsum(context * G) / Z))

and a fixed query turns a step of the keys into a step of the scores, ds = -lr |q|^2 dloss/ds. When the
embeddings start at zero and the head is linear (logits = context W), E = X W_0^T and W = W_0 Y for small
X `[word, class]` and Y `[class, class]`, and nothing of the embedding's width is ever formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from torch import nn

from attnscope.errors import CaseError
from attnscope.models.bag_of_words_attention import BagOfWordsAttention

Array = npt.NDArray[np.float64]


@dataclass
class Gradients:
    """Of one evaluation; names as in `Descent`."""

    scores: Array
    table: Array
    head: list[Array]
    loss: float


class Descent:
    """The state of one training run: scores, embeddings and head, in float64.

    Args:
        model: where to start, and what is frozen.
        counts: `[sentence, word]`.
        labels: `[sentence]`.
        lr: step size.
        lr_key: step size of the keys (and the query) when it differs from `lr`.
        from_zero: start the embeddings at exactly zero and use the small form (linear heads only).
    """

    def __init__(
        self,
        model: BagOfWordsAttention,
        counts: sparse.csr_matrix,
        labels: npt.NDArray[np.int64],
        *,
        lr: float = 0.1,
        lr_key: float | None = None,
        from_zero: bool = False,
    ) -> None:
        if from_zero and model.head_kind == "TL":
            raise CaseError("the small form needs a linear head (FC or TC)")
        self.kind, self.lr, self.lr_key, self.from_zero = (
            model.head_kind,
            lr,
            lr if lr_key is None else lr_key,
            from_zero,
        )
        self.counts, self.counts_T = counts, counts.T.tocsr()
        self.labels = labels
        self.query = _numpy(model.query)
        self.keys = _numpy(model.key.weight)
        self.scores: Array = self.keys @ self.query
        self.train_keys = model.key.weight.requires_grad
        self.train_table = model.embedding.weight.requires_grad
        self.train_query = model.query.requires_grad
        self.head = _head_arrays(model.head)
        self.start = _numpy(model.embedding.weight)
        if from_zero:
            self.gram = self.head[0].T @ self.head[0]
            self.basis = self.head[0].copy()
            self.head = [np.eye(self.gram.shape[0])]
            self.start = np.zeros_like(self.start)
            self.table = np.zeros((counts.shape[1], self.gram.shape[0]))
        else:
            self.table = self.start.copy()

    def _vectors(self) -> Array:
        """What the pattern averages: logits contributed per word in the small form, else embeddings."""
        return self.table @ self.gram @ self.head[0] if self.from_zero else self.table

    def logits(self, counts: sparse.csr_matrix) -> Array:
        """Logits `[sentence, class]` for any sentences."""
        context, _ = self._context(counts, self._vectors())
        return self._forward(context)[0]

    def loss(self, counts: sparse.csr_matrix, labels: npt.NDArray[np.int64]) -> float:
        """Mean cross-entropy."""
        return _cross_entropy(self.logits(counts), labels)[0]

    def accuracy(self, counts: sparse.csr_matrix, labels: npt.NDArray[np.int64]) -> float:
        """Share of sentences whose largest logit is their label."""
        return float((self.logits(counts).argmax(1) == labels).mean())

    def attention(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """`[sentence, word]`: the share of each word (all its occurrences together)."""
        weights = np.exp(self.scores)
        return sparse.diags(1 / (counts @ weights)) @ counts @ sparse.diags(weights)

    def norms(self) -> Array:
        """`[word]`: the norm of each word's embedding."""
        if not self.from_zero:
            return np.asarray(np.linalg.norm(self.table, axis=1))
        return np.asarray(np.sqrt(np.einsum("wn,nm,wm->w", self.table, self.gram, self.table).clip(min=0)))

    def embeddings(self) -> Array:
        """`[word, d_embedding]`."""
        return self.table @ self.basis.T if self.from_zero else self.table

    def gradients(self) -> Gradients:
        """The loss and its gradients at this point."""
        vectors = self._vectors()
        weights = np.exp(self.scores)
        context, total = self._context(self.counts, vectors)
        logits, hidden = self._forward(context)
        loss, slope = _cross_entropy(logits, self.labels)
        context_slope, head = self._backward(context, hidden, slope)
        stacked = np.column_stack([context_slope, np.einsum("sd,sd->s", context, context_slope)]) / total[:, None]
        pulled = self.counts_T @ stacked
        table = weights[:, None] * pulled[:, :-1]
        scores = np.einsum("wd,wd->w", vectors, table) - weights * pulled[:, -1]
        if self.from_zero:
            head = [self.table.T @ table]
            table = table @ self.head[0].T
        return Gradients(scores, table, head, loss)

    def step(self) -> float:
        """One step of gradient descent; the loss before it."""
        found = self.gradients()
        if self.train_query:
            query_step = self.keys.T @ found.scores
            if self.train_keys:
                self.keys -= self.lr_key * np.outer(found.scores, self.query)
            self.query = self.query - self.lr_key * query_step
            self.scores = self.keys @ self.query
        elif self.train_keys:
            self.scores = self.scores - self.lr_key * float(self.query @ self.query) * found.scores
        if self.train_table:
            self.table -= self.lr * found.table
        if self.kind != "FC":
            for value, slope in zip(self.head, found.head, strict=True):
                value -= self.lr * slope
        return found.loss

    def _context(self, counts: sparse.csr_matrix, vectors: Array) -> tuple[Array, Array]:
        weights = np.exp(self.scores)
        summed = counts @ np.column_stack([weights[:, None] * vectors, weights])
        total = summed[:, -1]
        return summed[:, :-1] / total[:, None], total

    def _forward(self, context: Array) -> tuple[Array, Array]:
        if self.from_zero:
            return context, context
        if self.kind != "TL":
            return context @ self.head[0], context
        hidden = context @ self.head[0] + self.head[1]
        return hidden.clip(min=0) @ self.head[2] + self.head[3], hidden

    def _backward(self, context: Array, hidden: Array, slope: Array) -> tuple[Array, list[Array]]:
        if self.from_zero:
            return slope, []
        if self.kind != "TL":
            return slope @ self.head[0].T, [context.T @ slope]
        active = hidden.clip(min=0)
        inner = (slope @ self.head[2].T) * (hidden > 0)
        return inner @ self.head[0].T, [context.T @ inner, inner.sum(0), active.T @ slope, slope.sum(0)]


def _numpy(tensor: object) -> Array:
    return tensor.detach().double().numpy().copy()  # type: ignore[attr-defined, no-any-return]


def _head_arrays(head: nn.Module) -> list[Array]:
    """Weights as `[in, out]` and biases, in order."""
    if isinstance(head, nn.Linear):
        return [_numpy(head.weight).T.copy()]
    return [
        array
        for layer in head.children()
        if isinstance(layer, nn.Linear)
        for array in (_numpy(layer.weight).T.copy(), _numpy(layer.bias))
    ]


def _cross_entropy(logits: Array, labels: npt.NDArray[np.int64]) -> tuple[float, Array]:
    """Mean cross-entropy and its gradient with respect to the logits."""
    shifted = logits - logits.max(1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(1)
    rows = np.arange(len(labels))
    loss = float((np.log(total) - shifted[rows, labels]).mean())
    slope = exponentials / total[:, None]
    slope[rows, labels] -= 1
    return loss, slope / len(labels)
