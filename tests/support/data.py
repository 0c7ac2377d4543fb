"""Real interaction files, where there are some."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real interaction files; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RKA_FAST_DATA", folder))
    if not folder.is_dir():
        pytest.skip(f"real interaction files not found in {folder}; set RKA_FAST_DATA")
    return folder
