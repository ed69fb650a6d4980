"""Products with the Hessian as other libraries make them, on the same model, batch and parameters.

hessian-eigenthings is a dependency of the tests. PyHessian and curvlinops pull packages that do not go with this
environment, so they are looked for in a folder of their own and left out when they are not there:

    pip install --no-deps --target FOLDER PyHessian==0.1 curvlinops-for-pytorch==3.0.1 backpack-for-pytorch \
        unfoldNd einops einconv linear_operator opt_einsum jaxtyping wadler_lindig tqdm mpmath
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from curvature_setup import Setup, loss
from torch import Tensor, nn

Product = Callable[[], list[Tensor]]


def peers(setup: Setup, vector: list[Tensor], folder: str) -> (
    tuple[dict[str, Product], dict[str, str], dict[str, list[Tensor]]]
):
    """Name -> one product with `vector`, name -> why a peer was left out, and name -> what the product is."""
    if folder:
        sys.path.append(folder)
    made = {"naive double backward": naive, "finite difference": finite_difference,
            "hessian-eigenthings": eigenthings, "PyHessian": pyhessian, "PyHessian, one batch": pyhessian_kept,
            "curvlinops": curvlinops}
    found: dict[str, Product] = {}
    missing: dict[str, str] = {}
    given: dict[str, list[Tensor]] = {}
    for name, make in made.items():
        try:
            product = make(setup, vector)
            given[name] = product()
            found[name] = product
        except ImportError as error:
            missing[name] = f"not installed here ({error})"
        except Exception as error:  # what a peer cannot do is a result
            missing[name] = f"{type(error).__name__}: {str(error)[:120]}"
    return found, missing, given


def naive(setup: Setup, vector: list[Tensor]) -> Product:
    """Double backward, the graph made anew each time."""

    def product() -> list[Tensor]:
        parameters = setup.parameters
        gradients = torch.autograd.grad(loss(setup.model, setup.batch), parameters, create_graph=True)
        return list(torch.autograd.grad(gradients, parameters, vector))

    return product


def finite_difference(setup: Setup, vector: list[Tensor]) -> Product:
    """Two gradients a small step apart; the step is a thousandth of the parameters' length."""

    def product() -> list[Tensor]:
        parameters = setup.parameters
        size = torch.stack([p.norm() for p in parameters]).norm() / torch.stack([v.norm() for v in vector]).norm()
        step = 1e-3 * float(size)
        kept = [p.data for p in parameters]
        # New tensors under the leaves, since a peer's kept graph holds the old ones.
        for p, k, v in zip(parameters, kept, vector, strict=True):
            p.data = k + step * v
        above = setup.gradient()
        for p, k, v in zip(parameters, kept, vector, strict=True):
            p.data = k - step * v
        below = setup.gradient()
        for p, k in zip(parameters, kept, strict=True):
            p.data = k
        return [(a - b) / (2 * step) for a, b in zip(above, below, strict=True)]

    return product


def eigenthings(setup: Setup, vector: list[Tensor]) -> Product:
    """Its operator, restricted to the same parameters."""
    import hessian_eigenthings

    wanted = {id(parameter) for parameter in setup.parameters}
    operator = hessian_eigenthings.HessianOperator(
        setup.model, [setup.batch], loss, param_filter=lambda name, parameter: id(parameter) in wanted
    )
    flat = torch.cat([piece.reshape(-1) for piece in vector])
    sizes = [piece.numel() for piece in vector]
    return lambda: list(operator.matvec(flat).split(sizes))


def pyhessian(setup: Setup, vector: list[Tensor]) -> Product:
    """Its product over a data loader, which rebuilds the graph; its class differentiates all that is trainable."""
    from pyhessian import hessian

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = setup.model

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inner(input_ids=tokens).logits

    inside = {id(parameter) for parameter in setup.parameters}
    before = {name: p.requires_grad for name, p in setup.model.named_parameters()}

    def product() -> list[Tensor]:
        try:
            for p in setup.model.parameters():
                p.requires_grad_(id(p) in inside)
            data = [(setup.batch["input_ids"], setup.batch["labels"])]
            operator = hessian(Logits(), nn.CrossEntropyLoss(), dataloader=data, cuda=False)
            operator.full_dataset = True
            return list(operator.dataloader_hv_product([v.clone() for v in vector])[1])
        finally:
            for name, p in setup.model.named_parameters():
                p.requires_grad_(before[name])
            setup.model.zero_grad(set_to_none=True)

    return product


def pyhessian_kept(setup: Setup, vector: list[Tensor]) -> Product:
    """Its other mode: one batch, whose graph is kept."""
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = setup.model

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inner(input_ids=tokens).logits

    inside = {id(parameter) for parameter in setup.parameters}
    before = {name: p.requires_grad for name, p in setup.model.named_parameters()}
    try:
        for p in setup.model.parameters():
            p.requires_grad_(id(p) in inside)
        data = setup.batch["input_ids"], setup.batch["labels"]
        operator = hessian(Logits(), nn.CrossEntropyLoss(), data=data, cuda=False)
    finally:
        for name, p in setup.model.named_parameters():
            p.requires_grad_(before[name])
            p.grad = None
    return lambda: list(hessian_vector_product(operator.gradsH, operator.params, vector))


def curvlinops(setup: Setup, vector: list[Tensor]) -> Product:
    """Its linear operator; only weights of projections are differentiated, where it is right."""
    from curvlinops import HessianLinearOperator

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = setup.model

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inner(input_ids=tokens).logits

    operator = HessianLinearOperator(
        Logits(), nn.CrossEntropyLoss(), setup.parameters, [(setup.batch["input_ids"], setup.batch["labels"])],
        check_deterministic=False,
    )
    return lambda: list(operator @ vector)


def versions() -> dict[str, str]:
    """Of the peers that are there."""
    found: dict[str, Any] = {}
    for name in ("hessian-eigenthings", "PyHessian", "curvlinops-for-pytorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
