"""The libraries of `csrc/` as the backends need them: loaded, and with the operator's arguments."""

from functools import cache
from typing import Any

import torch

from rka_fast import native
from rka_fast.ops.arguments import SCHEMA


@native.constant
def why_not(name: str) -> tuple[str, ...]:
    """Loads library "_cpp" or "_cuda"; returns the reasons why the operator cannot use it."""
    return native.load(name) or _stale(name)


@cache
def _stale(name: str) -> tuple[str, ...]:
    """The reason of a library of this version that was built before the arguments changed."""
    schema = getattr(torch.ops.rka_fast_native, f"attention{name}").default._schema
    if f"({SCHEMA}) ->" in str(schema):
        return ()
    return (
        f"{native.find(name)} was built of other sources: its operator has other arguments; build "
        "it again: pip install --no-build-isolation ., or python setup.py build_ext --inplace in a "
        "checkout",
    )


def operators(name: str) -> Any:
    """The library's operators, once it is there.

    A compiled or saved graph may come from another process, so loading is not left to the checks
    of a backend.
    """
    if reasons := why_not(name):
        raise RuntimeError(f"backend {name.removeprefix('_')!r}: {'; '.join(reasons)}")
    return torch.ops.rka_fast_native
