"""Approximate search: exact scores in exact order, nothing hidden is shown, lists are full."""

import json

import numpy as np
import pytest
import torch
from support.runs import train, write_log

pytest.importorskip("faiss")

import rka_fast
from rka_fast.commands import main
from rka_fast.errors import ConfigError
from rka_fast.recommending.nearest import Nearest
from rka_fast.serving.engine import Asked, load


def vectors(count=4000, width=16, seed=0) -> torch.Tensor:
    """In clusters, of different lengths."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(50, width))
    x = centres[rng.integers(50, size=count)] + 0.5 * rng.normal(size=(count, width))
    return torch.from_numpy((x * rng.uniform(0.5, 2.0, (count, 1))).astype(np.float32))


def some_hidden(rows, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.repeat(np.arange(rows), count), rng.integers(4000, size=rows * count)


@pytest.mark.parametrize("hide", [0, 30])
def test_most_of_the_exact_lists_with_their_scores(hide):
    x, states = vectors(), vectors(100, seed=1)
    hidden = some_hidden(100, hide)
    best, full = Nearest(x).best(states, hidden, 10)
    scores = states.double() @ x.double().T
    scores[hidden] = -torch.inf
    wanted = scores.topk(10).indices
    assert full.all() and best["items"].shape == (100, 10)
    shown = scores.gather(1, best["items"])
    torch.testing.assert_close(best["scores"].double(), shown, rtol=1e-5, atol=1e-5)
    assert (best["scores"].diff(dim=1) <= 0).all() and (shown > -torch.inf).all()
    assert all(len(set(row)) == 10 for row in best["items"].tolist())
    found = [
        len(set(a) & set(b)) for a, b in zip(wanted.tolist(), best["items"].tolist(), strict=True)
    ]
    assert sum(found) > 900


def test_all_lists_read_is_exact():
    x, states = vectors(), vectors(100, seed=1)
    nearest, hidden = Nearest(x), some_hidden(100, 30)
    nearest.index.nprobe = nearest.index.nlist
    best, _ = nearest.best(states, hidden, 10)
    scores = states @ x.T
    scores[hidden] = -torch.inf
    # The index's half precision is far inside of what is fetched beyond the top.
    assert (best["items"] == scores.topk(10).indices).float().mean() > 0.999


def test_what_is_hidden_may_be_the_whole_top():
    x = vectors()
    states = vectors(3, seed=1)
    order = (states @ x.T).argsort(dim=1, descending=True)
    rows, places = np.repeat(np.arange(3), 500), order[:, :500].flatten().numpy()
    best, full = Nearest(x).best(states, (rows, places), 10)
    for row in range(3):
        assert not set(best["items"][row][best["scores"][row] > -torch.inf].tolist()) & set(
            places[rows == row].tolist()
        )
    assert full.tolist() == (best["scores"] > -torch.inf).all(dim=1).tolist()


def test_a_short_row_says_so():
    x, states = vectors(), vectors(2, seed=1)
    nearest = Nearest(x)
    nearest.index.nprobe = 1
    best, full = nearest.best(states, some_hidden(2, 0), 3000)
    assert not full.any() and (best["scores"][:, -1] == -torch.inf).all()
    often = np.repeat([0, 1], 4000), np.full(8000, 7)  # one item, had as often as there are items
    best, full = nearest.best(states, often, 3000)
    assert not full.any() and (best["scores"][:, -1] == -torch.inf).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> rka_fast.Run:
    folder = tmp_path_factory.mktemp("ann")
    log = write_log(folder / "log.txt")
    assert train(log, folder / "run", "--model", "sasrec", "--epochs", "1") == 0
    return rka_fast.Run.load(folder / "run")


def test_a_small_catalogue_is_searched_whole(run):
    only, never = [f"i{n}" for n in range(90)], ["i4", "i5"]
    for options in ({}, {"seen": "keep"}, {"items": only, "exclude": never, "top": 100}):
        with pytest.warns(UserWarning, match=r"finds 100\.0% of the exact top"):
            found = run.recommend(["u3", "u7", "u9"], ann=True, **options)
        expected = run.recommend(["u3", "u7", "u9"], **options)
        assert found["item"].to_list() == expected["item"].to_list()
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)


def test_where_nothing_may_be_shown_nothing_is_missed(run, capfd):
    had = run.sequences.sequence(run.sequences.user_index("u3"))
    only = [run.sequences.item_id(item) for item in had]
    with pytest.warns(UserWarning, match=r"finds 100\.0% of the exact top 10 \(measured over 1 h"):
        assert len(run.recommend("u3", ann=True, items=only)) == 0
    assert "WARNING" not in "".join(capfd.readouterr())  # of few vectors, by faiss


def test_a_row_that_search_leaves_short_is_ranked_exactly(run, monkeypatch):
    ranker = run.ranker(rka_fast.recommending.options.Options(top=20, ann=True))
    exact = run.ranker(rka_fast.recommending.options.Options(top=20))
    histories = run.histories([["i3", "i5"], [], ["i9"]], unknown="skip")

    def nothing(states, count):
        return None, np.full((len(states), count), -1)

    monkeypatch.setattr(
        ranker.nearest, "index", type("Empty", (), {"search": staticmethod(nothing)})
    )
    assert (ranker(histories).items == exact(histories).items).all()


def test_the_command_prints_the_recall(run, capsys):
    assert main(["recommend", str(run.folder), "--user", "u3", "--ann", "--json"]) == 0
    printed = capsys.readouterr()
    assert "note: approximate search finds 100.0% of the exact top 10" in printed.err
    items = [of["item"] for of in json.loads(printed.out)["recommendations"]]
    assert items == run.recommend("u3")["item"].to_list()


def test_what_does_not_go_together(run, tmp_path, capsys):
    with pytest.raises(ConfigError, match="ann goes without draws"):
        run.recommend("u3", ann=True, draws=4)
    log = write_log(tmp_path / "log.txt")
    assert train(log, tmp_path / "run", "--model", "pop") == 0
    assert main(["recommend", str(tmp_path / "run"), "--user", "u3", "--ann"]) == 2
    assert "ann cannot be had of POP, whose scores" in capsys.readouterr().err


def test_a_server_and_an_export(run, tmp_path):
    engine = load(run.folder, ann=True)
    assert "finds 100.0% of the exact top 10" in engine.notes[0]
    numbers = {name: np.array([engine.numbers[name]]) for name in ("i3", "i5", "i9")}
    asked = [
        Asked(numbers["i3"], np.append(numbers["i3"], numbers["i9"]), 20),
        Asked(numbers["i5"], numbers["i5"], 3),
        Asked(np.array([], np.int64), numbers["i9"], 5),
    ]
    for found, expected in zip(engine.rank(asked), load(run.folder).rank(asked), strict=True):
        assert (found.items == expected.items).all() and found.by == expected.by
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    (tmp_path / "export.json").touch()
    with pytest.raises(ConfigError, match="ann goes with a run: .*; serve the run itself"):
        load(tmp_path, ann=True)
