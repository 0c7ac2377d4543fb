"""A split by files, no split, and training anew on everything."""

import json

import numpy as np
import pytest
from support.runs import train, write_log

from rka_fast.data.split_rules import SplitOptions, file_split
from rka_fast.errors import ConfigError, DataError
from rka_fast.run import Run
from rka_fast.train import main
from rka_fast.training.assemble import load_data
from rka_fast.training.config import Config


def lines(path, events):
    path.write_text("user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """u0 has two validation and two test events, u1 one of each, u2 only a test event."""
    day = 1_600_000_000
    train_ = [("u0", "a", day + 5), ("u1", "b", day), ("u0", "b", day + 1), ("u1", "c", day + 3)]
    valid = [("u0", "d", day + 9), ("u0", "c", day + 7), ("u1", "a", day + 2)]  # u1's is early
    test = [("u0", "b", day + 20), ("u0", "e", day + 21), ("u1", "d", day + 30), ("u2", "a", day)]
    names = ("train.csv", "valid.csv", "test.csv")
    return [lines(tmp_path / n, e) for n, e in zip(names, (train_, valid, test), strict=True)]


def by_files(files, targets="first"):
    config = Config(data=files[0], valid=files[1], test=files[2], split_targets=targets)
    assert config.split == "files"
    sequences, description, _ = load_data(config)
    return file_split(sequences, SplitOptions(targets=targets)), description


def test_files_say_what_is_asked(files):
    split, description = by_files(files)
    sequences = split.sequences
    histories = {
        user: [sequences.item_id(i) for i in sequences.sequence(u)]
        for u, user in enumerate(sequences.user_ids)
    }
    # By time inside a file, the files in turn, whatever the times of u1's early one.
    assert histories == {
        "u0": ["b", "a", "c", "d", "b", "e"],
        "u1": ["b", "c", "a", "d"],
        "u2": ["a"],
    }
    train_ = [sequences.item_id(i) for i in sequences.items[split.training_events]]
    assert train_ == ["b", "a", "b", "c"]
    asked = {
        stage: [
            (sequences.user_ids[u], sequences.item_id(sequences.items[at]))
            for u, at in zip(*split.targets(stage), strict=True)
        ]
        for stage in ("valid", "test")
    }
    assert asked == {"valid": [("u0", "c"), ("u1", "a")], "test": [("u0", "b"), ("u1", "d")]}
    assert split.had("test").tolist() == [True, False]
    assert description["evaluation"]["targets"] == {"valid": 2, "test": 2}


def test_every_event_of_a_file_can_be_asked(files):
    split, _ = by_files(files, "successive")
    assert split.test.users.tolist() == [0, 0, 1]
    last = [split.sequences.item_id(i) for i in split.history(1, "test")]
    assert last == ["b", "a", "c", "d", "b"]


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="valid and test: expected both files or neither"):
        Config(data=files[0], valid=files[1])
    with pytest.raises(ConfigError, match="it is files exactly where valid and test are given"):
        Config(data=files[0], split="files")
    with pytest.raises(ConfigError, match="exactly where valid and test are given"):
        Config(data=files[0], valid=files[1], test=files[2], split="time")
    (tmp_path / "bare.csv").write_text("user,item\nu0,a\nu1,b\n")
    config = Config(data=files[0], valid=files[1], test=str(tmp_path / "bare.csv"))
    with pytest.raises(DataError, match="differ in their times"):
        load_data(config)
    strangers = lines(tmp_path / "strangers.csv", [("x", "a", 1_600_000_000), ("y", "b", 1.6e9)])
    with pytest.raises(DataError, match="no user of the test file has events"):
        load_data(Config(data=files[0], valid=files[1], test=strangers))


def test_a_run_on_files_resumes_from_its_folder(tmp_path):
    rng = np.random.default_rng(0)
    parts = [[], [], []]
    for user in range(40):
        items = rng.permutation(120)[:8]
        for place, item in enumerate(items):
            part = max(0, place - 5)
            parts[part].append((f"u{user}", f"i{item}", 1_600_000_000 + place))
    names = ("train.csv", "valid.csv", "test.csv")
    data, valid, test = (
        lines(tmp_path / name, events) for name, events in zip(names, parts, strict=True)
    )
    out = tmp_path / "run"
    flags = ("--model", "sasrec", "--epochs", "2", "--valid", valid, "--test", test)
    assert train(data, out, *flags) == 0
    first = json.loads((out / "result.json").read_text())
    assert first["data"]["split"] == "files"
    for path in (data, valid, test):
        (tmp_path / path).unlink()
    assert main(["--resume", str(out), "--device", "cpu"]) == 0
    assert json.loads((out / "result.json").read_text())["test"] == first["test"]


def test_refit_trains_on_everything_for_the_best_epochs(tmp_path, capsys):
    log, out = write_log(tmp_path / "log.txt"), tmp_path / "run"
    assert train(log, out, "--model", "sasrec", "--epochs", "3", "--seed", "5") == 0
    best = json.loads((out / "result.json").read_text())["best_epoch"]
    capsys.readouterr()
    assert main(["--refit", str(out)]) == 0
    assert "nothing was held out" in capsys.readouterr().out
    again = tmp_path / "run-refit"
    result = json.loads((again / "result.json").read_text())
    settings = result["config"]
    assert "test" not in result and result["best_epoch"] == best == settings["epochs"]
    assert (settings["split"], settings["seed"], settings["width"]) == ("none", 5, 8)
    refitted, earlier = Run(str(again)), Run(str(out))
    assert refitted.batcher.split.training_events.all()
    assert not earlier.batcher.split.training_events.all()
    assert not refitted.recommend("u3").equals(earlier.recommend("u3"))


def test_nothing_held_out_needs_a_number_of_epochs(tmp_path, capsys):
    log = write_log(tmp_path / "log.txt")
    assert train(log, tmp_path / "run", "--model", "sasrec", "--split", "none") == 2
    assert "give --epochs, or --refit RUN" in capsys.readouterr().err
    flags = ("--model", "sasrec", "--split", "none", "--epochs", "1")
    assert train(log, tmp_path / "run", *flags) == 0
    assert train(log, tmp_path / "pop", "--model", "pop", "--split", "none") == 0
    assert main(["--refit", str(tmp_path / "run"), "--resume", str(tmp_path / "run")]) == 2
    assert "exclude each other" in capsys.readouterr().err
