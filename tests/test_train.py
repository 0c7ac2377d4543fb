import json
import signal
import subprocess
import time

import pytest
from support.runs import command, run_command, small, train, write_log

from rka_fast.train import main
from rka_fast.training.metrics import METRICS


@pytest.fixture(scope="module")
def run(log, tmp_path_factory):
    """A finished run, the JSON it wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run_command(
        "rka_fast.train",
        "--data",
        log,
        "--out",
        folder,
        *small(),
        "--epochs",
        "2",
        "--json",
        folder.parent / "result.json",
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder.parent / "result.json").read_text()), done


def test_the_result(run):
    folder, result, _ = run
    assert list(result) == [
        "data",
        "model",
        "best_epoch",
        "valid",
        "test",
        "intervals",
        "lists",
        "popularity",
        "seconds",
        "config",
    ]
    assert result["model"] == "rksa" and result["best_epoch"] in (1, 2)
    assert result["data"]["users"] == 60 and result["data"]["synthetic"] is False
    popularity = [result["popularity"][stage] for stage in ("valid", "test")]
    for scores in (result["valid"], result["test"], *popularity):
        for kind in ("sampled", "full"):
            assert set(scores[kind]) == set(METRICS)
            assert all(0 <= value <= 1 for value in scores[kind].values())
    assert set(result["seconds"]) == {"train", "eval", "per_epoch"}
    assert json.loads((folder / "result.json").read_text()) == result


def test_what_is_printed(run):
    _, result, done = run
    report, table = done.stdout.split("Test scores")
    assert "60" in report and "epoch   2  loss" in report and "valid NDCG@10" in report
    assert "Hit@5   NDCG@5    MRR@5   Hit@10  NDCG@10   MRR@10" in table
    rows = [line.split() for line in table.splitlines()]
    for model, scores in (("rksa", result["test"]), ("popularity", result["popularity"]["test"])):
        for kind in scores.values():
            numbers = [f"{kind[name]:.4f}" for name in METRICS]
            assert any(row[-7:] == [model, *numbers] for row in rows)
    assert "\r" not in done.stderr and "epoch   1  loss" in done.stdout  # no terminal, no bar
    assert "synthetic" not in done.stdout


def test_the_run_folder(run):
    folder = run[0]
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "data.json",
        "manifest.json",
        ".lock",
        "sequences",
        "metrics.jsonl",
        "best.safetensors",
        "last.safetensors",
        "curve.png",
        "ranks.npz",
        "lists.npz",
        "result.json",
    }
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("valid" in line for line in lines) == 2


def test_warnings_stand_under_the_table_again(run):
    printed = run[2].stdout
    above, below = printed.split("Test scores")
    warnings = [line for line in above.splitlines() if line.startswith("warning:")]
    assert "warning: only 60 users are tested" in warnings[0]
    table, next_steps = below.split("\n\n")
    assert table.splitlines()[-len(warnings) :] == warnings and "rka-fast recommend" in next_steps


def test_synthetic_data_is_called_so(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "run"), *small("pop"), "--model", "pop"]) == 0
    assert "Test scores, over 2,000 users (synthetic data)" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/result.json").read_text())["data"]["synthetic"] is True


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(log, tmp_path):
    flags = ["--data", str(log), *small(), "--epochs", "12", "--patience", "12"]
    flags += ["--save-every", "3"]
    whole = run_command("rka_fast.train", "--out", tmp_path / "whole", *flags)
    assert whole.returncode == 0, whole.stderr
    metrics = tmp_path / "parts" / "metrics.jsonl"
    process = subprocess.Popen(
        **command("rka_fast.train", "--out", tmp_path / "parts", *flags),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (
        metrics.exists() and metrics.read_text().count('"loss"') >= 10
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    resumed = run_command("rka_fast.train", "--resume", tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr
    assert metrics.read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    results = [
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts")
    ]
    for result in results:
        del result["seconds"], result["config"]
    assert results[0] == results[1]


@pytest.mark.slow
def test_ctrl_c_says_how_to_resume(log, tmp_path):
    process = subprocess.Popen(
        **command(
            "rka_fast.train", "--data", log, "--out", tmp_path / "run", *small(), "--epochs", "1000"
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (tmp_path / "run/best.safetensors").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130
    assert f"rka-fast train --resume {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors and (tmp_path / "run/last.safetensors").exists()


@pytest.mark.slow
def test_two_processes_evaluate_as_one(run):
    folder, result, _ = run
    output = folder.parent / "two.json"
    done = run_command("rka_fast.train", "--resume", folder, "--json", output, processes=2)
    assert done.returncode == 0, done.stderr
    two = json.loads(output.read_text())
    for part in ("valid", "test", "popularity", "best_epoch", "data"):
        assert two[part] == result[part]
    assert done.stdout.count("Test scores") == 1 and "(finished)" in done.stdout


@pytest.mark.slow
def test_two_processes_train(log, tmp_path):
    done = run_command(
        "rka_fast.train",
        "--data",
        log,
        "--out",
        tmp_path / "two",
        *small(),
        "--epochs",
        "1",
        processes=2,
    )
    assert done.returncode == 0, done.stderr
    assert train(log, tmp_path / "one", "--epochs", "1") == 0
    first = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("one", "two")
    ]
    # the same batches and weights; only the noise and dropout of half the users differ
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=0.2)


def test_resuming_a_finished_run_shows_the_table_again(run, capsys):
    folder, _result, done = run
    before = (folder / "metrics.jsonl").read_text()
    assert main(["--resume", str(folder)]) == 0
    table = done.stdout.split("Test scores")[1]
    assert capsys.readouterr().out.split("Test scores")[1] == table
    assert (folder / "metrics.jsonl").read_text() == before


def test_a_finished_run_takes_more_epochs_and_not_fewer(log, tmp_path, capsys):
    flags = ("--model", "sasrec")
    assert train(log, tmp_path / "long", *flags, "--epochs", "3") == 0
    assert train(log, tmp_path / "short", *flags, "--epochs", "1") == 0
    assert main(["--resume", str(tmp_path / "short"), "--epochs", "3"]) == 0
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("long", "short")]
    assert texts[0] == texts[1]
    before = (tmp_path / "short" / "config.json").read_text()
    assert main(["--resume", str(tmp_path / "short"), "--epochs", "2"]) == 2
    assert "epochs 2: the run in" in capsys.readouterr().err
    assert (tmp_path / "short" / "config.json").read_text() == before


def complaint(capsys, *flags):
    """The message of a command that must fail as a user's mistake."""
    assert main([str(flag) for flag in flags]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: ")
    return error


def test_bad_data_is_a_message(tmp_path, capsys):
    def of(text, *flags):
        file = tmp_path / "bad.txt"
        file.write_text(text)
        return complaint(capsys, "--data", file, "--out", tmp_path / "run", *small(), *flags)

    assert "missing.txt" in complaint(
        capsys, "--data", tmp_path / "missing.txt", "--out", tmp_path / "run"
    )
    assert "empty" in of("")
    assert "user" in of("".join(f"1 {item}\n" for item in range(200)))
    assert "3 events" in of("".join(f"{user} {user}\n{user} 7\n" for user in range(50)))
    assert not (tmp_path / "run").exists()


def test_bad_output_is_a_message_before_training(log, run, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    start = ["--data", log, *small()]
    error = complaint(capsys, *start, "--out", tmp_path / "file")
    assert "file" in error and "choose another --out" in error
    error = complaint(capsys, *start, "--out", tmp_path / "file" / "run")
    assert f"cannot write to run folder {tmp_path / 'file' / 'run'}: Not a directory" in error
    error = complaint(capsys, *start, "--out", run[0])
    assert f"run folder {run[0]} exists already; continue it with --resume {run[0]}" in error
    error = complaint(capsys, *start, "--out", tmp_path / "new", "--json", tmp_path / "file" / "j")
    assert f"cannot write {tmp_path / 'file' / 'j'}" in error
    assert not (tmp_path / "new").exists()


def test_bad_resume_is_a_message(log, tmp_path, capsys):
    assert "is not a run folder" in complaint(capsys, "--resume", tmp_path)
    assert train(log, tmp_path / "a", "--model", "sasrec", "--epochs", "1") == 0
    other = write_log(tmp_path / "other.txt", items=140)
    assert train(other, tmp_path / "b", "--model", "sasrec", "--epochs", "1") == 0
    capsys.readouterr()
    error = complaint(capsys, "--resume", tmp_path / "a", "--width", "4")
    assert "width cannot change on --resume: the run has 8, given 4" in error
    last = tmp_path / "a/last.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:-10])
    assert "last.safetensors is damaged" in complaint(capsys, "--resume", tmp_path / "a")
    last.write_bytes((tmp_path / "b/last.safetensors").read_bytes())
    assert "a different item catalogue" in complaint(capsys, "--resume", tmp_path / "a")
    last.write_bytes(whole)
    (tmp_path / "a/best.safetensors").write_bytes(b"x")
    assert "best.safetensors is damaged" in complaint(capsys, "--resume", tmp_path / "a")


def test_nan_loss_is_a_message(log, tmp_path, capsys):
    error = complaint(
        capsys,
        "--data",
        log,
        "--out",
        tmp_path / "run",
        *small("sasrec"),
        "--model",
        "sasrec",
        "--learning-rate",
        "1e38",
    )
    assert "at step 2 (epoch 1)" in error or "after step" in error
