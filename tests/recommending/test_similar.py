"""Similar items against numpy, and the evaluation on later events against ranks by hand."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from support.runs import SMALL, train, write_log

from rka_fast import Run, fit
from rka_fast.errors import ConfigError, DataError
from rka_fast.similar import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    log = write_log(folder / "log.txt")
    found = {}
    for model in ("rksa", "sasrec", "pop"):
        epochs = () if model == "pop" else ("--epochs", "1")
        assert train(log, folder / model, "--model", model, *epochs) == 0
        found[model] = Run.load(folder / model)
    return found


def cosines(vectors):
    vectors = vectors.detach().double().numpy()
    norm = np.linalg.norm(vectors, axis=1)
    norm[norm == 0] = 1
    return vectors @ vectors.T / norm[:, None] / norm


def counting(run):
    """c_ij / sqrt(c_ii c_jj) over training users' sets of items."""
    split, n = run.batcher.split, run.sequences.num_items + 1
    had = np.zeros((run.sequences.num_users, n))
    for user in range(len(had)):
        had[user, run.sequences.items[run.sequences.indptr[user] : split.train_end[user]]] = 1
    counts = had.T @ had
    size = np.sqrt(np.maximum(counts.diagonal(), 1))
    return counts / size[:, None] / size


def expected_of(run, by):
    if by == "cooccurrence":
        return counting(run)
    if by == "embedding":
        return cosines(run.model.item_vectors())
    gamma = run.model.kernels.concentration[0].item()
    return np.exp(2 * gamma * (cosines(run.model.items.weight) - 1))


@pytest.mark.parametrize("model", ["rksa", "sasrec", "pop"])
@pytest.mark.parametrize("by", ["item", "embedding", "cooccurrence"])
def test_similar_items(runs, model, by):
    run = runs[model]
    if (model, by) in (("sasrec", "item"), ("pop", "item"), ("pop", "embedding")):
        with pytest.raises(ConfigError, match=f"by '{by}': this run's .* has no such similarity"):
            run.similar("i3", by=by)
        return
    expected, items = expected_of(run, by), ["i3", "i17"]
    table = run.similar(items, 6, by=by)
    index = {name: i for i, name in enumerate(run.sequences.item_ids, start=1)}
    for item in items:
        part = table.filter(item=item)
        others = expected[index[item]].copy()
        others[[0, index[item]]] = -np.inf
        others[others == 0] = -np.inf if by == "cooccurrence" else 0
        best = np.sort(others)[::-1][:6]
        best = best[best > -np.inf]
        assert np.allclose(part["score"], best, rtol=0, atol=1e-5)
        found = others[[index[name] for name in part["similar"]]]
        assert np.allclose(found, part["score"], rtol=0, atol=1e-5)
        assert part["rank"].to_list() == list(range(1, len(best) + 1))


def test_the_command(runs, capsys, tmp_path):
    run = runs["rksa"]
    titles = tmp_path / "titles.csv"
    titles.write_text("item,title\n" + "".join(f"i{n},title {n}\n" for n in range(130)))
    flags = [str(run.folder), "--item", "i3", "--top", "4", "--titles", str(titles)]
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["similar"]
    assert found == run.similar("i3", 4, titles=titles).drop("item").to_dicts()
    assert all(row["title"] == f"title {row['similar'][1:]}" for row in found)
    assert main(flags) == 0
    assert "title" in capsys.readouterr().out.splitlines()[1]
    for wrong, part in (
        ([str(run.folder), "i3"], "unexpected 'i3'; did you mean --item i3?"),
        ([str(run.folder)], "name an item of the data: --item ID"),
        ([str(run.folder), "--item", "x"], "unknown item id 'x'"),
        ([str(run.folder), "--item", "i3", "--top", "0"], "top must be at least 1"),
    ):
        assert main(wrong) == 2
        assert part in capsys.readouterr().err


@pytest.mark.parametrize("model", ["rksa", "pop"])
def test_later_events_are_targets(model, tmp_path):
    """Ranks by hand: the target's place among everything its user has not had."""
    lines = write_log(tmp_path / "log.txt").read_text().splitlines()
    frame = pl.DataFrame([line.split() for line in lines], schema=["user", "item"], orient="row")
    frame = frame.with_row_index("timestamp")
    earlier, later = frame[:-150], frame[-150:]
    own = {"epochs": 1, **SMALL} if model == "rksa" else {"device": "cpu"}
    run = fit(earlier, model=model, out=str(tmp_path / "run"), **own)
    ids = run.sequences.indices("item")
    unknown = pl.DataFrame({"user": ["new", "new", "u3"], "item": ["i5", "i6", "never"]})
    unknown = unknown.with_columns(timestamp=pl.Series([900, 901, 902], dtype=pl.UInt32))
    events = pl.concat([later, unknown], how="diagonal")
    had = {
        name: run.sequences.sequence(user).tolist()
        for user, name in enumerate(run.sequences.user_ids)
    }
    ranks, left_out = [], 0
    for user, item in events.select("user", "item").rows():
        history, target = had.setdefault(user, []), ids.get(item)
        if target is None or not history:
            left_out += 1
        else:
            index = run.sequences.indices("user").get(user, -1)
            with torch.no_grad():
                scores = run.model.scores(run.batcher.history(history, index))[0].numpy()
            others = np.setdiff1d(np.arange(1, len(ids) + 1), [*history, target])
            missed = target in history
            ranks.append(len(ids) + 1 if missed else 1 + (scores[others] >= scores[target]).sum())
        if target is not None:
            history.append(target)
    with pytest.warns(UserWarning, match=f"left out {left_out} events"):
        found = run.evaluate(events)
    ranks = np.array(ranks)
    expected = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean()
    assert found["full"]["ndcg@10"] == pytest.approx(expected, abs=1e-6)
    assert found["full"]["hit@10"] == pytest.approx((ranks <= 10).mean(), abs=1e-9)
    assert found["sampled"]["hit@10"] >= found["full"]["hit@10"]
    with pytest.raises(ConfigError, match="valid, test; got 'train'"):
        run.evaluate("train")
    with pytest.raises(DataError, match="need a column timestamp"):
        run.evaluate(events.drop("timestamp"))
