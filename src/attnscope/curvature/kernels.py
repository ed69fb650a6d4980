"""Only kernels that can be differentiated twice, in full precision; the old choice is put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Chooses kernels that have a double backward.

    Attention runs in the math backend, recurrent layers without cuDNN (and LSTM without oneDNN), the
    transformer fast path, `torch.compile`, autocast and inference mode are off, and TF32 is not used. The
    default dtype is the probe's, because a model that makes tensors in `forward` (an initial state, say)
    makes them in the default dtype.
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
        for device in {"cpu", *(parameter.device.type for parameter in model.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        if any(isinstance(module, nn.LSTM) for module in model.modules()):
            # oneDNN's LSTM has a backward but no double backward; other layers are faster with oneDNN.
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            torch.set_float32_matmul_precision("highest")
            torch.set_default_dtype(dtype)
            yield
        finally:
            torch.set_default_dtype(before)
            torch.set_float32_matmul_precision(precision)
            torch.backends.mha.set_fastpath_enabled(fast_path)
