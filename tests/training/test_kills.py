"""Killed at any call of the operating system, a run's files are the old or the new ones."""

import shutil

import numpy as np
import pytest
import torch
from support.kills import content, killed_at
from support.runs import train as train_small
from support.slow import slow

from rka_fast.reproduce import main as reproduce
from rka_fast.training.assemble import load_data
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.config import Config
from rka_fast.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def beginning(log):
    config = Config(data=str(log), model="pop", device="cpu")
    return config, *load_data(config)[:2]


def kills(work_in, folder, every, check):
    """Kill at every `every`-th call, until a run of the work gets through."""
    for call in range(0, 10_000, every):
        shutil.rmtree(folder, ignore_errors=True)
        died = killed_at(call, lambda: work_in(folder), folder)
        check(folder, call)
        if not died:
            return call
    raise AssertionError("the work never ended")


@pytest.mark.parametrize("every", [9, slow(1)])
def test_killed_while_the_folder_is_made_the_same_command_goes_on(
    beginning, log, tmp_path, every, capsys
):
    config, sequences, description = beginning
    whole = tmp_path / "whole"
    assert train_small(log, whole, "--model", "pop") == 0

    def begin(folder):
        run = RunFolder(folder)
        run.refuse_existing()
        with run.held():
            run.begin(config, sequences, description)

    def goes_on(folder, call):
        assert train_small(log, folder, "--model", "pop") == 0, (call, capsys.readouterr().err)
        assert sorted(content(folder)) == sorted(content(whole)), call
        ranks = [(path / "ranks.npz").read_bytes() for path in (folder, whole)]
        assert ranks[0] == ranks[1]

    assert kills(begin, tmp_path / "run", every, goes_on) >= 30


@pytest.mark.parametrize("every", [slow(31), slow(1)])
def test_a_reproduce_cell_that_was_killed_while_it_was_made_goes_on(
    beginning, log, tmp_path, every, capsys
):
    _, sequences, description = beginning
    flags = ["--data", str(log), "--models", "pop", "--seeds", "1"]

    def begin(folder):
        run = RunFolder(folder / log.stem / "pop" / "seed0")
        config = Config(data=str(log), model="pop", out=str(run.path))
        with run.held():
            run.begin(config, sequences, description)

    def goes_on(folder, call):
        assert reproduce([*flags, "--out", str(folder)]) == 0, (call, capsys.readouterr().err)
        assert not [name for name in content(folder) if name.endswith(".tmp")]

    assert kills(begin, tmp_path / "out", every, goes_on) >= 30


def test_killed_at_any_call_of_a_checkpoint_it_is_the_old_or_the_new_one(run):
    folder = RunFolder(run)
    old = Checkpoint.load(folder.last)
    new = Checkpoint(
        {name: tensor + 1 for name, tensor in old.model.items()}, None, old.meta, old.catalogue
    )
    before, seen = folder.last.read_bytes(), set()
    for call in range(100):
        folder.last.write_bytes(before)
        died = killed_at(call, lambda: new.save(folder.last), run)
        name = next(iter(old.model))
        found = Checkpoint.load(folder.last).model[name]
        seen.add(is_new := not torch.equal(found, old.model[name]))
        assert torch.equal(found, (new if is_new else old).model[name])
        with folder.held():
            assert not list(run.glob(".*.tmp"))
        if not died:
            break
    assert not died and is_new and call >= 5 and seen == {False, True}


@pytest.mark.parametrize("every", [11, slow(1)])
def test_killed_while_results_or_settings_are_written_it_resumes(run, every):
    """And every file is what the manifest says, whichever call it was."""
    folder = RunFolder(run)
    first, result = folder.read_config(), folder.read_json("result.json")
    before = content(run)

    def write():
        folder.write_config(Config.from_json({**first.to_json(), "epochs": 7}))
        folder.write_results({**result, "best_epoch": 77}, None, np.zeros(0), b"a curve")

    for call in range(0, 10_000, every):
        for name, old in before.items():
            (run / name).write_bytes(old)
        died = killed_at(call, write, run)
        assert folder.read_config().epochs in (2, 7)
        assert folder.read_json("result.json")["best_epoch"] in (result["best_epoch"], 77)
        if not died:
            break
    assert not died and call >= 20
    assert folder.read_config().epochs == 7
