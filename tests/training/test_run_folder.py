"""Beginning a run, and going on with one that an earlier version made."""

import json

import pytest
from support.first_format import write_run
from support.runs import pairs, write_log

from rka_fast.errors import FolderError
from rka_fast.files import write_atomically
from rka_fast.reproduction.cells import Cell, run_cell
from rka_fast.run import Run
from rka_fast.train import main, train
from rka_fast.training import run_folder
from rka_fast.training.assemble import load_data
from rka_fast.training.config import FORMAT, Config
from rka_fast.training.run_folder import RunFolder


def test_a_run_of_the_first_format_recommends(tmp_path):
    """What commit 443cdbe itself printed for this run."""
    run = Run(write_run(tmp_path / "run"))
    assert (run.config.kernels, run.config.kernel_weight) == ("cooccurrence,item", 0.25)
    items, scores = zip(*pairs(run.recommend("u7", top=3)), strict=True)
    assert items == ("i9", "i67", "i17")
    assert scores == pytest.approx(
        [0.058822743594646454, 0.058650605380535126, 0.05565287917852402]
    )


def test_a_run_of_the_first_format_resumes(tmp_path):
    """The losses with which commit 443cdbe itself went on to a second epoch."""
    run = write_run(tmp_path / "run")
    before = (run / "metrics.jsonl").read_text()
    assert main(["--resume", str(run), "--epochs", "2"]) == 0
    after = (run / "metrics.jsonl").read_text()
    assert after.startswith(before)
    steps = [json.loads(line) for line in after.removeprefix(before).splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    expected = [5.982595920562744, 6.044580459594727, 6.115955829620361, 5.832737445831299]
    assert losses == pytest.approx(expected, rel=1e-5)
    saved = json.loads((run / "config.json").read_text())
    assert saved["format"] == FORMAT and saved["kernels"] == "cooccurrence,item"
    assert "relations" not in saved and saved["out"] == str(run)
    assert main(["--resume", str(run), "--kernels", "item"]) == 2


def test_what_the_model_did_not_read_is_forgotten(tmp_path):
    """The first format saved a kernel weight for every model, and accepted any."""
    run = write_run(tmp_path / "run")
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "model": "gru4rec"}))
    config = RunFolder(run).read_config()
    assert config.kernel_weight is config.kernels is config.blocks is None
    assert (config.width, config.learning_rate) == (2, 0.001)


def test_a_beginning_that_was_cut_off_is_begun_again(tmp_path, monkeypatch):
    """config.json comes first and data.json last: a run with one but not the other starts anew."""
    log = write_log(tmp_path / "log.txt")
    config = Config(data=str(log), model="pop", out=str(tmp_path / "run"), device="cpu")
    sequences, description, _ = load_data(config)
    folder = RunFolder(config.run_dir)

    def die(path, content):
        if path.name == "ids.json":
            raise KeyboardInterrupt
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_atomically", die)
        with pytest.raises(KeyboardInterrupt):
            folder.begin(config, sequences, description)
    assert folder.has_config and not folder.begun
    train(config, RunFolder.open(folder.path))
    assert folder.begun and folder.result.is_file()
    whole = folder.read_json("result.json")
    folder.result.unlink()
    (folder.path / "data.json").unlink()
    assert run_cell(Cell("mine", config), sequences, description)["test"] == whole["test"]


def test_a_folder_with_something_in_it_is_not_begun(tmp_path):
    (tmp_path / "data.json").write_text("mine")
    config = Config(model="pop", out=str(tmp_path))
    with pytest.raises(FolderError, match="exists already"):
        RunFolder(tmp_path).begin(config, *load_data(config)[:2])
    assert (tmp_path / "data.json").read_text() == "mine"
