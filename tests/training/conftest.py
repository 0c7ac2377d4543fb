"""A small log and a finished run on it."""

import shutil

import pytest
from support.runs import train as train_small
from support.runs import write_log


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "log.txt")


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert train_small(log, folder, "--model", "sasrec", "--epochs", "2") == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")
