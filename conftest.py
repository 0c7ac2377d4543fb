"""Fixtures and options that tests and benchmarks share; fixtures stand in tests/support."""

pytest_plugins = ["support.data", "support.interpreter"]


def pytest_addoption(parser):
    """`--subject NAME`."""
    parser.addoption("--subject", help="the only backend to run the operator's tests over")
