"""The weights of an attention as the anatomy cuts them, to be rewritten in place."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Attention, Form, ParameterSlice, Role
from attnscope.case import Case
from attnscope.faults import FaultError
from attnscope.faults._parameters import views

PRODUCTS = (Form.DOT_PRODUCT, Form.FUSED)


def attentions_of(anatomy: Anatomy, *forms: Form) -> tuple[Attention, ...]:
    """All attentions, which must have one of these forms.

    Raises:
        FaultError: there is none, or one has another form.
    """
    if not anatomy.attentions:
        raise FaultError("the model has no attention")
    for attention in anatomy.attentions:
        if attention.form not in forms:
            raise FaultError(f"{attention.name} is {attention.form.value} attention, for which this changes something")
    return anatomy.attentions


def projection(anatomy: Anatomy, attention: Attention, role: Role) -> tuple[ParameterSlice, ...]:
    """The weight, then the bias, of a projection that one attention has for itself.

    Raises:
        FaultError: it has none, or shares it.
    """
    name = dict(attention.blocks).get(role, "")
    if not name:
        raise FaultError(f"{attention.name} has no {role.value} projection")
    block = anatomy.block(name)
    if block.shared_by:
        raise FaultError(f"{name} serves several layers")
    return block.slices


def heads(attention: Attention, role: Role) -> tuple[tuple[ParameterSlice, ...], ...]:
    """The slices of each head of a projection, all of them along one dimension.

    Raises:
        FaultError: the heads could not be told apart, or there is one only, or keys serve several of them.
    """
    found = dict(attention.head_slices).get(role, ())
    if attention.n_heads < 2:
        raise FaultError(f"{attention.name} has one head")
    if len(found) != attention.n_heads or any(piece.dim is None for head in found for piece in head):
        raise FaultError(f"the heads of {attention.name} are not told apart in its {role.value} projection")
    return found


def scale(case: Case, slices: tuple[ParameterSlice, ...], factor: float) -> None:
    """Multiplies slices in place."""
    for part in views(case.model, slices):
        part.mul_(factor)


def states(case: Case) -> Iterator[dict[str, Tensor]]:
    """The parameters by name; then each kind of number that the optimiser keeps for every parameter, in their shape."""
    named = dict(case.model.named_parameters())
    yield {name: parameter.detach() for name, parameter in named.items()}
    if case.optimizer is None:
        return
    kept = {name: case.optimizer.state.get(parameter, {}) for name, parameter in named.items()}
    for key in dict.fromkeys(key for each in kept.values() for key in each):
        found = {name: each[key] for name, each in kept.items() if isinstance(each.get(key), Tensor)}
        if found and all(tensor.shape == named[name].shape for name, tensor in found.items()):
            yield found


def pieces(tensors: dict[str, Tensor], slices: tuple[ParameterSlice, ...]) -> list[Tensor]:
    """Writable views of slices in any set of tensors that has the parameters' shapes."""
    found = []
    for piece in slices:
        whole = tensors[piece.parameter]
        ranges = piece.ranges if piece.dim is not None else ((0, len(whole)),)
        found += [whole.narrow(piece.dim or 0, start, stop - start) for start, stop in ranges]
    return found
