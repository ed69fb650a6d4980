"""One-layer softmax attention with a fixed head: factored (K, Q), merged W, or diagonal factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnscope.errors import CaseError

FORMS = ("factored", "merged", "diagonal")


class SoftmaxAttention(nn.Module):
    """Phi(X, z) = v^T X^T softmax(X W z), W = K Q^T (Sheen et al., arXiv:2403.08699, section 2).

    There is no 1/sqrt(d) scale, no value and no output matrix, and one query vector per sample. The head v
    is fixed; the loss is the mean of exp(-y Phi).

    Args:
        d: width of tokens and queries.
        form: `factored` (K and Q, `[d, d_e]`), `merged` (W, `[d, d]`), `diagonal` (two vectors `[d]`).
        d_e: width of the factors; `d` when None.
        seed, scale: of the Gaussian start, with standard deviation scale / sqrt(d).
    """

    def __init__(self, d: int, form: str = "factored", *, d_e: int | None = None, seed: int = 0, scale: float = 0.03):
        super().__init__()
        if form not in FORMS:
            raise CaseError(f"form must be one of {', '.join(FORMS)}, found {form!r}")
        width = d if d_e is None else d_e
        if width < 1:
            raise CaseError(f"d_e must be at least 1, found {width}: factors without columns represent only W = 0")
        self.form = form
        draw = torch.Generator().manual_seed(seed)
        shape = {"factored": (d, width), "merged": (d, d), "diagonal": (d,)}[form]
        count = 1 if form == "merged" else 2
        factors = [nn.Parameter(torch.randn(shape, generator=draw) * scale / d**0.5) for _ in range(count)]
        self.key = factors[0]
        self.query = factors[1] if len(factors) > 1 else None

    def weights(self) -> Tensor:
        """W, `[d, d]`."""
        if self.query is None:
            return self.key
        if self.form == "diagonal":
            return torch.diag(self.key * self.query)
        return self.key @ self.query.T

    def forward(self, tokens: Tensor, queries: Tensor, head: Tensor) -> Tensor:
        """Phi of `tokens` `[batch, token, d]` and `queries` `[batch, d]` under the head `[d]`: `[batch]`."""
        scores = torch.einsum("bld,de,be->bl", tokens, self.weights(), queries)
        context = torch.einsum("bl,bld->bd", scores.softmax(dim=-1), tokens)
        return context @ head
