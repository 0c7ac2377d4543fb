"""Finds and loads what `csrc/` built, and says what is missing.

Nothing is loaded at import: each library is loaded when a backend first asks for it. A source
checkout without built libraries uses those of an installed rka_fast of the same version, so that
`python -m rka_fast.train` works inside the checkout too.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from rka_fast.version import __version__

HERE = Path(__file__).resolve().parent
F = TypeVar("F", bound=Callable[..., object])
SUFFIXES = tuple(importlib.machinery.EXTENSION_SUFFIXES)


def folders() -> list[Path]:
    """Where libraries may be: here, then in installed distributions of this version."""
    installed = [
        Path(str(distribution.locate_file("rka_fast"))).resolve()
        for distribution in importlib.metadata.distributions(name="rka_fast")
        if distribution.version == __version__
    ]
    return list(dict.fromkeys([HERE, *installed]))


def find(name: str) -> Path | None:
    """The file of library `name` ("_cpp", "_cuda", "_info"), or None if it was not built."""
    for folder in folders():
        for suffix in SUFFIXES:
            if (path := folder / f"{name}{suffix}").is_file():
                return path
    return None


def constant(function: F) -> F:
    """torch.compiler.assume_constant_result, which takes two seconds to load the compiler."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


@constant
def why_not(name: str) -> tuple[str, ...]:
    """Loads library `name` of PyTorch operators; returns the reasons why that cannot be done."""
    return load(name)


@cache
def load(name: str) -> tuple[str, ...]:
    """`why_not` as plain Python: a compiled graph takes the answer for a constant."""
    path = find(name)
    if path is None:
        needs, reason = "a C++ compiler", ""
        if name == "_cuda":
            needs, reason = needs + " and nvcc", build_info().get("no_cuda", "")
        return (
            f"the library {name} was not built{reason and f' ({reason})'}; install with {needs}: "
            "pip install --no-build-isolation .",
        )
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return (f"{path} could not be loaded: {error}",)
    return ()


@cache
def info_module() -> ModuleType:
    """The Python module `_info`: build_info() and philox_words(...). ImportError if not built."""
    path = find("_info")
    if path is None:
        raise ImportError("rka_fast was installed without its native part (no C++ compiler)")
    spec = importlib.util.spec_from_file_location("rka_fast._info", path)
    assert spec is not None and spec.loader is not None  # its suffix is that of an extension
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_info() -> dict[str, str]:
    """torch, compiler, cuda and architectures of the build, or why it is without CUDA ("no_cuda").

    Empty if nothing was built.
    """
    return {} if find("_info") is None else info_module().build_info()


def cpp_instructions() -> str:
    """The instruction set that the CPU kernels use here: plain, avx2 or avx512; "" if not built."""
    return "" if why_not("_cpp") else torch.ops.rka_fast_native.cpp_instructions()
