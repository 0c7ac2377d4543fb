"""Fixtures that tests and benchmarks share; they stand in tests/support."""

pytest_plugins = ["support.data", "support.interpreter"]
