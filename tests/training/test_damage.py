"""Runs that are damaged, shared or somebody else's. What kills leave is in test_kills.py."""

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from support.first_format import write_run
from support.kills import content, flipped, killed_at
from support.runs import train as train_small
from support.slow import slow

from rka_fast.data.sequences import Sequences
from rka_fast.errors import CheckpointError, FolderError, UserError
from rka_fast.reproduce import main as reproduce
from rka_fast.run import Run
from rka_fast.train import main
from rka_fast.training import trainer
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.metrics_log import read_lines
from rka_fast.training.run_folder import RunFolder

FILES = (
    "config.json",
    "data.json",
    "manifest.json",
    "sequences/ids.json",
    "sequences/sequences.npz",
    "metrics.jsonl",
    "best.safetensors",
    "last.safetensors",
)


def resumed(folder, *flags):
    """Exit status, and what was said on standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main(["--resume", str(folder), *flags])
    return status, said.getvalue()


def refused(folder, *parts):
    status, said = resumed(folder)
    assert status == 2 and "Traceback" not in said
    *_, line = said.strip().splitlines()
    assert line.startswith("error: ") and all(str(part) in line for part in parts), line


# --- the lock ---


def test_a_second_trainer_is_refused_by_name(run, log):
    before = content(run)
    with RunFolder(run).held():
        refused(run, run, "is in use by process", os.getpid(), "wait until it has ended")
        with pytest.raises(FolderError, match="in use by process"), RunFolder(run).held():
            pass
    unlike = {name for name in before if content(run)[name] != before[name]}
    assert unlike <= {".lock"}
    assert resumed(run)[0] == 0


def test_the_lock_of_a_process_that_died_is_free(tmp_path):
    def die_holding():
        with RunFolder(tmp_path).held():
            os._exit(137)

    assert killed_at(10_000, die_holding, tmp_path)
    with RunFolder(tmp_path).held():
        pass


# --- damage ---


@pytest.mark.parametrize("seed", [0, *(slow(s) for s in range(1, 30))])
def test_a_flipped_bit_is_told_with_the_name_of_the_file(finished, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for name in FILES:
        copy = tmp_path / name.replace("/", "-")
        flip = flipped(finished, copy, name, rng)
        status, said = resumed(copy)
        assert status == 2, f"seed {seed}: {flip} was not noticed"
        assert "Traceback" not in said, f"seed {seed}: {flip}: {said}"
        *_, line = said.strip().splitlines()
        file = copy / name
        assert line.startswith("error: ") and str(file) in line, f"seed {seed}: {flip}: {line}"
        assert any(word in line for word in ("restore", "delete", "give")), line


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_told(finished, tmp_path, name):
    for share in (0, 0.5, 0.99):
        copy = shutil.copytree(finished, tmp_path / f"{share}")
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[: int(len(whole) * share)])
        refused(copy, copy / name)


def test_edits_are_told(run):
    for name, old, new in (
        ("config.json", b'"learning_rate": 0.001', b'"learning_rate": 0.002'),
        ("data.json", b'"users": 60', b'"users": 61'),
        ("sequences/ids.json", b'"i3"', b'"x3"'),
    ):
        whole = (run / name).read_bytes()
        assert old in whole
        (run / name).write_bytes(whole.replace(old, new))
        refused(run, run / name, "it is not what the run wrote")
        if name != "data.json":
            with pytest.raises(UserError, match=name):
                Run(run)
        (run / name).write_bytes(whole)
    assert resumed(run)[0] == 0


def test_a_checkpoint_of_another_run_is_refused(run, log, tmp_path):
    other = tmp_path / "other"
    assert train_small(log, other, "--model", "sasrec", "--epochs", "2", "--seed", "1") == 0
    for name in ("best", "last"):
        file = run / f"{name}.safetensors"
        whole = file.read_bytes()
        file.write_bytes((other / file.name).read_bytes())
        refused(run, file, "of another run: its seed is 1, here it is 0")
        file.write_bytes(whole)
    shutil.copy(other / "best.safetensors", run)
    with pytest.raises(CheckpointError, match="its seed is 1, here it is 0"):
        Run(run)


def test_sequences_of_another_log_are_not_these(run):
    folder = RunFolder(run)
    sequences = folder.read_sequences()
    items = sequences.items.copy()
    items[[0, 1]] = items[[1, 0]]
    other = Sequences(sequences.indptr, items, sequences.user_ids, sequences.item_ids)
    assert other.fingerprint() == sequences.fingerprint()
    folder.write({f"sequences/{name}": content for name, content in other.files().items()})
    refused(run, "last.safetensors", "is of a run on other data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda moments: moments[:-1], "has exp_avg of parameter 0 as torch.float32"),
        (lambda moments: moments.double(), "has exp_avg of parameter 0 as torch.float64"),
        (lambda moments: moments * torch.nan, "optimizer.0.exp_avg is not finite"),
        (None, "lacks moments of parameter 0"),
    ],
)
def test_moments_that_do_not_fit_are_refused(run, change, message):
    """Fused Adam would read past their end."""
    file = RunFolder(run).last
    checkpoint = Checkpoint.load(file)
    moments = checkpoint.optimizer["state"][0]
    if change is None:
        del moments["exp_avg"]
    else:
        moments["exp_avg"] = change(moments["exp_avg"])
    checkpoint.save(file)
    refused(run, file, message)


def test_weights_of_another_type_or_not_finite_are_refused(run):
    file = RunFolder(run).last
    whole = file.read_bytes()
    for change, message in (
        (lambda w: w.half(), "torch.float16, expected torch.float32"),
        (lambda w: w * torch.inf, "is not finite"),
    ):
        file.write_bytes(whole)
        checkpoint = Checkpoint.load(file)
        name = next(name for name, w in checkpoint.model.items() if w.is_floating_point())
        checkpoint.model[name] = change(checkpoint.model[name])
        checkpoint.save(file)
        refused(run, file, message)


def test_a_damaged_line_of_the_log_is_named_and_the_log_may_be_deleted(run, finished):
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(True)
    for damaged in ("{\n", '{"step": "1", "loss": 0}\n', '{"step": 3, "loss": NaN}\n', "7\n"):
        file.write_text("".join([*lines[:2], damaged, *lines[3:]]))
        refused(run, f"line 3 of {file} is damaged", "delete it")
    file.unlink()
    assert resumed(run)[0] == 0
    results = [RunFolder(path).read_json("result.json")["test"] for path in (run, finished)]
    assert results[0] == results[1]


def test_a_lost_checkpoint_is_told_before_training(run):
    (run / "best.safetensors").rename(run / "elsewhere")
    refused(run, "there is no checkpoint", run / "best.safetensors")
    (run / "elsewhere").rename(run / "best.safetensors")
    (run / "last.safetensors").unlink()
    refused(run, f"there is no {run / 'last.safetensors'}", "tells of 8 steps", "delete")
    (run / "result.json").unlink()
    (run / "metrics.jsonl").unlink()
    assert resumed(run)[0] == 0  # as it says: from the start again


@pytest.mark.slow
def test_a_damaged_cell_does_not_stop_the_others(log, tmp_path, capsys):
    flags = ["--data", str(log), "--models", "pop", "--seeds", "3", "--out", str(tmp_path)]
    assert reproduce(flags) == 0
    cells = tmp_path / log.stem / "pop"
    ranks = (cells / "seed1" / "ranks.npz").read_bytes()
    for name in ("config.json", "data.json", "result.json", "ranks.npz"):
        file = cells / "seed1" / name
        kept = file.read_bytes()
        file.write_bytes(kept[:-9])
        capsys.readouterr()
        assert reproduce(flags) == 2
        said = capsys.readouterr().out
        assert f"failed: {log.stem} pop seed 1: {file} is damaged" in said.replace("\n", " ")
        assert said.count("(kept)") == 2 and "2 of 3 cells finished" in said
        file.write_bytes(kept)
    (cells / "seed1" / "result.json").unlink()  # as the messages say: it is made again
    assert reproduce(flags) == 0
    assert "3 of 3 cells finished" in (tmp_path / "table.md").read_text()
    assert (cells / "seed1" / "ranks.npz").read_bytes() == ranks


# --- earlier versions ---


def test_a_run_without_a_manifest_gets_one(tmp_path):
    run = write_run(tmp_path / "run")
    assert resumed(run)[0] == 0
    assert (run / "manifest.json").is_file()
    ids = run / "sequences" / "ids.json"
    ids.write_bytes(ids.read_bytes().replace(b"u7", b"w7"))
    refused(run, ids, "it is not what the run wrote")


# --- somebody else's ---


def test_a_folder_from_somebody_else_is_written_to_and_nothing_else(run, tmp_path):
    outside = tmp_path / "outside.json"
    folder = RunFolder(run)
    values = {**folder.read_json("config.json"), "json": str(outside)}
    folder.write({"config.json": json.dumps(values).encode()})
    assert resumed(run)[0] == 0
    assert not outside.exists()
    assert resumed(run, "--json", str(outside))[0] == 0
    assert json.loads(outside.read_text())["model"] == "sasrec"


@pytest.mark.parametrize("name", [*FILES, ".lock", "sequences", "result.json", "ranks.npz"])
def test_links_in_a_run_folder_are_refused(run, tmp_path, name):
    file, outside = run / name, tmp_path / "outside"
    if file.exists():
        file.rename(outside)
    else:
        outside.write_text("mine")
    file.symlink_to(outside)
    before = content(tmp_path / "outside") if outside.is_dir() else outside.read_bytes()
    refused(run, file, "is a link")
    after = content(tmp_path / "outside") if outside.is_dir() else outside.read_bytes()
    assert after == before


def test_a_second_name_of_a_file_is_not_written_to(run, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for name in (".lock", "metrics.jsonl"):
        (run / name).unlink()
        os.link(outside, run / name)
        resumed(run)
        assert outside.read_text() == "mine"
        (run / name).unlink(missing_ok=True)


# --- no space, no permission, no descriptors ---


@pytest.mark.parametrize("call", ["write", "fsync", "open", "replace"])
def test_an_error_of_the_system_is_one_line_with_what_was_saved(
    run, log, monkeypatch, call, capsys
):
    real, codes = getattr(os, call), {"open": 24, "write": 28, "fsync": 28, "replace": 13}

    def failing(path, *arguments, **named):
        from_checkpoint = "last.safetensors" in str(path) or (
            isinstance(path, int) and "last.safetensors" in os.readlink(f"/proc/self/fd/{path}")
        )
        if from_checkpoint:
            raise OSError(codes[call], os.strerror(codes[call]))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, call, failing)
    status, said = resumed(run, "--epochs", "3")
    assert status == 2 and "Traceback" not in said
    *_, line = said.strip().splitlines()
    assert f"cannot write {run}/last.safetensors: {os.strerror(codes[call])}" in line
    assert f"is kept in {run}/last.safetensors" in line and f"--resume {run}" in line
    monkeypatch.undo()
    assert not [name for name in content(run) if name.endswith(".tmp")]
    assert resumed(run, "--epochs", "3")[0] == 0


def test_no_space_for_the_log_is_one_line_with_what_was_saved(run, monkeypatch):
    """Which is the checkpoint before; from there it goes on."""
    before = read_lines(RunFolder(run).log)

    def full_disk(log, values):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "write_line", full_disk)
        status, said = resumed(run, "--epochs", "3")
    assert status == 2 and "Traceback" not in said
    assert f"{run}: No space left on device; the last good checkpoint is kept in {run}" in said
    assert read_lines(RunFolder(run).log) == before
    assert resumed(run, "--epochs", "3")[0] == 0


def test_a_checkpoint_that_cannot_be_opened_is_not_called_damaged(run, monkeypatch):
    def no_descriptors(path):
        raise OSError(24, os.strerror(24), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(type(run), "read_bytes", no_descriptors)
        with pytest.raises(CheckpointError, match="cannot read .*best.*: Too many open files"):
            Checkpoint.load(run / "best.safetensors")
