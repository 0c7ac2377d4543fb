"""The command tells versions and reasons."""

import subprocess
import sys

import torch

from rka_fast import info
from rka_fast.ops import backends


class Unable:
    name = "unable"

    def why_not(self, a):
        return ["no such device", "no compiler"]


def test_it_lists_every_backend_and_why(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "unable", Unable())
    text = "\n".join(info.lines())
    assert torch.__version__ in text
    assert "unable      not available: no such device; no compiler" in text
    assert "reference   available" in text


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_does_not_load_what_only_the_commands_need():
    code = (
        "import sys, rka_fast; rka_fast.available_backends(); "
        "print([m for m in ('polars', 'matplotlib', 'accelerate', 'tyro') if m in sys.modules])"
    )
    assert run(code).stdout.strip() == "[]"


def test_everything_imports_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import rka_fast, rka_fast.info; print(rka_fast.available_backends())"
    )
    assert "reference" in run(code).stdout
