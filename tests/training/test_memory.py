"""The memory of a run: foreseen against the measured peak, limits of containers, refusals."""

import dataclasses
import functools
import re

import memory as benchmark
import numpy as np
import pytest
import torch
from support.runs import SMALL, train, write_log
from support.sequences import sequences_of

from rka_fast.commands import main
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.shards import Prepared
from rka_fast.data.split_rules import leave_one_out
from rka_fast.errors import TrainingError
from rka_fast.models import MODELS
from rka_fast.reproduce import main as reproduce
from rka_fast.training import memory
from rka_fast.training.config import Config
from rka_fast.training.memory import foreseen
from rka_fast.training.streaming import catalogue_of


@pytest.mark.slow
@pytest.mark.parametrize("name", benchmark.SIZES)
def test_what_is_foreseen_is_what_is_taken(name):
    """Of the process within a quarter; of what training adds to it within two fifths."""
    found = benchmark.measured(name)
    assert found["foreseen"] / found["peak"] == pytest.approx(1, abs=0.25)
    if name != "small":  # there it is libraries
        added = (found["foreseen"] - found["now"]) / (found["peak"] - found["now"])
        assert added == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_foreseen(model):
    """Weights are those of the model: with gradient and two moments where it trains by Adam."""
    split = leave_one_out(sequences_of([range(1, 9)] * 5, 40))
    config = Config(model=model, device="cpu")
    found = foreseen(config, split)
    made = MODELS[model].from_config(config, split)
    weights, others = (sum(x.nbytes for x in of) for of in (made.parameters(), made.buffers()))
    assert found.weights == weights * (4 if made.trains else 1) + others
    assert found.peak > found.now + found.weights and found.counts >= 8 * 6**2


def test_features_are_held_once_and_not_saved():
    """They have no gradient and no moments; what they weigh, 16 x 8 numbers, has."""
    plain = leave_one_out(sequences_of([range(1, 9)] * 5, 40))
    features = np.ones((40, 16), np.float32)
    names = [f"f{i}" for i in range(16)]
    with_features = dataclasses.replace(plain.sequences, features=features, feature_names=names)
    config = Config(model="sasrec", device="cpu", width=8)
    without, found = foreseen(config, plain), foreseen(config, leave_one_out(with_features))
    table = (40 + 1) * (16 + 1) * 4  # with the padding, and whether an item has events
    assert found.weights - without.weights == table + 4 * 16 * 8 * 4
    assert found.saving - without.saving == memory.SAVED_AT_ONCE * 3 * 16 * 8 * 4


def test_limits_of_containers(tmp_path):
    """Version 2 with a limit above the group, version 1, no limit, and no such files."""
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    assert list(memory._cgroup_limits(groups, root)) == []
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "memory.max").write_text("max\n")
    (root / "a" / "memory.max").write_text("3000000000\n")
    (root / "memory.max").write_text("8000000000\n")
    groups.write_text("0::/a/b\n")
    assert sorted(memory._cgroup_limits(groups, root)) == [3_000_000_000, 8_000_000_000]
    (root / "memory" / "d").mkdir(parents=True)
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "memory" / "d" / "memory.limit_in_bytes").write_text("123456\n")
    groups.write_text("5:cpu,cpuacct:/d\n4:memory:/d\n0::/elsewhere\n")
    assert sorted(memory._cgroup_limits(groups, root)) == [123_456, 8_000_000_000]


def test_this_machine_has_a_limit():
    limit = memory.memory_limit()
    assert limit is not None and 2**28 < limit < 2**50


def test_what_will_not_fit_is_refused(log, tmp_path, monkeypatch, capsys):
    """Before anything is written, with what makes it smaller; --force tries it, and is no setting
    of the run."""
    monkeypatch.setattr(memory, "memory_limit", lambda: 2**18)
    monkeypatch.setattr(memory, "resident", lambda: 0)
    monkeypatch.setattr(memory, "LATER", 0)
    out = tmp_path / "run"
    flags = ("--model", "sasrec", "--epochs", "1", "--batch-size", "50")
    assert train(log, out, *flags) == 2
    error = capsys.readouterr().err
    assert "of 0.25 MiB at the peak" in error and "--loss sampled_ce" in error
    assert "a lower --batch-size than 50" in error and "--force" in error
    assert not out.exists()
    assert train(log, out, *flags, "--force") == 0
    sets = [word for pair in SMALL.items() for word in ("--set", "=".join(map(str, pair)))]
    cells = ["--data", str(log), "--models", "sasrec,pop", "--seeds", "1", "--epochs", "1", *sets]
    assert reproduce([*cells, "--out", str(tmp_path / "cells")]) == 1
    told = capsys.readouterr().out
    assert "failed: " in told and "it will not fit" in told


def test_a_gpu_has_its_own_line(monkeypatch):
    """What trains is there, what is read and saved beside it; a Mac's GPU is told nothing of."""
    sequences = sequences_of([range(1, 9)] * 5, 40)
    asked = []

    def told(device, **more):
        return memory.check_fits(Config(model="sasrec", device=device, data="x", **more), sequences)

    def has(module, is_there):  # torch looks at what it wraps
        found = functools.wraps(module.is_available)(lambda: is_there)
        monkeypatch.setattr(module, "is_available", found)

    def free(size):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (asked.append(d) or size, 2**40))

    has(torch.cuda, False), has(torch.backends.mps, False)
    (line,) = told("cpu")
    assert told("auto") == [line] and line.startswith("memory: about ")
    has(torch.backends.mps, True)
    assert told("auto") == told("mps") == []
    has(torch.cuda, True), free(2**31)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    of_gpu, beside = told("auto")
    assert of_gpu.startswith("memory of the GPU: about ") and " of 2.00 GiB at the" in of_gpu
    assert "saving" not in of_gpu and "a step" not in beside
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert told("cuda")[0] == told("cuda:1")[0] == of_gpu and asked == [0, 3, 1]
    found = foreseen(Config(model="sasrec", device="cpu"), leave_one_out(sequences))
    assert found.on_gpu == found.weights + max(found.step, found.evaluation, found.trial)
    assert found.on_gpu + found.beside_gpu.peak > found.peak
    free(found.on_gpu - 1)
    with pytest.raises(TrainingError, match=r"memory of the GPU.* it will not fit; .*--force"):
        told("cuda")
    assert len(told("cuda", force=True)) == 2
    free(found.on_gpu)
    assert len(told("cuda")) == 2


def test_a_gpu_that_is_not_there_is_told(log, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(log, tmp_path / "run", "--model", "sasrec", "--device", "cuda") == 2
    assert "device 'cuda' is not available on this machine" in capsys.readouterr().err


def test_a_refusal_without_remedies(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 2**18)
    monkeypatch.setattr(memory, "_remedies", lambda config, found: iter(()))
    with pytest.raises(TrainingError, match="it will not fit; or --force tries it"):
        memory.check_fits(Config(device="cpu", data="x"), sequences_of([range(1, 9)] * 5, 40))


@pytest.mark.parametrize("model", MODELS)
def test_remedies_are_settings_that_the_model_has(model, monkeypatch):
    """Where items take most, and where a step does."""
    monkeypatch.setattr(memory, "memory_limit", lambda: 2**18)
    for items in 40, 20_000:
        data = sequences_of([range(1, 9)] * 5, items)
        with pytest.raises(TrainingError) as refused:
            memory.check_fits(Config(model=model, device="cpu", data="x"), data)
        told = str(refused.value)
        assert "None" not in told and told.endswith("; or --force tries it")
    widths = re.findall(r"a lower --width than (\d+) takes", told)
    assert widths == [] if model in ("pop", "item_knn") else [str(Config(model=model).width)]


def streamed(folder, *flags, shards=3, **settings):
    """What is foreseen of a streamed run on 60 users with 493 events of 130 items."""
    data = folder / f"in{shards}"
    if not data.exists():
        log = write_log(folder / "log")
        assert main(["prepare", str(log), "--out", str(data), "--shards", str(shards), *flags]) == 0
    of = Prepared.open(data)
    config = Config(data=str(data), stream=True, **{**SMALL, "model": "rksa", **settings})
    return of, memory.foreseen_streamed(config, of, catalogue_of(of))


TABLE = 4 * 131**2
"""Bytes of the table of all pairs that the counts of 130 items are looked up in."""


def test_a_streamed_run_is_foreseen(tmp_path, monkeypatch):
    of, found = streamed(tmp_path)
    split = leave_one_out(of.sequences())
    made = MODELS["rksa"].from_config(Config(model="rksa", **SMALL), split)
    weights, others = (sum(x.nbytes for x in of) for of in (made.parameters(), made.buffers()))
    assert found.weights == 4 * weights + others  # of all users, not of a shard's
    assert found.targets == memory.TARGET * 2 * 60
    pairs = of.counts("leave-one-out", 5000).matrix
    stored = found.counts - TABLE
    assert found.held and pairs.nnz * 8 <= stored <= 2 * 8 * pairs.nnz
    assert found.making == memory.COUNTING * stored
    one = streamed(tmp_path, shards=1)[1]
    assert 2 * found.shard < one.shard < 3 * found.shard + 1 and one.counts == found.counts
    assert streamed(tmp_path, eval_users=6)[1].targets == memory.TARGET * 2 * 6
    at_the_end = streamed(tmp_path, model="sasrec")[1]
    assert not at_the_end.held and at_the_end.counts == found.counts
    assert at_the_end.making == memory.COUNTING * stored + at_the_end.weights
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert streamed(tmp_path)[1].step < found.step  # half of a batch


@pytest.mark.parametrize(("users", "items"), [(3000, 100), (3000, 2000)])
@pytest.mark.parametrize("shards", [1, 3, 10])
def test_counts_that_are_not_there_are_foreseen(users, items, shards):
    """From one shard, within a quarter: where most pairs are there soon, and where few are."""
    histories = benchmark.histories(benchmark.Size(users, 14, items, {}))
    whole = leave_one_out(histories)
    own = np.arange(users) % shards == 0
    first = sequences_of([histories.sequence(user) for user in np.flatnonzero(own)], items)
    stored = CoOccurrence.from_split(whole).matrix.nnz
    found = memory.pairs_of_all(leave_one_out(first), shards)
    assert found == pytest.approx(stored, rel=0.25)


def test_a_streamed_run_without_counts_is_foreseen(tmp_path):
    of, found = streamed(tmp_path, "--counts", "no")
    stored = CoOccurrence.from_split(leave_one_out(of.sequences())).matrix.nnz * 8
    assert 0.9 * stored <= found.counts - TABLE <= 1.5 * stored  # of a shard of 20 users


def test_what_a_shard_at_a_time_will_not_fit_is_refused(tmp_path, monkeypatch, capsys):
    """Without reading one; by what is read of it; and --force tries it."""
    data = streamed(tmp_path)[0].path
    monkeypatch.setattr(memory, "resident", lambda: 0)
    monkeypatch.setattr(memory, "LATER", 0)
    flags = ("--stream", "--model", "sasrec", "--epochs", "1")
    capsys.readouterr()
    for limit, more, named in (
        (2**13, (), "more --shards, where the data is prepared, take less each"),
        (2**17, ("--width", "64"), "--min-item-events, where the data is prepared, leaves rare"),
        (2**17, ("--batch-size", "60"), "a lower --batch-size than 60"),
    ):
        monkeypatch.setattr(memory, "memory_limit", lambda limit=limit: limit)
        assert train(data, tmp_path / "run", *flags, *more) == 2
        error = capsys.readouterr().err
        assert "it will not fit" in error and named in error, error
        assert not (tmp_path / "run").exists()
    assert train(data, tmp_path / "run", *flags, "--force") == 0
    assert "memory: about " in capsys.readouterr().out


def test_longer_histories_and_batches_take_more():
    def step(length, **settings):
        rng = np.random.default_rng(0)
        histories = [rng.integers(1, 500, length) for _ in range(200)]
        config = Config(model="sasrec", device="cpu", **settings)
        return foreseen(config, leave_one_out(sequences_of(histories, 500))).step

    assert step(20) < step(40)
    assert step(40, max_length=10) < step(40)
    assert step(40, batch_size=16) < step(40, batch_size=128)
    assert step(20, block="ligr") == step(20, block="ligr", expansion=4) > step(20)
