"""An order in which things that are alike stand together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def by_similarity(values: npt.NDArray[np.float64]) -> list[int]:
    """Rows (and columns) of a square matrix of likeness, ordered by the Fiedler vector of its graph.

    The Fiedler vector is the second eigenvector of the graph Laplacian: sorting by it puts strongly joined
    rows side by side (Fiedler 1973; Atkins, Boman and Hendrickson 1998).

    Args:
        values: square; the absolute value is the strength of a pair, what is not finite counts as none.

    Returns:
        Row numbers; the model's own order when nothing joins anything.
    """
    weight = np.abs(np.where(np.isfinite(values), values, 0.0))
    weight = (weight + weight.T) / 2
    np.fill_diagonal(weight, 0.0)
    if len(weight) < 3 or not weight.any():
        return list(range(len(weight)))
    degree = weight.sum(1)
    laplacian = np.diag(degree) - weight
    _, vectors = np.linalg.eigh(laplacian / max(float(degree.max()), 1e-300))
    fiedler = vectors[:, 1]
    # An eigenvector's sign is arbitrary: the model's first row comes first.
    rising = fiedler if fiedler[0] <= np.median(fiedler) else -fiedler
    return [int(row) for row in np.argsort(rising, kind="stable")]
