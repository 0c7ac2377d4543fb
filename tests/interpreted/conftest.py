"""These tests only run where Triton's kernels are interpreted: see tests/support/interpreter.py."""

from pathlib import Path

import pytest

from rka_fast.ops.triton import interpreted

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    reason = "in a process of their own: TRITON_INTERPRET=1 pytest tests/ops tests/interpreted"
    for item in items:
        if not interpreted() and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
