"""Members of a parametrisation that prove slowly what another one proves quickly."""

import pytest


def slow(*values: object):
    """A member that runs with the slow tests alone."""
    return pytest.param(*values, marks=pytest.mark.slow)
