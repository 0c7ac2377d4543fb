"""A run is the same whether its co-occurrence is stored or counted from an index of users."""

import json
import shutil

import pytest
from support.runs import train

from rka_fast import Run
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.user_index import UserIndex
from rka_fast.errors import ConfigError
from rka_fast.serving.export import export_run
from rka_fast.train import main


@pytest.fixture(scope="module")
def runs(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counting")
    for name in ("pairs", "index"):
        assert train(log, folder / name, "--epochs", "2", "--counting", name) == 0
    return folder


def test_every_number_is_the_same(runs):
    pairs, index = (Run.load(runs / name) for name in ("pairs", "index"))
    assert isinstance(pairs.batcher.cooccurrence, CoOccurrence)
    assert isinstance(index.batcher.cooccurrence, UserIndex)
    logs = [(run.folder / "metrics.jsonl").read_text() for run in (pairs, index)]
    assert logs[0] == logs[1] and logs[0].count("\n") > 8
    results = [json.loads((run.folder / "result.json").read_text()) for run in (pairs, index)]
    assert results[0]["test"] == results[1]["test"] and results[0]["lists"] == results[1]["lists"]
    users = pairs.sequences.user_ids[:5]
    assert pairs.recommend(users).equals(index.recommend(users))
    items = pairs.sequences.item_ids[:9]
    similar = [run.similar(items, by="cooccurrence") for run in (pairs, index)]
    assert similar[0].equals(similar[1])


def test_a_run_goes_on_with_the_other_form(runs, tmp_path):
    """By --resume and by --from: what is computed does not depend on it."""
    went_on = {}
    for name, other in (("pairs", "index"), ("index", "pairs")):
        run = shutil.copytree(runs / name, tmp_path / name)
        assert main(["--resume", str(run), "--epochs", "3", "--counting", other]) == 0
        went_on[name] = (run / "metrics.jsonl").read_text()
    assert went_on["pairs"] == went_on["index"]


def test_what_cannot_be_exported_is_told(runs, tmp_path):
    with pytest.raises(ConfigError, match="index of who has what cannot be exported"):
        export_run(Run.load(runs / "index"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_new_data_joins_an_index(runs, log, tmp_path):
    logs = []
    for name in ("pairs", "index"):
        out = tmp_path / name
        new = ["--data", str(log), "--from", str(runs / name), "--out", str(out), "--epochs", "1"]
        assert main(new) == 0
        assert (out / "counts.npz").exists() == (name == "pairs")
        logs.append((out / "metrics.jsonl").read_text())
    assert logs[0] == logs[1]
