"""Training on shards: against training on the whole log, resumed, and by several processes."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.runs import SMALL, run_command, small, train, write_log

from rka_fast import Run
from rka_fast.commands import main
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.shards import Prepared
from rka_fast.training.assemble import assemble
from rka_fast.training.config import Config
from rka_fast.training.devices import make_accelerator
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.streamed_split import Shards
from rka_fast.training.streaming import Streamed, catalogue_of


def prepared(folder: Path, shards: int, *flags: str) -> Path:
    """A prepared log of 60 users in some shards."""
    log, out = write_log(folder / "log"), folder / f"in{shards}"
    assert main(["prepare", str(log), "--out", str(out), "--shards", str(shards), *flags]) == 0
    return out


def metrics(run: Path) -> list:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def parts(data: Path, **settings) -> tuple[Config, Streamed]:
    config = Config(data=str(data), model="rksa", loss="bce", stream=True, **SMALL, **settings)
    of = Prepared.open(data)
    return config, Streamed(config, of, catalogue_of(of), make_accelerator(config))


@pytest.mark.parametrize("counts", ["leave-one-out", "no"])
def test_one_shard_is_the_whole_log(counts, tmp_path):
    data = prepared(tmp_path, 1, "--counts", counts)
    more = ("--epochs", "2", "--loss", "bce")
    assert train(tmp_path / "log", tmp_path / "a", *more) == 0
    assert train(data, tmp_path / "b", "--stream", *more) == 0
    for name in ("metrics.jsonl", "ranks.npz", "lists.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    whole, streamed = (json.loads((tmp_path / r / "result.json").read_text()) for r in "ab")
    for name in ("valid", "test", "popularity", "intervals", "lists"):
        assert whole[name] == streamed[name], name
    assert whole["data"]["evaluation"] == streamed["data"]["evaluation"]


def test_shards_go_on_bit_for_bit_and_are_evaluated_as_the_whole(tmp_path, capsys):
    data = prepared(tmp_path, 3)
    assert train(data, tmp_path / "a", "--stream", "--epochs", "4", "--patience", "9") == 0
    assert train(data, tmp_path / "b", "--stream", "--epochs", "2", "--patience", "9") == 0
    assert "streamed: one process on its own of 3 shards" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "b"), "--epochs", "4"]) == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b") and len(metrics(tmp_path / "a")) > 8
    run = Run.load(tmp_path / "a")
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    for name, value in run.evaluate("test")["full"].items():
        assert result["test"]["full"][name] == pytest.approx(value, abs=1e-12)
    assert len(run.recommend("u3")) == 10
    ranks = RunFolder(tmp_path / "a").read_ranks()["full"]
    assert len(ranks) == len(run.batcher.split.targets("test").users)
    assert len(set(ranks)) > 5


def test_an_epoch_has_every_user_once_and_a_new_order(tmp_path):
    _, of = parts(prepared(tmp_path, 3))
    steps, seen = of.steps_per_epoch, []
    for epoch in range(2):
        batches = [of.batch(epoch * steps + step, steps) for step in range(steps)]
        assert {weight for _, weight in batches} == {1.0}
        rows = [row[row > 0].tolist() for batch, _ in batches for row in batch.items]
        seen.append(rows)
    assert sorted(seen[0]) == sorted(seen[1]) and seen[0] != seen[1]
    run = Config(data=str(of.shards.prepared.path), model="rksa", loss="bce", **SMALL)
    _, _, batcher = assemble(run, of.shards.prepared.sequences())
    expected = batcher.training(batcher.training_users, 0).items
    assert sorted(seen[0]) == sorted(row[row > 0].tolist() for row in expected)


def test_what_is_known_of_all_shards_is_that_of_the_whole(tmp_path):
    for counts in ("leave-one-out", "no"):
        folder = tmp_path / counts
        folder.mkdir()
        config, of = parts(prepared(folder, 4, "--counts", counts))
        split, _, batcher = assemble(config, of.shards.prepared.sequences())
        assert np.array_equal(of.split.train_counts(), split.train_counts())
        assert np.array_equal(of.split.holders, split.holders)
        assert of.split.trained_users == split.trained_users
        for stage in ("valid", "test"):
            assert np.array_equal(of.split.targets(stage).users, split.targets(stage).users)
            assert np.array_equal(of.split.target_items(stage), split.target_items(stage))
        counts_of_all = CoOccurrence.from_split(split)
        assert (of.shards.counts.matrix != counts_of_all.matrix).nnz == 0
        # A user's own part is taken out of its rows as in the whole.
        here = of.shards.batcher(1, of.model).training(np.array([2]), 0)
        there = batcher.training(np.array([2 * 4 + 1]), 0)
        assert np.array_equal(here.cooccurrence, there.cooccurrence)
        assert np.array_equal(here.items, there.items)
        assert np.array_equal(here.users, there.users) and here.users.tolist() == [9]
        assert (of.model.users.weight.shape, of.model.items.weight.shape) == ((61, 8), (131, 8))


def test_a_shard_may_ask_nobody_but_not_all_of_them(tmp_path, capsys):
    """Users in turn are in two shards: those of the first have too few events to be asked."""
    log, out = tmp_path / "log", tmp_path / "prepared"
    lines = [f"u{user} i{(user + k) % 9}" for user in range(20) for k in range(2 + 4 * (user % 2))]
    log.write_text("\n".join(lines))
    assert main(["prepare", str(log), "--out", str(out), "--shards", "2"]) == 0
    assert train(out, tmp_path / "run", "--stream", "--epochs", "2") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["evaluation"]["target_users"] == {"valid": 10, "test": 10}
    log.write_text("\n".join(line for line in lines if int(line.split()[0][1:]) % 2 == 0))
    assert main(["prepare", str(log), "--out", str(tmp_path / "few"), "--shards", "2"]) == 0
    assert train(tmp_path / "few", tmp_path / "none", "--stream") == 2
    assert "finds nobody to ask in valid" in capsys.readouterr().err


def test_one_shard_is_held_at_a_time(tmp_path, monkeypatch):
    """The one before is given up when the next is read, and so are counts but for their sum."""
    data, there, most = prepared(tmp_path, 4, "--counts", "no"), [], [0]
    read, count = Shards._read, CoOccurrence.from_split

    def watched(self, number):
        gc.collect()
        assert [ref() for ref in there if ref() is not None] == []
        there.append(weakref.ref(split := read(self, number)))
        return split

    def counted(split):
        made.append(weakref.ref(counts := count(split)))
        most[0] = max(most[0], sum(ref() is not None for ref in made))
        return counts

    made = []
    monkeypatch.setattr(Shards, "_read", watched)
    monkeypatch.setattr(CoOccurrence, "from_split", counted)
    _, of = parts(data)
    steps = of.steps_per_epoch
    for step in range(2 * steps):
        of.batch(step, steps)
    assert len(there) >= 3 * 4 and len(made) == 4 and most[0] <= 2


def test_damaged_counts_are_told_before_training(tmp_path, capsys):
    """To a model, too, that does not read them: its lists are compared by them at the end."""
    data = prepared(tmp_path, 2)
    assert train(data, tmp_path / "run", "--stream", "--model", "sasrec", "--epochs", "1") == 0
    counts = pl.read_parquet(data / "counts.parquet")
    counts.with_columns(users=pl.col("users") + 1).write_parquet(data / "counts.parquet")
    capsys.readouterr()
    for model in "sasrec", "rksa":
        assert train(data, tmp_path / model, "--stream", "--model", model) == 2
        told = capsys.readouterr()
        assert "counts.parquet is damaged" in told.err and "speed" not in told.out


def test_what_cannot_be_streamed(tmp_path, capsys, monkeypatch):
    data = prepared(tmp_path, 2)

    def told(*flags: str) -> str:
        capsys.readouterr()
        model = flags[flags.index("--model") + 1] if "--model" in flags else "sasrec"
        flags = flags if "--model" in flags else ("--model", "sasrec", *flags)
        words = ("train", "--out", str(tmp_path / "run"), "--stream", *small(model), *flags)
        assert main(list(words)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    here = ("--data", str(data))
    assert "stream needs data that rka-fast prepare wrote" in told("--data", str(tmp_path / "log"))
    assert "model 'bpr_mf' needs all users at once" in told(*here, "--model", "bpr_mf")
    assert "model 'pop' needs all users at once" in told(*here, "--model", "pop")
    assert "quantiles need all times at once" in told(*here, "--split", "time")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "3 processes for 2 shards" in told(*here)
    assert not (tmp_path / "run").exists()


def test_a_log_goes_on_from_a_streamed_run(tmp_path, capsys):
    data, new = prepared(tmp_path, 2), write_log(tmp_path / "new", seed=1)
    assert train(data, tmp_path / "a", "--stream", "--epochs", "1") == 0
    assert train(new, tmp_path / "b", "--from", str(tmp_path / "a"), "--epochs", "1") == 0
    assert "493 events, and new ones: " in capsys.readouterr().out
    assert not RunFolder.open(tmp_path / "b").read_config().stream


def test_other_data_and_another_number_of_processes_are_refused(tmp_path, capsys, monkeypatch):
    data, run = prepared(tmp_path, 2), tmp_path / "run"
    assert train(data, run, "--stream", "--epochs", "1") == 0
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--resume", str(run)]) == 2
    assert (
        "was begun by 1 process, each on its own shards, and this is 2" in capsys.readouterr().err
    )
    monkeypatch.delenv("WORLD_SIZE")
    data.rename(tmp_path / "away")
    write_log(tmp_path / "log2", seed=1)
    assert main(["prepare", str(tmp_path / "log2"), "--out", str(data), "--shards", "2"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    assert "is not what the run was trained on" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_on_their_own_shards_and_resume(tmp_path):
    data = prepared(tmp_path, 5)
    flags = ("--data", data, *small("rksa"), "--patience", "9", "--loss", "bce")

    def go(*more: object) -> str:
        done = run_command("rka_fast.train", *more, processes=2)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "streamed: 2 processes" in go(*flags, "--out", tmp_path / "a", "--epochs", "3")
    steps = [line["step"] for line in metrics(tmp_path / "a") if "valid" not in line]
    assert steps == list(range(1, len(steps) + 1))  # one of them writes
    # both find the device that is there
    go(*flags, "--device", "auto", "--out", tmp_path / "b", "--epochs", "1")
    go("--resume", tmp_path / "b", "--epochs", "3")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    lines = metrics(tmp_path / "a")
    losses = [line["loss"] for line in lines if "loss" in line]
    # 60 users in shards of 12, of which process 0 has three: 36 users, 8 of 16 a step.
    assert len(losses) == 3 * 3 * 2 and np.isfinite(losses).all()
    run = Run.load(tmp_path / "a")
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    for name, value in run.evaluate("test")["full"].items():
        assert result["test"]["full"][name] == pytest.approx(value, abs=1e-12)
