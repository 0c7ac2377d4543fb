"""The Triton backend: the whole operator in one launch, and the whole backward in one more.

For a few sequences of more than 128 keys the same functions run in two and three launches.
Triton itself is imported when the backend first serves a call or says why it cannot.
"""

import os
import shutil
import sysconfig
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rka_fast import native
from rka_fast.ops import limits
from rka_fast.ops.arguments import Arguments

AMD = "gfx942"


class Triton:
    """float32, float16 and bfloat16, computed in float32; any mask; at most 1,024 keys."""

    name = "triton"
    checks_calls = False
    shares_draws = False

    def why_not(self, a: Arguments | None) -> list[str]:
        reasons = list(_machine_refusals(interpreted()))
        return reasons if a is None else reasons + refusals(a)

    def forward(self, a: Arguments) -> Tensor:
        from rka_fast.ops.triton import launch

        with _device(a):
            return launch.forward(a)

    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
        from rka_fast.ops.triton import launch

        with _device(a):
            return launch.backward(grad, needs, a)


def _device(a: Arguments):
    """Triton launches on the current device, whatever the tensors are on."""
    device = a.query.device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@native.constant
def interpreted() -> bool:
    """Triton's interpreter takes the place of a GPU (TRITON_INTERPRET=1) and serves the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@native.constant
def _machine_refusals(interpreted: bool) -> tuple[str, ...]:
    reasons = []
    try:
        import triton  # noqa: F401
    except ImportError as error:
        reasons.append(f"triton cannot be imported ({error}); pip install triton")
    if interpreted:
        return tuple(reasons)
    if not torch.cuda.is_available():
        return (*reasons, "there is no CUDA device (TRITON_INTERPRET=1 runs it on the CPU)")
    reasons += _toolchain_refusals()
    devices = [device_refusal(i) for i in range(torch.cuda.device_count())]
    if all(devices):
        reasons += devices
    return tuple(reasons)


@cache
def _toolchain_refusals() -> tuple[str, ...]:
    """Triton compiles a launcher in C for each kernel."""
    reasons = []
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        reasons.append("Triton finds no C compiler; install gcc or set CC")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        reasons.append("Python.h is missing; install Python's development files (python3-dev)")
    return tuple(reasons)


@native.constant
def device_refusal(index: int) -> str | None:
    """Why the kernels are not for this device: what it is, and what is needed."""
    if torch.version.hip is not None:
        arch = torch.cuda.get_device_properties(index).gcnArchName.split(":")[0]
        return None if arch == AMD else f"device {index} is {arch}, of AMD's only {AMD} is known"
    return limits.device_refusal(index)


def refusals(a: Arguments) -> list[str]:
    """Why the kernels cannot serve these inputs, on whatever machine."""
    if interpreted():
        return limits.refusals(a, "cpu", "on the CPU (interpreted)")
    reasons = limits.refusals(a, "cuda", "on CUDA devices")
    if a.query.device.type == "cuda" and (refusal := device_refusal(a.query.device.index)):
        reasons.append(refusal)
    return reasons
