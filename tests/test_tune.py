import json
import os
import signal
import statistics

import optuna
import polars as pl
import pytest
from optuna.trial import TrialState
from support.kills import in_a_fork
from support.runs import write_log

from rka_fast import fit_best, tune
from rka_fast.errors import ConfigError, TrainingError
from rka_fast.train import main as train
from rka_fast.training.assemble import load_data
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.flags import parse
from rka_fast.training.metrics_log import read_lines
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.trainer import Trainer

SMALL = "--model sasrec --width 8 --max-length 8 --batch-size 16 --device cpu --epochs 4".split()
TRIALS = 7


def command(log, out, *flags):
    return tune.main(["--data", str(log), "--out", str(out), *SMALL, *flags])


@pytest.fixture(scope="module")
def study(log, tmp_path_factory):
    """The folder of a study that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "study"
    assert command(log, out, "--trials", str(TRIALS)) == 0
    return out


def trials(out):
    return json.loads((out / "trials.json").read_text())["trials"]


def stored(out):
    storage = optuna.storages.RDBStorage(f"sqlite:///{out / 'study.db'}")
    found = optuna.load_study(study_name=None, storage=storage).trials
    storage.engine.dispose()
    return found


def test_from_python_on_a_frame_it_is_the_study_of_the_command(log, study, tmp_path):
    frame = pl.read_csv(log, separator=" ", has_header=False, new_columns=["user", "item"])
    given = {"model": "sasrec", "width": 8, "max_length": 8, "batch_size": 16, "epochs": 4}
    out = tmp_path / "study"
    run = fit_best(frame, trials=3, out=str(out), device="cpu", **given)
    by_number = {trial["trial"]: trial for trial in trials(study)}
    found = trials(out)
    assert len(found) == 3  # the first ones of the seven
    for trial in found:
        assert trial == by_number[trial["trial"]]
    assert run.folder == out / found[0]["folder"]
    assert {name: getattr(run.config, name) for name in found[0]["settings"]} == found[0][
        "settings"
    ]
    assert len(run.recommend(["u8"], top=3)) == 3
    assert fit_best(frame, trials=3, out=str(out), device="cpu", **given).folder == run.folder
    assert len(trials(out)) == 3


def test_from_python_what_is_searched(log, tmp_path):
    given = {"model": "sasrec", "width": 8, "max_length": 8, "batch_size": 16, "epochs": 1}
    run = fit_best(log, trials=2, search={"dropout": (0.1, 0.3)}, out=str(tmp_path / "a"), **given)
    assert {trial["settings"]["dropout"] for trial in trials(tmp_path / "a")} <= {0.1, 0.3}
    assert run.config.dropout in (0.1, 0.3)
    with pytest.raises(ConfigError, match="unknown setting 'widht'; did you mean 'width'"):
        fit_best(log, search={"widht": [8]}, out=str(tmp_path / "b"), **given)
    with pytest.raises(ConfigError, match="unknown setting 'lr'; did you mean 'learning_rate'"):
        fit_best(log, lr=0.1, out=str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="pruner 'best': expected median, hyperband, none"):
        fit_best(log, pruner="best", out=str(tmp_path / "b"), **given)
    for wrong in ("3", 2.5):
        with pytest.raises(ConfigError, match=f"trials must be a whole number, .*, got {wrong!r}"):
            fit_best(log, trials=wrong, out=str(tmp_path / "b"), **given)
    for search in (["width"], "width=8,16"):
        with pytest.raises(ConfigError, match=r'search: expected .*\{"width": \[32, 64\]\}, got '):
            fit_best(log, search=search, out=str(tmp_path / "b"), **given)
    with pytest.raises(TrainingError, match="no trial in .* was trained to its end: .*width"):
        fit_best(log, trials=1, search={"heads": [3]}, out=str(tmp_path / "c"), **given)
    assert not (tmp_path / "b").exists()


def test_no_settings_come_again_while_others_are_left(log, tmp_path):
    out = tmp_path / "study"
    flags = ("--epochs", "1", "--search", "blocks=1..2", "--search", "dropout=0.1,0.3")
    assert command(log, out, *flags, "--trials", "4") == 0
    tried = [(t["settings"]["blocks"], t["settings"]["dropout"]) for t in trials(out)]
    assert sorted(tried) == [(1, 0.1), (1, 0.3), (2, 0.1), (2, 0.3)]


def test_what_a_study_leaves(log, study, tmp_path, capsys):
    found = trials(study)
    assert sorted(trial["trial"] for trial in found) == list(range(TRIALS))
    scores = [trial["score"] for trial in found]
    assert scores == sorted(scores, reverse=True)
    assert {trial["state"] for trial in found} == {"trained", "pruned"}
    for trial in found:
        folder = RunFolder(study / trial["folder"])
        curve = [
            line["valid"]["sampled"]["ndcg@10"]
            for line in read_lines(folder.log)
            if "valid" in line
        ]
        assert folder.result.is_file() == (trial["state"] == "trained")
        if trial["state"] == "trained":
            assert trial["score"] == max(curve) and len(curve) == trial["epochs"] == 4
            assert curve.index(max(curve)) + 1 == trial["best_epoch"]
        config = folder.read_config()
        assert all(getattr(config, name) == v for name, v in trial["settings"].items())
    first = next(trial for trial in found if trial["trial"] == 0)
    assert first["settings"] == {"learning_rate": 1e-3, "blocks": 2, "dropout": 0.2}
    assert (study / "importances.png").read_bytes().startswith(b"\x89PNG")
    text = (study / "table.md").read_text()
    order = [
        int(line.split("|")[1]) for line in text.splitlines() if line[:3].strip("| ").isdigit()
    ]
    assert order == [trial["trial"] for trial in found]
    out = tmp_path / "again"
    assert train(["--config", str(study / "config.json"), "--out", str(out)]) == 0
    best = json.loads((out / "result.json").read_text())
    assert best["valid"]["sampled"]["ndcg@10"] == scores[0]


def test_pruned_trials_were_below_the_median(study):
    """Of the scores that the trials before them had at the same epoch."""
    curves = {trial.number: trial.intermediate_values for trial in stored(study)}
    pruned = [trial for trial in stored(study) if trial.state == TrialState.PRUNED]
    for trial in pruned:
        epoch = max(trial.intermediate_values)
        before = [curves[n][epoch] for n in range(trial.number) if epoch in curves[n]]
        assert max(trial.intermediate_values.values()) < statistics.median(before)
    assert pruned


def test_importances_add_up_and_name_what_was_searched(study):
    found = json.loads((study / "trials.json").read_text())["importances"]
    assert set(found) == {"learning_rate", "blocks", "dropout"}
    assert sum(found.values()) == pytest.approx(1)


def killed(at, work):
    """Whether `work` is killed at its `at`-th event, from 0, in a process of its own.

    An event is before or after something is told to the study, or a checkpoint or file is written.
    """

    def dying():
        _die_at(at)
        return work()

    status = in_a_fork(dying)
    assert status in (0, -signal.SIGKILL), f"ended with {status}"
    return status != 0


def _die_at(at):
    events = [0]

    def event():
        if events[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        events[0] += 1

    def dying(function):
        def wrapped(*arguments, **named):
            event()
            result = function(*arguments, **named)
            event()
            return result

        return wrapped

    storage = optuna.storages.RDBStorage
    for owner, name in (
        (storage, "create_new_study"), (storage, "create_new_trial"),
        (storage, "set_trial_param"), (storage, "set_trial_state_values"),
        (storage, "set_trial_intermediate_value"), (Checkpoint, "save"), (RunFolder, "write"),
        (tune, "write_atomically"),
    ):  # fmt: skip
        setattr(owner, name, dying(getattr(owner, name)))


@pytest.mark.slow
def test_killed_at_many_points_it_goes_on_to_the_same_study(log, study, tmp_path, monkeypatch):
    data = load_data(parse(["--data", str(log), *SMALL]).config)
    monkeypatch.setattr(tune, "load_data", lambda *of: data)  # polars does not survive a fork
    out, kills = tmp_path / "study", 0
    points = iter([*range(12), *range(12, 400, 7)])  # each gets further than it has come
    while killed(next(points), lambda: command(log, out, "--trials", str(TRIALS))):
        kills += 1
    assert kills >= 15
    assert trials(out) == trials(study)
    assert (out / "config.json").read_bytes() == (study / "config.json").read_bytes()
    ended = stored(out)
    assert len(ended) == TRIALS
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in ended)


@pytest.mark.slow
def test_stopped_it_says_so_and_goes_on(log, study, tmp_path, capsys, monkeypatch):
    out, file, step, steps = tmp_path / "study", tmp_path / "j.json", Trainer._step, []

    def interrupting(trainer, stop):
        steps.append(trainer.progress.step)
        if len(steps) == 22:  # in the second trial: one has 16 steps
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, stop)

    monkeypatch.setattr(Trainer, "_step", interrupting)
    flags = ("--trials", "2", "--json", str(file))
    assert command(log, out, *flags) == 130
    assert "everything is kept; the same command goes on" in capsys.readouterr().err
    assert len(trials(out)) == 1
    assert command(log, out, *flags) == 0
    assert steps == [*range(16), *range(6), *range(6, 16)]
    first = sorted(trials(study), key=lambda trial: trial["trial"])[:2]
    assert sorted(trials(out), key=lambda trial: trial["trial"]) == first
    assert json.loads(file.read_text()) == json.loads((out / "trials.json").read_text())


def test_more_trials_follow_and_other_studies_are_refused(log, study, tmp_path, capsys):
    flags = ("--search", "dropout=0.1,0.2", "--pruner", "none")
    out = tmp_path / "study"
    assert command(log, out, "--trials", "1", *flags) == 0
    assert command(log, out, "--trials", "3", *flags) == 0
    assert len(trials(out)) == 3
    capsys.readouterr()
    assert command(log, out, "--trials", "3", *flags, "--seed", "1") == 2
    assert "holds a study with seed 0, now it is 1; give another --out" in capsys.readouterr().err
    assert command(log, out, "--trials", "3") == 2
    assert "holds a study with search" in capsys.readouterr().err
    other = write_log(tmp_path / "other.txt", seed=1)
    assert command(other, out, "--trials", "3", *flags) == 2
    assert "holds a study with other data; give another --out" in capsys.readouterr().err
    assert command(log, out / "trials" / "0000", "--trials", "1") == 2
    assert "exists already and holds no study" in capsys.readouterr().err


def test_trials_that_fail_count_and_say_why(log, tmp_path, capsys):
    flags = ("--search", "learning_rate=1e38", "--trials", "2")
    assert command(log, tmp_path / "study", *flags) == 1
    found = trials(tmp_path / "study")
    assert [trial["state"] for trial in found] == ["failed"] * 2
    assert all("not finite" in trial["error"] or "is nan" in trial["error"] for trial in found)
    assert not (tmp_path / "study/config.json").exists()
    assert "no trial was trained to its end" in capsys.readouterr().err


def test_the_table_shows_values_and_reasons_as_they_were_written(log, tmp_path):
    out = tmp_path / "study"
    assert command(log, out, "--model", "rksa", "--search", "kernels=a|*b*", "--trials", "1") == 1
    text = (out / "table.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| 0 "))
    assert row.endswith(r"| a\|\*b\* |") and r"failed: kernels must name" in text
    assert r"got 'a\|\*b\*'" in text and "`rka-fast tune " in text


def test_bad_calls(log, tmp_path, capsys, monkeypatch):
    out = tmp_path / "study"
    for flags, message in (
        (("--trials", "0"), "trials must be a whole number, at least 1, got 0"),
        (("--split", "none", "--epochs", "1"), "split 'none' holds nothing out to choose by"),
        (("--track", "mlflow"), "track 'mlflow' is of a single run, not of trials; leave it out"),
        (("--search", "heads=3"), None),
    ):
        status = command(log, out, *flags)
        if message:
            assert status == 2 and message in capsys.readouterr().err
            assert not out.exists()
        else:  # it does not divide the width: every trial says so
            assert status == 1 and "multiple of heads (3)" in trials(out)[0]["error"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command(log, tmp_path / "other") == 2
    assert "pip install optuna scikit-learn" in capsys.readouterr().err


def test_a_model_that_is_fitted_at_once(log, tmp_path):
    flags = ["--data", str(log), "--out", str(tmp_path / "study"), "--model", "bpr_mf"]
    flags += ["--search", "epochs=1,2", "--trials", "2", "--device", "cpu"]
    assert tune.main(flags) == 0
    assert {trial["state"] for trial in trials(tmp_path / "study")} == {"trained"}


def test_the_flags_of_a_run_to_take_up_are_not_there(capsys):
    with pytest.raises(SystemExit):
        tune.main(["--help"])
    text = capsys.readouterr().out
    assert "--trials" in text and "--learning-rate" in text and "--resume" not in text
