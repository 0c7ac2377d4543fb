"""A training that is killed at any call of the operating system, and gone on with."""

import json
import os

import pytest
from support.kills import killed_at
from support.runs import SMALL, write_log
from support.slow import slow

import rka_fast.train
from rka_fast.train import main
from rka_fast.training import trainer
from rka_fast.training.assemble import load_data
from rka_fast.training.config import Config

FLAGS = ("--model", "sasrec", "--epochs", "2", "--save-every", "3", "--device", "cpu")
SIZES = {**SMALL, "width": 2, "max_length": 4, "batch_size": 40}


def write_at_once(log, values):
    """`write_line` with a call that a kill can cut off in the middle."""
    os.write(log.fileno(), (json.dumps(values) + "\n").encode())


def train(folder, log):
    sizes = [w for name, value in SIZES.items() if name != "device" for w in _flag(name, value)]
    return main(["--data", str(log), "--out", str(folder), *FLAGS, *sizes])


def _flag(name, value):
    return "--" + name.replace("_", "-"), str(value)


def outcome(folder):
    """All that must not depend on kills: everything but the seconds."""
    result = json.loads((folder / "result.json").read_text())
    lines = (folder / "metrics.jsonl").read_text()
    weights = (folder / "ranks.npz").read_bytes(), (folder / "lists.npz").read_bytes()
    return {**result, "seconds": None, "config": None}, lines, weights


@pytest.mark.parametrize("every", [slow(41), slow(3)])
def test_killed_at_any_call_it_goes_on_and_ends_alike(tmp_path, monkeypatch, capsys, every):
    """Killed twice, the second time while it goes on."""
    log = write_log(tmp_path / "log.txt")
    data = load_data(Config(data=str(log)))  # polars, which reads it, does not survive a fork
    monkeypatch.setattr(rka_fast.train, "load_data", lambda *_: data)
    monkeypatch.setattr(trainer, "write_line", write_at_once)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert train(whole, log) == 0
    expected = outcome(whole)

    def go_on():
        if (folder / "data.json").is_file():
            return main(["--resume", str(folder)])
        return train(folder, log)

    def dying():
        assert go_on() == 0

    calls = 0
    for call in range(0, 10_000, every):
        folder = tmp_path / f"run{call}"
        if not killed_at(call, dying, folder):
            break
        killed_at(call // 2, dying, folder)
        assert go_on() == 0, (call, capsys.readouterr().err)
        assert outcome(folder) == expected, f"killed at call {call}"
        assert not list(folder.rglob("*.tmp")), call
        calls += 1
    assert calls * every > 100, "the calls that a training makes"
