"""What the benchmarks share with the tests."""

from conftest import shared_data  # noqa: F401
