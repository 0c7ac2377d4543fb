"""What the whole suite shares; fixtures shared with the benchmarks are in ../conftest.py."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
