"""Versions, and each backend or the reasons why it cannot run here: rka-fast info [--json]."""

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from rka_fast import native
from rka_fast.files import to_json
from rka_fast.ops.backends import BACKENDS
from rka_fast.version import __version__


def facts() -> dict[str, Any]:
    """What is installed; under "backends" each one's reasons why it cannot run, none if it can."""
    found: dict[str, Any] = {
        "rka_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda or "torch is a CPU build",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": torch.get_num_threads(),
    }
    if built := native.build_info():
        found["built"] = f"torch {built['torch']}, compiler {built['compiler']}"
        if built["cuda"]:
            found["built"] += f", CUDA {built['cuda']} for {built['architectures']}"
        found["cpu"] = native.cpp_instructions()
    found["backends"] = {name: backend.why_not(None) for name, backend in BACKENDS.items()}
    return found


def lines() -> list[str]:
    """The facts, one a line."""
    found = facts()
    backends = {
        name: f"not available: {'; '.join(reasons)}" if reasons else "available"
        for name, reasons in found.pop("backends").items()
    }
    return [f"{name:<12}{value}" for name, value in (found | backends).items()]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, 0."""
    parser = argparse.ArgumentParser(prog="rka-fast info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print JSON instead of lines.")
    flags = parser.parse_args(argv)
    print(to_json(facts()).rstrip() if flags.json else "\n".join(lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
