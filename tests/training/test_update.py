"""train --from RUN: the data, weights and counts of a run, and new events."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from support.runs import SMALL, small
from support.slow import slow

from rka_fast import Run, fit
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.errors import CheckpointError, ConfigError, FolderError
from rka_fast.models import MODELS
from rka_fast.train import main
from rka_fast.training.assemble import assemble
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.update import Start

NEW = pl.DataFrame(
    {
        # New: item n1 beside i3 and i4 (thrice), n2 alone, users v1 and v2; the last two events of
        # each are held out.
        "user": [u for u in ("v1", "v2", "u1") for _ in range(5)] + ["v3"] * 4,
        "item": ["i3", "n1", "i4", "i7", "i8"] * 2
        + ["n1", "i9", "i3", "i7", "i8"]
        + ["n2", "n2", "i1", "i2"],
        "timestamp": range(10**6, 10**6 + 19),
    }
)


def log():
    rng = np.random.default_rng(5)
    items = [(u, int(i)) for u in range(24) for i in rng.integers(0, 30, 7)]
    users, items = zip(*items, strict=True)
    return pl.DataFrame(
        {
            "user": [f"u{u}" for u in users],
            "item": [f"i{i}" for i in items],
            "timestamp": range(len(items)),
        }
    )


@pytest.fixture(scope="module", params=["rksa", "sasrec"])
def old(request, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("old") / "run")
    return fit(log(), model=request.param, epochs=2, patience=7, out=out, **SMALL)


@pytest.fixture(scope="module")
def new(old, tmp_path_factory):
    return fit(NEW, from_run=old, out=str(tmp_path_factory.mktemp("new") / "run"), epochs=1)


def weights_at_the_start(run):
    return Checkpoint.load(RunFolder(run.folder).start).model


def test_what_it_came_from_and_its_settings_are_recorded(old, new):
    assert new.config.from_run == str(old.folder)
    assert (new.config.patience, new.config.epochs, new.config.width) == (7, 1, 8)
    facts = json.loads((new.folder / "result.json").read_text())["data"]["from"]
    assert facts["run"] == str(old.folder) and facts["events"] == len(old.sequences.items)
    assert facts["new_events"] == len(NEW) and facts["there_already"] == 0
    assert (facts["new_users"], facts["new_items"]) == (3, 2)
    whole = pl.concat([log(), NEW])
    assert len(new.sequences.items) == len(whole) == len(set(whole["timestamp"]))
    assert sorted(new.sequences.timestamps) == sorted(whole["timestamp"])


def test_weights_are_carried_by_id_and_new_rows_start_from_neighbours(old, new):
    start, had = weights_at_the_start(new), old.model.state_dict()
    a, b = old.sequences, new.sequences
    same = set(had) - {"items.weight", "users.weight"}
    assert len(same) > 10 and all(torch.equal(start[name], had[name]) for name in same)
    items = start["items.weight"]
    for name in a.item_ids:
        assert torch.equal(
            items[b.item_indices([name])[0]], had["items.weight"][a.item_indices([name])[0]]
        )
    assert not items[0].any()
    # The training events of v1 and v2 are i3, n1, i4; of u1 its own, with n1, i9, i3.
    own = [a.item_id(i) for i in a.sequence(a.user_index("u1"))]
    sets = [{"i3", "i4"}, {"i3", "i4"}, {*own, "i9", "i3"}]
    shared = {name: sum(name in s for s in sets) for name in a.item_ids}
    vectors = had["items.weight"].double()
    mean = sum(n * vectors[a.item_indices([i])[0]] for i, n in shared.items()) / sum(
        shared.values()
    )
    torch.testing.assert_close(items[b.item_indices(["n1"])[0]].double(), mean, rtol=0, atol=1e-6)
    # n2 trains with nothing old: the mean of all, and noise of 0.02 in each of 8 places.
    far = items[b.item_indices(["n2"])[0]].double() - vectors[1:].mean(0)
    assert 0 < far.abs().max() < 6 * 0.02
    if "users.weight" in had:
        for name in a.user_ids:
            rows = start["users.weight"][b.user_index(name) + 1], had["users.weight"]
            assert torch.equal(rows[0], rows[1][a.user_index(name) + 1])


def test_counts_are_those_of_a_recount_and_the_next_update_adds(old, new, tmp_path, monkeypatch):
    if old.config.model != "rksa":
        assert not (new.folder / "counts.npz").exists()
        return
    counts = RunFolder(new.folder).read_counts(new.config)
    recount = CoOccurrence.from_split(new.batcher.split)
    assert (counts.matrix != recount.matrix).nnz == 0
    more = pl.DataFrame({"user": ["u2", "u3"], "item": ["n1", "n3"], "timestamp": [2e6, 2e6]})

    def refuse(split):
        raise AssertionError("counted anew")

    with monkeypatch.context() as patch:
        patch.setattr(CoOccurrence, "from_split", refuse)
        third = fit(more, from_run=new.folder, out=str(tmp_path / "third"))
    recount = CoOccurrence.from_split(third.batcher.split)
    for name in ("indptr", "indices", "data"):
        found = getattr(third.batcher.cooccurrence.matrix, name)
        assert found.tolist() == getattr(recount.matrix, name).tolist()


def test_a_run_stopped_at_once_starts_with_the_same_weights(old, new, tmp_path):
    """Resumed with neither checkpoints nor the old run, it computes what it would have."""
    folder = shutil.copytree(new.folder, tmp_path / "run")
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl", "result.json"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text())
    assert config["from_run"]
    assert main(["--resume", str(folder)]) == 0
    assert (folder / "metrics.jsonl").read_text() == (new.folder / "metrics.jsonl").read_text()


def test_a_beginning_that_was_cut_off_is_begun_again(old, tmp_path):
    """Killed before data.json: the folder is no run yet, by --resume and by the same command."""
    NEW.write_csv(tmp_path / "new.csv")
    flags = ["--data", str(tmp_path / "new.csv"), "--from", str(old.folder), "--epochs", "1"]
    assert main([*flags, "--out", str(tmp_path / "whole")]) == 0
    for number, names in enumerate((("data.json",), ("data.json", "config.json"))):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"cut{number}")
        kept = {"start.safetensors", "counts.npz", "sequences", "manifest.json", "config.json"}
        kept |= {path.name for path in folder.iterdir() if path.name.startswith(".")}
        for path in folder.iterdir():
            if path.name not in kept - set(names):
                path.unlink()
        again = ["--resume", str(folder)] if number == 0 else [*flags, "--out", str(folder)]
        assert main(again) == 0
        texts = [(run / "metrics.jsonl").read_text() for run in (folder, tmp_path / "whole")]
        assert texts[0] == texts[1]


def test_the_command_says_what_is_new(old, tmp_path, capsys):
    NEW.write_csv(tmp_path / "new.csv")
    whole = pl.concat([log(), NEW])
    whole.write_csv(tmp_path / "whole.csv")
    for name, there in (("new", 0), ("whole", len(log()))):
        flags = ["--data", str(tmp_path / f"{name}.csv"), "--out", str(tmp_path / name)]
        assert main([*flags, "--from", str(old.folder), "--epochs", "1"]) == 0
        text = capsys.readouterr().out
        assert f"19 events, 3 users, 2 items ({there} events were there already)" in text
        assert "new items: 1 from their neighbours, 1 from the mean" in text
    assert "train on less" not in text
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("new", "whole")]
    assert logs[0] == logs[1]


def test_weights_that_have_seen_the_targets_are_told(tmp_path, capsys):
    everything = fit(
        log(), model="sasrec", split="none", epochs=1, out=str(tmp_path / "a"), **SMALL
    )
    fit(NEW, from_run=everything, split="leave-one-out", out=str(tmp_path / "b"))
    assert "23 users train on less than in" in capsys.readouterr().out  # all but u1


def test_what_cannot_be_gone_on_from_is_one_line(old, tmp_path, capsys):
    NEW.write_csv(tmp_path / "new.csv")
    data = ["--data", str(tmp_path / "new.csv"), "--out", str(tmp_path / "run")]

    def refused(*flags):
        assert main([*flags]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    run = ["--from", str(old.folder)]
    assert "width cannot change with --from" in refused(*data, *run, "--width", "16")
    assert "max_length cannot change" in refused(*data, *run, "--max-length", "9")
    other = {"rksa": "sasrec", "sasrec": "rksa"}[old.config.model]
    assert "model cannot change with --from" in refused(*data, *run, "--model", other)
    assert "needs --data" in refused(*run)
    assert "is not a run folder" in refused(*data, "--from", str(tmp_path / "none"))
    assert "exclude each other" in refused(*data, *run, "--refit", str(old.folder))
    assert not (tmp_path / "run").exists()
    copy = shutil.copytree(old.folder, tmp_path / "copy")
    content = bytearray((copy / "best.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "best.safetensors").write_bytes(content)
    assert "is damaged" in refused(*data, "--from", str(copy))
    (copy / "best.safetensors").unlink()
    assert "finish it with --resume" in refused(*data, "--from", str(copy))
    for error, settings in (
        (ConfigError, {"model": other}),
        (ConfigError, {"blocks": 3}),
        (FolderError, {"from_run": tmp_path}),
        (CheckpointError, {"from_run": copy}),
    ):
        with pytest.raises(error):
            fit(NEW, **{"from_run": old, "out": str(tmp_path / "run"), **settings})


QUICK = ("pop", "gru4rec", "rksa")  # the others go on in the same way


@pytest.mark.parametrize("model", [m if m in QUICK else slow(m) for m in sorted(MODELS)])
def test_every_model_goes_on(model, tmp_path):
    """Only tables with a row an item or a user change their size, and all of them are carried."""
    flags = small(model) if MODELS[model].trains else ["--device", "cpu"]
    paths = [tmp_path / name for name in ("log.csv", "new.csv")]
    for frame, path in zip((log(), NEW), paths, strict=True):
        frame.write_csv(path)
    first = ["--model", model, "--data", str(paths[0]), "--out", str(tmp_path / "a"), *flags]
    epochs = ["--epochs", "1"] if MODELS[model].trains else []
    assert main([*first, *epochs]) == 0
    out = tmp_path / "b"
    assert main(["--data", str(paths[1]), "--from", str(tmp_path / "a"), "--out", str(out)]) == 0
    before, after = Run(tmp_path / "a"), Run(out)
    assert after.sequences.num_items == before.sequences.num_items + 2
    if not MODELS[model].trains:
        return
    _, fresh, _ = assemble(after.config, after.sequences)
    start = Start.of(after.config)
    start.carry_into(fresh, after.batcher.split)
    rows = after.sequences.item_indices(before.sequences.item_ids)
    for name, kind in fresh.tables().items():
        had, have = before.model.state_dict()[name], fresh.state_dict()[name]
        if kind == "item":
            assert torch.equal(have[rows], had[1:])
