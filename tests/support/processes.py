"""Processes of this Python that import the rka_fast that is tested."""

import subprocess
import sys
from pathlib import Path

import rka_fast

INSTALLED = Path(rka_fast.__file__).parents[1]
"""The working folder of such processes: with -c and -m, Python looks there first. In a checkout it
would find the sources, whatever was installed."""


def python(*arguments) -> subprocess.CompletedProcess:
    """The completed process of Python with these arguments, with its output as text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=INSTALLED,
        capture_output=True,
        text=True,
        timeout=300,
    )
