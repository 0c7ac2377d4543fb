"""The CUDA program on the host as a backend, compiled by g++ from the source that nvcc compiles.

The blocks run one after the other, their threads phase by phase between barriers; the operator,
its binding and its autograd are those of the GPU. See csrc/tests/cuda/emulation.cpp.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from rka_fast.ops.native import cuda

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = ("cuda/library.cpp", "tests/cuda/emulation.cpp", "tests/cuda/threads.cpp")
KB = 1024
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden"]


@cache
def operators():
    """Those of the emulation, `torch.ops.rka_fast_emulation`; builds them, 5 s on two cores."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs g++ on Linux")
    home, folder = Path(torch.__file__).parent, Path(tempfile.mkdtemp())
    defines = ["-DRKA_EMULATION", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    objects = [str(folder / Path(source).with_suffix(".o").name) for source in SOURCES]
    compilers = [
        subprocess.Popen(
            ["g++", *FLAGS, *defines, "-I", home / "include", "-c", CSRC / source, "-o", target]
        )
        for source, target in zip(SOURCES, objects, strict=True)
    ]
    assert not any([compiler.wait() for compiler in compilers])
    library = folder / "emulation.so"
    link = [f"-L{home / 'lib'}", "-ltorch_cpu", f"-Wl,-rpath,{home / 'lib'}"]
    subprocess.run(["g++", "-shared", "-o", library, *objects, *link], check=True)
    torch.ops.load_library(library)
    shutil.rmtree(folder)
    return torch.ops.rka_fast_emulation


class Emulation:
    """A backend; `device` is the emulated one: bytes of shared memory, multiprocessors, and
    whether it has the tensor cores that the kernels for short sequences need."""

    checks_calls = True  # csrc/check.h
    shares_draws = False

    def __init__(self, name, tensor_cores):
        self.name = name
        self.device = 227 * KB, 132, tensor_cores

    def why_not(self, a):
        return [] if a is None else cuda.refusals(a, "cpu", "on the CPU (emulated)")

    def forward(self, a):
        return cuda.forward(self._operators(), a)

    def backward(self, grad, needs, a):
        return cuda.backward(self._operators(), grad, needs, a)

    def _operators(self):
        operators().set_device(*self.device)
        return operators()


EMULATIONS = {
    name: Emulation(name, tensor_cores)
    for name, tensor_cores in (("emulation", True), ("emulation without tensor cores", False))
}
