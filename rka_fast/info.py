"""`python -m rka_fast.info`: versions, and each backend or the reasons why it cannot run here."""

import importlib.metadata
import platform
import sys

import torch

from rka_fast import native
from rka_fast.ops.backends import BACKENDS
from rka_fast.version import __version__


def lines() -> list[str]:
    """What is installed and what works, one fact a line."""
    facts = {
        "rka_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda or "torch is a CPU build",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": torch.get_num_threads(),
    }
    if built := native.build_info():
        facts["built"] = f"torch {built['torch']}, compiler {built['compiler']}"
        if built["cuda"]:
            facts["built"] += f", CUDA {built['cuda']} for {built['architectures']}"
        facts["cpu"] = native.cpp_instructions()
    result = [f"{name:<12}{value}" for name, value in facts.items()]
    for name, backend in BACKENDS.items():
        reasons = backend.why_not(None)
        result.append(
            f"{name:<12}{'not available: ' + '; '.join(reasons) if reasons else 'available'}"
        )
    return result


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> int:
    print("\n".join(lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
