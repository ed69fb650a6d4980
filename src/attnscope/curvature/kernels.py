"""Only kernels that can be differentiated twice, in full precision; the old choice is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from attnscope.curvature.cross_entropy import LeanCrossEntropy
from attnscope.errors import CaseError


class _FullPrecision(TorchFunctionMode):
    """Switches autocast off for every operation, also where the model itself switches it on."""

    def __init__(self, devices: Iterable[str]) -> None:
        super().__init__()
        self.devices = tuple(devices)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        active = [device for device in self.devices if torch.is_autocast_enabled(device)]
        if not active:
            return func(*args, **(kwargs or {}))
        with ExitStack() as stack:
            for device in active:
                stack.enter_context(torch.autocast(device, enabled=False))
            return func(*args, **(kwargs or {}))


@contextmanager
def twice_differentiable(
    model: nn.Module, dtype: torch.dtype, *, autocast_allowed: bool = False
) -> Iterator[None]:
    """Chooses kernels that have a double backward.

    Attention runs in the math backend, recurrent layers without cuDNN (and LSTM without oneDNN), the
    transformer fast path, `torch.compile`, autocast and inference mode are off, and TF32 is not used. Cross-entropy
    has its derivatives written down, which saves memory. The
    default dtype is the probe's, because a model that makes tensors in `forward` (an initial state, say)
    makes them in the default dtype.

    Args:
        model: whose devices and layers decide what has to be switched.
        dtype: of the probe.
        autocast_allowed: leaves the autocast alone that is entered inside this context.
    """
    before = torch.get_default_dtype()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    precision = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False, allow_tf32=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        devices = {"cpu", *(parameter.device.type for parameter in model.parameters())} - {"meta"}
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        if not autocast_allowed:
            stack.enter_context(_FullPrecision(devices))
        if any(isinstance(module, nn.LSTM) for module in model.modules()):
            # oneDNN's LSTM has a backward but no double backward; other layers are faster with oneDNN.
            set_flags: Callable[[bool], tuple[bool, ...]] = torch.backends.mkldnn.set_flags
            stack.callback(set_flags, set_flags(False)[0])
        stack.enter_context(LeanCrossEntropy())
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            torch.set_float32_matmul_precision("highest")
            torch.set_default_dtype(dtype)
            yield
        finally:
            torch.set_default_dtype(before)
            torch.set_float32_matmul_precision(precision)
            torch.backends.mha.set_fastpath_enabled(fast_path)


def refuse_cut_graphs(loss: Tensor, gradients: Iterable[Tensor]) -> None:
    """Refuses a gradient whose graph is cut by a function that can be differentiated once only.

    Autograd would not complain: the cut path counts as if it did not exist, and the product is wrong.

    Raises:
        CaseError: names the user's autograd functions.
    """
    starts = [gradient.grad_fn for gradient in gradients]
    if not any(node.name() == "torch::autograd::Error" for node in _nodes(starts)):
        return
    own = [
        type(node).__name__.removesuffix("Backward")
        for node in _nodes([loss.grad_fn])
        if isinstance(node, torch.autograd.function.BackwardCFunction)
    ]
    names = ", ".join(dict.fromkeys(own)) or "a custom autograd function"
    raise CaseError(
        f"{names} cannot be differentiated twice: its backward is marked once_differentiable. Replace it by "
        "plain operations"
    )


def _nodes(starts: Iterable[Any]) -> Iterator[Any]:
    seen: set[Any] = set()
    waiting = [node for node in starts if node is not None]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting += [inner for inner, _ in node.next_functions if inner is not None]
