"""Training and recommending from Python, beside the commands."""

import json

import polars as pl
import pytest
from support.runs import SMALL, train

import rka_fast
from rka_fast import Config, Run, fit
from rka_fast.errors import ConfigError, DataError, FolderError
from rka_fast.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(log, **SMALL, epochs=2, out=str(out))


def test_it_trains_as_the_command_does(run, log, tmp_path):
    assert train(log, tmp_path / "run", "--epochs", "2") == 0
    texts = [(folder / "metrics.jsonl").read_text() for folder in (run.folder, tmp_path / "run")]
    assert texts[0] == texts[1]


def test_a_run_recommends_and_evaluates(run):
    again = Run.load(run.folder)
    assert again.recommend("u7", top=4).equals(run.recommend("u7", top=4))
    result = json.loads((run.folder / "result.json").read_text())
    assert run.evaluate() == result["test"] and run.evaluate("valid") == result["valid"]
    with pytest.raises(DataError, match="unknown user id 'nobody'"):
        run.recommend("nobody")


def frame(log):
    users, items = zip(*(line.split() for line in log.read_text().splitlines()), strict=True)
    return {"user": users, "item": items, "timestamp": range(len(users))}


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_a_data_frame_is_a_log(kind, log, tmp_path, run):
    make = pl.DataFrame if kind == "polars" else pytest.importorskip("pandas").DataFrame
    table = make(frame(log))
    found = fit(table, model="pop", out=str(tmp_path / "run"), device="cpu")
    assert found.sequences.user_ids == run.sequences.user_ids
    assert (found.sequences.items == run.sequences.items).all()
    description = RunFolder(found.folder).read_json("data.json")
    assert description["source"] == "frame"
    assert description["form"] == "data frame: columns user, item, timestamp"
    renamed = make({f"my {name}": values for name, values in frame(log).items()})
    columns = "my user,my item,-,my timestamp"
    other = fit(renamed, model="pop", columns=columns, out=str(tmp_path / "other"), device="cpu")
    assert (other.sequences.items == found.sequences.items).all()


def test_wrong_settings_are_told(log, tmp_path):
    with pytest.raises(ConfigError, match="width is not used by model 'pop'"):
        fit(log, model="pop", width=3)
    for given, meant in (("lr", "learning_rate"), ("gpu", "device"), ("epoch", "epochs")):
        with pytest.raises(ConfigError, match=f"unknown setting '{given}'; did you mean '{meant}'"):
            fit(log, **{given: 1})
    with pytest.raises(DataError):
        fit(tmp_path / "none.txt", model="pop", out=str(tmp_path / "run"))
    for frame, part in (
        ({"user": [], "item": []}, "no row"),
        ({"a": [1], "b": [2]}, "frame: read as"),
    ):
        with pytest.raises(DataError, match=part):
            fit(pl.DataFrame(frame), model="pop", out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_names_nothing_is_told(run, log, tmp_path):
    out = str(tmp_path / "run")
    for given in (None, 5):
        with pytest.raises(DataError, match=f"data: expected files, .* data frame, got {given}"):
            fit(given, model="pop", out=out)
        with pytest.raises(FolderError, match=f"run folder is given by its path, got {given}"):
            Run.load(given)
        with pytest.raises(DataError, match=f"items: expected an item id or several|id '{given}'"):
            run.similar(given)
    for given in ("", [], [log, ""], [5]):
        with pytest.raises(DataError, match=r"data: expected files, .* got ('|\[)"):
            fit(given, model="pop", out=out)
    with pytest.raises(DataError, match="test: expected files"):
        fit(log, test=5, model="pop", out=out)
    with pytest.raises(DataError, match="of: expected ids of users, or histories .* got <object"):
        run.recommend(object())
    for name, given in (("items", 5), ("exclude", 5), ("exclude", {"u1": 5})):
        with pytest.raises(DataError, match=f"{name}: expected a list of item ids, got 5"):
            run.recommend("u1", **{name: given})
    for ask in (run.recommend, run.similar, run.explain):
        with pytest.raises(ConfigError, match="top must be a whole number, got '5'"):
            ask("u1" if ask != run.similar else "i3", top="5")
    with pytest.raises(ConfigError, match="unknown option 'titels'; did you mean 'titles'"):
        run.recommend("u1", titels={})
    with pytest.raises(ConfigError, match="ann must be True or False, got 'no'"):
        run.recommend("u1", ann="no")
    for call, name in ((run.recommend_to, "out"), (run.export, "folder")):
        with pytest.raises(ConfigError, match=f"{name}: expected a path, got 5"):
            call(5)
    for ask in (run.recommend, run.similar, run.explain):
        with pytest.raises(ConfigError, match="titles: expected a file, a dict"):
            ask("u1" if ask != run.similar else "i3", titles=5)
    with pytest.raises(DataError, match="unknown must be skip or refuse, got 'sikp'"):
        run.recommend("u1", unknown="sikp")
    with pytest.raises(ConfigError, match="seen must be one of hide, keep, got ''"):
        run.recommend("u1", seen="")
    with pytest.raises(DataError, match="expected a column 'user', got item"):
        run.evaluate(pl.DataFrame({"item": ["i3", "i5"]}))


def test_a_run_that_held_nothing_out_has_nothing_to_evaluate_on(log, tmp_path):
    run = fit(log, model="pop", split="none", out=str(tmp_path / "run"))
    for stage in ("valid", "test"):
        with pytest.raises(ConfigError, match=f"held nothing out for '{stage}'; give a data frame"):
            run.evaluate(stage)


def test_several_files_are_one_log(log, tmp_path):
    lines = log.read_text().splitlines(True)
    halves = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for half, part in zip(halves, (lines[:250], lines[250:]), strict=True):
        half.write_text("".join(part))
    run = rka_fast.fit(halves, model="pop", out=str(tmp_path / "run"), device="cpu")
    assert run.config == Config(
        data=",".join(map(str, halves)), model="pop", out=str(tmp_path / "run"), device="cpu"
    )
    assert len(run.sequences.items) == len(lines)
