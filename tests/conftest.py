"""What the whole suite shares; fixtures shared with the benchmarks are in ../conftest.py."""

import pytest
import torch


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    """A small interaction log."""
    from support.runs import write_log

    return write_log(tmp_path_factory.mktemp("log") / "log.txt")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
