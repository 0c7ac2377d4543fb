"""What a run tells while it goes and at its end: trackers, progress, the next command."""

import json
import shlex

import accelerate.tracking
import pytest
from support.runs import train

from rka_fast import progress
from rka_fast.errors import ConfigError
from rka_fast.recommend import main as recommend
from rka_fast.training.config import Config
from rka_fast.training.flags import parse


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_is_told_what_the_log_has(log, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    assert train(log, run, "--epochs", "2", "--track", "tensorboard") == 0
    events = run.rglob("events.out.tfevents.*")  # one of the settings lies deeper
    told = EventAccumulator(str(min((path.parent for path in events), key=lambda p: len(p.parts))))
    told.Reload()

    def values(name):
        return {event.step: event.value for event in told.Scalars(name)}

    logged = lines_of(run)
    losses = {line["step"]: line["loss"] for line in logged if "loss" in line}
    assert values("train/loss") == pytest.approx(losses, rel=1e-6)  # float32
    valid = {line["step"]: line["valid"] for line in logged if "valid" in line}
    for ranking in ("sampled", "full"):
        expected = {step: scores[ranking]["ndcg@10"] for step, scores in valid.items()}
        assert values(f"valid/{ranking}/ndcg@10") == pytest.approx(expected, rel=1e-6)
    result = json.loads((run / "result.json").read_text())
    (test,) = values("test/full/hit@10").values()
    assert test == pytest.approx(result["test"]["full"]["hit@10"], rel=1e-6)
    plain = tmp_path / "plain"
    assert train(log, plain, "--epochs", "2") == 0
    assert lines_of(plain) == logged  # being watched changes nothing
    assert not list(plain.rglob("events.out*"))


def test_a_tracker_that_is_not_there(log, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    assert train(log, tmp_path / "run", "--epochs", "1", "--track", "comet_ml,wandb") == 2
    error = capsys.readouterr().err
    assert "track comet_ml, wandb: not installed; pip install comet-ml wandb" in error
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ConfigError, match=r"track 'wand' is not known; did you mean 'wandb'\?"):
        Config(track="wand")


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_where_there_is_no_terminal_progress_is_lines(log, tmp_path, every, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", every)
    assert train(log, tmp_path / "run", "--epochs", "2") == 0
    told = capsys.readouterr()
    assert "\r" not in told.err + told.out
    lines = told.err.splitlines()
    steps = [line["step"] for line in lines_of(tmp_path / "run") if "loss" in line]
    if every:
        assert lines == []
    else:
        assert len(lines) == len(steps)
        for step, line in zip(steps, lines, strict=True):
            assert line.startswith(f"{step} of {len(steps)} steps, ")


def test_progress_can_be_switched_off(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for value, silent in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("TQDM_DISABLE", value)
        with progress.progress(3, "user") as bar:
            bar.update(2)
        assert (capsys.readouterr().err == "") == silent
    monkeypatch.delenv("TQDM_DISABLE")
    with progress.progress(3, "user", quiet=True) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_the_end_says_where_to_look_and_what_is_next(log, tmp_path, capsys):
    run = tmp_path / "my run"
    assert train(log, run, "--epochs", "2") == 0
    last = capsys.readouterr().out.splitlines()[-4:]
    best = json.loads((run / "result.json").read_text())["best_epoch"]
    further = f"rka-fast train --resume {shlex.quote(str(run))} --epochs 4"
    assert (further in last[0]) == (best == 2)
    assert last[-3] == f"learning curve: {run / 'curve.png'}"
    assert f"rka-fast report {shlex.quote(str(run))} " in last[-2]
    command = last[-1].partition("rka-fast recommend ")[2].partition(",")[0]
    assert recommend(shlex.split(command)) == 0
    assert "recommends for user" in capsys.readouterr().out


def test_names_of_runs_say_what_differs():
    names = {
        str(Config(data="log.csv", **settings).run_dir)
        for settings in (
            {}, {"width": 100}, {"width": 100, "epochs": 3}, {"model": "sasrec"}, {"seed": 1},
            {"loss": "bce"}, {"split": "time"}, {"where": "a=b, c>3"}, {"min_rating": 4.0},
            {"where": "x" * 100}, {"where": "x" * 101},
        )
    }  # fmt: skip
    assert len(names) == 11
    assert {"runs/log-rksa-seed0", "runs/log-rksa-width100-seed0"} < names
    assert all("/" not in name.removeprefix("runs/") and len(name) < 120 for name in names)
    same = Config(data="log.csv", device="cpu", track="wandb", json="x", save_every=5)
    assert str(same.run_dir) == "runs/log-rksa-seed0"


def test_the_config_of_a_run_is_a_template(log, tmp_path):
    run = tmp_path / "run"
    assert train(log, run, "--epochs", "1", "--json", str(tmp_path / "result.json")) == 0
    config = parse(["--config", str(run / "config.json"), "--seed", "4"]).config
    assert (config.width, config.epochs, config.seed) == (8, 1, 4)
    assert config.json is None and config.run_dir != run
    kept = tmp_path / "kept.json"
    kept.write_text('{"out": "here"}')  # written by a person, who means it
    assert str(parse(["--config", str(kept)]).config.run_dir) == "here"
