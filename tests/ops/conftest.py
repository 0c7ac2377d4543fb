"""The operator's tests run over every backend that can run here."""

import pytest

from rka_fast import available_backends


@pytest.fixture(params=available_backends())
def backend(request) -> str:
    return request.param
