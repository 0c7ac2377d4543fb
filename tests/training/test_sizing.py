"""What the size of the data chooses: the loss, and whom an evaluation asks."""

import dataclasses
import json

import numpy as np
import pytest
from support.runs import SMALL, train

from rka_fast import fit
from rka_fast.data import split_rules
from rka_fast.data.split import STAGES
from rka_fast.errors import ConfigError
from rka_fast.reproduce import main as reproduce
from rka_fast.training import sizing
from rka_fast.training.assemble import load_data, split_options
from rka_fast.training.config import Config
from rka_fast.training.flags import parse
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.sizing import MANY_ITEMS, with_loss_for

SAMPLED = ("sampled_ce", "sequence")


def loss_of(folder):
    config = RunFolder(folder).read_config()
    return config.loss, config.shared_negatives


def test_many_items_choose_sampled_cross_entropy():
    config = Config(model="sasrec", batch_size=7)
    assert with_loss_for(config, MANY_ITEMS) == (config, [])
    chosen, lines = with_loss_for(config, MANY_ITEMS + 1)
    assert chosen == dataclasses.replace(config, loss=SAMPLED[0], shared_negatives=SAMPLED[1])
    assert "50,001 items" in lines[0] and "--loss ce" in lines[0]
    for other in (Config(model="sasrec", loss="bce"), Config(model="attrec"), Config(model="pop")):
        assert with_loss_for(other, 10**6) == (other, [])


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [([], False), (["--loss", "ce"], True), (["--loss=ce"], True), (["--preset", "sasrec"], True)],
)
def test_a_loss_that_was_given_stays(flags, chosen):
    assert parse(flags).chosen == chosen


def test_every_command_chooses(log, tmp_path, monkeypatch, capsys):
    """Training, fitting and reproducing, which go on from what they chose."""
    monkeypatch.setattr(sizing, "MANY_ITEMS", 129)  # the log has 130
    small, out = ("--model", "sasrec", "--epochs", "1"), tmp_path / "run"
    assert train(log, out, *small) == 0
    assert "sampled_ce with negatives shared by a sequence" in capsys.readouterr().out
    assert loss_of(out) == SAMPLED
    assert train(log, tmp_path / "given", *small, "--loss", "ce") == 0
    assert loss_of(tmp_path / "given") == ("ce", "none")
    settings = {**SMALL, "model": "sasrec", "epochs": 1}
    fit(log, out=str(tmp_path / "fit"), **settings)
    assert loss_of(tmp_path / "fit") == SAMPLED
    fit(log, out=str(tmp_path / "ce"), loss="ce", **settings)
    assert loss_of(tmp_path / "ce") == ("ce", "none")
    sets = [word for pair in SMALL.items() for word in ("--set", "=".join(map(str, pair)))]
    cells = ["--data", str(log), "--models", "sasrec", "--seeds", "1", "--epochs", "1", *sets]
    for _ in range(2):  # the second time the finished cell is kept
        assert reproduce([*cells, "--out", str(tmp_path / "cells")]) == 0
        assert "loss: sampled_ce for sasrec" in capsys.readouterr().out
    assert loss_of(tmp_path / "cells" / log.stem / "sasrec" / "seed0") == SAMPLED
    assert reproduce([*cells, "--set", "loss=ce", "--out", str(tmp_path / "cells")]) == 2
    assert "holds a run with loss 'sampled_ce', now it is 'ce'" in capsys.readouterr().err


def split_of(log, **settings):
    config = Config(data=str(log), **settings)
    sequences, description, lines = load_data(config)
    return split_rules.SPLITS[config.split](sequences, split_options(config)), description, lines


@pytest.mark.parametrize("seed", [0, 5])
def test_a_sample_of_users_is_asked(log, seed):
    """The same for every seed, with all of their targets and with nothing else changed."""
    whole, description, _ = split_of(log, seed=seed)
    assert whole.sampled_of == {} and "sampled_of" not in description["evaluation"]
    split, description, lines = split_of(log, seed=seed, eval_users=20)
    assert (split.train_end == whole.train_end).all()
    for stage in STAGES:
        targets = split.targets(stage)
        assert len(np.unique(targets.users)) == len(targets.users) == 20
        assert (targets.users == split_of(log, eval_users=20)[0].targets(stage).users).all()
        everybody = whole.targets(stage)
        assert (targets.at == everybody.at[np.isin(everybody.users, targets.users)]).all()
        assert description["evaluation"]["sampled_of"][stage] == len(everybody.users) == 60
    assert any("a sample of the users (60 in valid, 60 in test)" in line for line in lines)


def test_too_many_scores_choose_a_sample(log, monkeypatch):
    """60 users times 130 items: up to that number of scores everybody, then as many as fit."""
    for most, asked in ((60 * 130, 60), (60 * 130 - 1, 59), (130 * 7, 7), (5, 1)):
        monkeypatch.setattr(split_rules, "MOST_SCORES", most)
        assert len(split_of(log)[0].test.users) == asked
        assert len(split_of(log, eval_users="all")[0].test.users) == 60
        assert len(split_of(log, eval_users=100)[0].test.users) == 60


def test_ranks_of_the_sample_are_those_of_the_whole(log, tmp_path, capsys):
    """Popularity's, of the full ranking; with intervals of the fewer users, which are wider."""
    assert train(log, tmp_path / "whole", "--model", "pop") == 0
    assert train(log, tmp_path / "part", "--model", "pop", "--eval-users", "20") == 0
    assert "over 20 users of 60 (a sample)" in capsys.readouterr().out
    whole, part = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "part")
    users, _ = whole.read_lists()
    asked = np.isin(users, part.read_lists()[0])
    assert asked.sum() == 20
    assert (part.read_ranks()["full"] == whole.read_ranks()["full"][asked]).all()

    def width(folder):
        result = json.loads(folder.result.read_text())
        low, high = result["intervals"]["full"]["hit@10"]
        assert low <= result["test"]["full"]["hit@10"] <= high
        return high - low

    assert width(part) > width(whole)


@pytest.mark.parametrize("value", [0, -1, "some", 2.5, True])
def test_wrong_numbers_of_users(value):
    with pytest.raises(ConfigError, match="eval_users"):
        Config(eval_users=value)


def test_users_of_an_evaluation_on_the_command_line():
    for text, value in (("all", "all"), ("500", 500)):
        assert parse(["--eval-users", text]).config.eval_users == value
    assert parse([]).config.eval_users is None
