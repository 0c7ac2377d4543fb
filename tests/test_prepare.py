"""`rka-fast prepare`, and training on what it wrote."""

import json
from pathlib import Path

import pytest
from support.runs import small, train, write_log

from rka_fast.commands import main
from rka_fast.data.shards import Prepared, shard_path
from rka_fast.train import main as train_main

LOG = 400  # events at least


def dated_log(path: Path) -> Path:
    """The log of `write_log` with times, rising a day at a time."""
    lines = write_log(path).read_text().split("\n")
    rows = [f"{line} {1_500_000_000 + 86_400 * k}" for k, line in enumerate(lines) if line]
    assert len(rows) > LOG
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize("model", ["rksa", "sasrec"])
def test_training_on_the_folder_is_training_on_the_log(model, tmp_path, capsys):
    log, out = dated_log(tmp_path / "log"), tmp_path / "prepared"
    flags = ("--min-item-events", "2")
    assert main(["prepare", str(log), "--out", str(out), "--shards", "3", *flags]) == 0
    assert "train on it: rka-fast train --data" in capsys.readouterr().out
    more = ("--model", model, "--epochs", "2")
    assert train(log, tmp_path / "a", *more, *flags) == 0
    told = capsys.readouterr().out
    assert train(out, tmp_path / "b", *more) == 0
    assert told.split("evaluated:")[0].split("\n")[2:] in (
        capsys.readouterr().out.split("evaluated:")[0].split("\n")[2:],
    )
    for name in ("metrics.jsonl", "ranks.npz", "lists.npz", "sequences/sequences.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in "ab"]
    for name in ("valid", "test", "popularity", "intervals", "lists", "best_epoch"):
        assert results[0][name] == results[1][name], name
    facts = Prepared.open(out).facts
    assert results[1]["data"].pop("prepared") == {"engine": "polars", "content": facts["content"]}
    data = [{**result["data"], "source": None} for result in results]
    assert data[0] == data[1]
    assert train_main(["--resume", str(tmp_path / "b")]) == 0


def test_a_day_is_added_with_the_settings_of_those_before(tmp_path, capsys):
    lines = dated_log(tmp_path / "log").read_text().splitlines()
    for name, part in (("1", lines[:300]), ("2", lines[300:])):
        (tmp_path / name).write_text("\n".join(part))
    columns = ("--columns", "user,item,timestamp", "--repeats", "drop")
    for log, out, more in (
        (tmp_path / "log", "whole", columns),
        (tmp_path / "1", "first", columns),
        (tmp_path / "2", "both", ("--add", str(tmp_path / "first"))),
    ):
        assert main(["prepare", str(log), "--out", str(tmp_path / out), *more]) == 0
    whole, both = (Prepared.open(tmp_path / name) for name in ("whole", "both"))
    for name in ("content", "counts", "settings", "events"):
        assert whole.facts[name] == both.facts[name], name
    capsys.readouterr()
    add = ("--add", str(tmp_path / "first"), "--out", str(tmp_path / "no"))
    assert main(["prepare", str(tmp_path / "2"), *add, "--ties", "drop"]) == 2
    assert "ties 'drop': " in capsys.readouterr().err


def test_going_on_from_prepared_data_keeps_its_filters(tmp_path):
    lines = dated_log(tmp_path / "log").read_text().splitlines()
    for name, part in (("1", lines[:300]), ("2", lines[300:] + lines[-1:] * 3)):
        (tmp_path / name).write_text("\n".join(part))
    columns = ("--columns", "user,item,timestamp", "--repeats", "drop")
    prepared = tmp_path / "prepared"
    assert main(["prepare", str(tmp_path / "1"), "--out", str(prepared), *columns]) == 0
    results = []
    for data, run, flags in ((prepared, "a", ()), (tmp_path / "1", "b", columns)):
        assert train(data, tmp_path / run, "--model", "sasrec", *flags) == 0
        begin = ("--from", str(tmp_path / run), "--data", str(tmp_path / "2"))
        assert train_main([*begin, "--out", str(tmp_path / f"{run}2")]) == 0
        results.append(json.loads((tmp_path / f"{run}2" / "result.json").read_text()))
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["data"]["events"] == results[1]["data"]["events"]


def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    log, out = dated_log(tmp_path / "log"), tmp_path / "prepared"

    def told(*argv: object) -> str:
        assert main([str(word) for word in argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "log2 does not exist" in told("prepare", tmp_path / "log2", "--out", out)
    assert "shards must be at least 1" in told("prepare", log, "--out", out, "--shards", 0)
    assert "min_user_events must be at least 1" in told(
        "prepare", log, "--out", out, "--min-user-events", 0
    )
    assert main(["prepare", str(log), "--out", str(out), "--min-user-events", "2"]) == 0
    capsys.readouterr()
    assert "is prepared already" in told("prepare", log, "--out", out)
    run = ("train", "--data", out, "--out", tmp_path / "run", *small("sasrec"), "--model", "sasrec")
    assert "min_user_events 3 cannot be changed now" in told(*run, "--min-user-events", 3)
    assert "--valid x does not go with prepared data" in told(*run, "--valid", "x", "--test", "y")
    shard_path(out, 0).write_bytes(b"PAR1")
    assert "00000.parquet is damaged" in told(*run)
    assert not (tmp_path / "run").exists()
    assert Prepared.open(out).facts["settings"]["min_user_events"] == 2
