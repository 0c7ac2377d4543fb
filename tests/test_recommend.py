import json

import polars as pl
import pytest
import torch
from support.runs import pairs, run_command, train, write_log
from support.slow import slow

from rka_fast.data.split_rules import time_split
from rka_fast.errors import ConfigError, DataError
from rka_fast.explain import main as explain
from rka_fast.recommend import NOTHING, main
from rka_fast.run import Run


@pytest.fixture(scope="module", params=["rksa", "sasrec", "pop"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    log = write_log(folder / "log.txt")
    epochs = () if request.param == "pop" else ("--epochs", "1")
    assert train(log, folder / "run", "--model", request.param, *epochs) == 0
    log.unlink()  # the run folder is enough
    return folder / "run"


def test_the_best_unseen_items_in_the_users_own_ids(run):
    loaded = Run(str(run))
    sequences = loaded.sequences
    user = sequences.user_index("u7")
    history = sequences.sequence(user)
    with torch.no_grad():
        scores = loaded.model.scores(loaded.batcher.history(history.tolist(), user))[0]
    expected = sorted(
        (item for item in range(1, sequences.num_items + 1) if item not in history),
        key=lambda item: -scores[item],
    )[:5]
    found = pairs(loaded.recommend("u7", top=5))
    assert [score for _, score in found] == pytest.approx([scores[i].item() for i in expected])
    seen = {sequences.item_id(item) for item in history}
    assert len(found) == 5 and not seen & {item for item, _ in found}
    assert all(item.startswith("i") for item, _ in found)


def test_a_person_not_in_the_data(run):
    loaded = Run(str(run))
    everything = pairs(loaded.recommend([["i3", "i5"]], top=1000))
    assert {item for item, _ in everything} == set(loaded.sequences.item_ids) - {"i3", "i5"}
    assert pairs(loaded.recommend([["i3", "i5"]], top=3)) == everything[:3]
    scores = [score for _, score in everything]
    assert scores == sorted(scores, reverse=True)


def test_the_command(run, capsys):
    expected = pairs(Run(str(run)).recommend([["i3", "i5"]], top=2))
    assert main([str(run), "--history", "i3, i5", "--top", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["history"] == ["i3", "i5"]
    assert printed["recommendations"] == [
        {"rank": rank, "item": item, "score": score}
        for rank, (item, score) in enumerate(expected, start=1)
    ]
    assert main([str(run), "--user", "u7", "--top", "3"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert "user u7" in table[0] and len(table) == 5
    found = Run(str(run)).recommend("u7", top=3)
    assert [line.split()[1] for line in table[2:]] == found["item"].to_list()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--user", "nobody"], ["'nobody'", "ids look like u"]),
        (["--history", "i3,nothing,i4,none"], ["'nothing'", "'none'"]),
        (["--history", ","], ["empty"]),
        ([], ["--user", "--history"]),
        (["--user", "u1", "--history", "i3"], ["--user", "--history"]),
        (["--user", "u1", "--top", "0"], ["top must be at least 1, got 0"]),
    ],
)
def test_a_wrong_request_is_a_message(run, capsys, flags, parts):
    assert main([str(run), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for part in parts:
        assert part in error


def test_nothing_that_may_be_shown_is_said(run, tmp_path, capsys):
    loaded = Run(str(run))
    had = loaded.sequences.sequence(loaded.sequences.user_index("u7"))
    only = tmp_path / "only.txt"
    only.write_text("\n".join(sorted({loaded.sequences.item_id(item) for item in had})))
    assert main([str(run), "--user", "u7", "--items", str(only)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [NOTHING]
    assert main([str(run), "--user", "u7", "--items", str(only), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["user"] == "u7" and printed["recommendations"] == []
    listed = tmp_path / "only.json"  # of ids of two types
    listed.write_text(json.dumps([1, *only.read_text().split()]))
    assert main([str(run), "--user", "u7", "--items", str(listed)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [NOTHING]
    histories = tmp_path / "histories.json"
    mine = [loaded.sequences.item_id(item) for item in had]
    histories.write_text(json.dumps({"all of it": mine, "part": mine[:1]}))
    flags = ["--history-file", str(histories), "--items", str(only), "--json"]
    assert main([str(run), *flags]) == 0
    whole, part = json.loads(capsys.readouterr().out)
    assert (whole["user"], whole["recommendations"]) == ("all of it", [])
    assert {row["item"] for row in part["recommendations"]} == set(mine[1:]) - {mine[0]}


@pytest.mark.parametrize("nobody", [{}, [], pl.DataFrame({"user": []})])
def test_nobody_is_refused(run, nobody):
    with pytest.raises(DataError, match="nobody was named"):
        Run(str(run)).recommend(nobody)


def test_a_wrong_folder_is_a_message(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--user", "u1"]) == 2
    assert "none is not a run folder" in capsys.readouterr().err


def test_top_is_checked_from_python(run):
    with pytest.raises(ConfigError, match="top"):
        Run(str(run)).recommend("u1", top=-1)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["pop"], indirect=True)
def test_as_a_module(run):
    done = run_command("rka_fast.recommend", run, "--user", "u1", "--top", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["recommendations"]) == 1


def test_a_device_that_is_not_there(run, capsys):
    for device, message in (("nope", "must be auto, cpu"), ("cuda:99", "cuda:99")):
        assert main([str(run), "--user", "1", "--device", device]) == 2
        assert message in capsys.readouterr().err


def test_a_run_with_the_time_split_recommends_from_its_own_counts(tmp_path, capsys):
    lines = write_log(tmp_path / "log.txt").read_text().splitlines()
    log = tmp_path / "log.csv"
    rows = [f"{line.replace(' ', ',')},{1e9 + n * 7 % 601}" for n, line in enumerate(lines)]
    log.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    assert train(log, tmp_path / "run", "--split", "time", "--epochs", "1") == 0
    assert "split by time  " in capsys.readouterr().out
    loaded = Run(str(tmp_path / "run"))
    expected = time_split(loaded.sequences)
    assert (loaded.batcher.split.train_end == expected.train_end).all()
    diagonal = loaded.batcher.cooccurrence.matrix.diagonal()
    assert diagonal.sum() == expected.training_items.distinct.sum()
    assert len(loaded.recommend("u7", top=5)) == 5


@pytest.mark.parametrize("model", [slow("sasrec"), "rksa"])
def test_a_run_with_a_time_bias_is_asked_at_a_time(model, tmp_path, capsys):
    lines = write_log(tmp_path / "log.txt").read_text().splitlines()
    log = tmp_path / "log.csv"
    rows = [f"{line.replace(' ', ',')},{1e9 + n * 99_991:.0f}" for n, line in enumerate(lines)]
    log.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    flags = ("--model", model, "--epochs", "1", "--time-bias", "--position-bias")
    assert train(tmp_path / "log.txt", tmp_path / "none", *flags) == 2
    assert "this data has none" in capsys.readouterr().err
    run = tmp_path / "run"
    assert train(log, run, *flags) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["request_times"] == "of the targets"
    loaded = Run(str(run))
    asked = pairs(loaded.recommend("u7", 5, at=1.5e9))
    assert asked != pairs(loaded.recommend("u7", 5, at=1.0e9))
    capsys.readouterr()
    for at in ("1500000000", "2017-07-14T02:40:00"):
        assert main([str(run), "--user", "u7", "--top", "5", "--json", "--at", at]) == 0
        found = json.loads(capsys.readouterr().out)["recommendations"]
        assert [(of["item"], of["score"]) for of in found] == asked
    user = loaded.sequences.user_index("u7")
    items = [loaded.sequences.item_id(item) for item in loaded.sequences.sequence(user)]
    assert main([str(run), "--history", "i3,i5", "--times", "1e9,2017-07-14"]) == 0
    for command in (main, explain):
        assert command([str(run), "--history", "i3,i5", "--json"]) == 2
        assert "give --times" in capsys.readouterr().err
    assert main([str(run), "--user", "u7", "--at", "soon"]) == 2
    assert "--at 'soon': expected seconds since 1970 or an ISO date" in capsys.readouterr().err
    when = [[1e9] * len(items)]
    assert len(loaded.recommend([items], 3, times=when, at=1.5e9)) == 3
    with pytest.raises(DataError, match="users of the data have their own"):
        loaded.recommend("u7", 3, times=when)


def test_times_without_a_time_bias_are_refused(run, capsys):
    for command in (main, explain):
        for flags in (["--user", "u7", "--at", "1"], ["--history", "i3", "--times", "1"]):
            assert command([str(run), *flags, "--json"]) == 2
            assert f"{flags[2]} has no meaning" in capsys.readouterr().err
        assert command([str(run), "--user", "u7", "--times", "1", "--json"]) == 2
        assert "--times goes with --history" in capsys.readouterr().err
