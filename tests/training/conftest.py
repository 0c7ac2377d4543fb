"""A small log, a finished run on it, and trainers of small runs."""

import shutil

import pytest
from support.runs import small
from support.runs import train as train_small

from rka_fast.training.assemble import load_data
from rka_fast.training.flags import parse
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.trainer import Trainer


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


@pytest.fixture
def trainer_for(log, tmp_path):
    """Makes a trainer of a small run in folder NAME, going on with what is there."""

    def make(name, *flags):
        model = flags[flags.index("--model") + 1] if "--model" in flags else "rksa"
        start = ["--data", str(log), "--out", str(tmp_path / name), *small(model)]
        config = parse([*start, *flags]).config
        folder = RunFolder(config.run_dir)
        if not folder.path.exists():
            folder.path.mkdir()
        sequences, data, _ = load_data(config)
        trainer = Trainer(config, sequences, folder, data, quiet=True)
        trainer.resume()
        return trainer

    return make
