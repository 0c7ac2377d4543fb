"""The lists of many against scores of one history at a time, ranked by numpy."""

import numpy as np
import polars as pl
import pytest
import torch
from support.runs import train, write_log

from rka_fast.context import use_draws
from rka_fast.errors import ConfigError, DataError
from rka_fast.recommend import main
from rka_fast.recommending import ranking
from rka_fast.run import Run

MODELS = ("rksa", "sasrec", "attrec", "bpr_mf", "item_knn", "pop")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by model, trained when they are first asked for."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    log = write_log(folder / "log.txt")

    def run(model):
        if model not in found:
            epochs = ("--epochs", "1") if model in ("rksa", "sasrec", "attrec") else ()
            assert train(log, folder / model, "--model", model, *epochs) == 0
            found[model] = Run.load(folder / model)
        return found[model]

    return run


@torch.no_grad()
def one_by_one(run, items, user=-1):
    """Scores (num_items + 1,) of one history, float32."""
    return run.model.scores(run.batcher.history([int(i) for i in items], user))[0].numpy()


def is_best(found, scores, allowed, top):
    """Whether rows (item index, score) are the best of the allowed items, apart from rounding.

    Sums of as many terms as the model is wide, computed in other orders, differ by few eps.
    """
    items = np.array([item for item, _ in found])
    values = np.array([score for _, score in found], np.float32)
    near = 64 * np.finfo(np.float32).eps * max(1.0, np.abs(scores[allowed]).max())
    assert len(found) == len(set(items)) == min(top, len(allowed))
    assert set(items) <= set(allowed)
    np.testing.assert_allclose(values, scores[items], rtol=0, atol=near)
    assert (np.diff(values) <= 0).all()
    others = np.setdiff1d(allowed, items)
    assert len(others) == 0 or scores[others].max() <= values[-1] + near


def rows(run, table):
    """(item index, score) of a table by user."""
    index = {name: i for i, name in enumerate(run.sequences.item_ids, start=1)}
    return {
        part["user"][0]: [(index[i], s) for i, s in zip(part["item"], part["score"], strict=True)]
        for part in table.partition_by("user", maintain_order=True)
    }


@pytest.mark.parametrize("at_once", [2**23, 60 * 17])
@pytest.mark.parametrize("model", MODELS)
def test_everybody_is_given_what_each_would_be_given(runs, model, at_once, monkeypatch):
    """The second size scores 17 items at a time."""
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", at_once)
    run = runs(model)
    table = run.recommend(top=7)
    assert table.columns == ["user", "rank", "item", "score"]
    found = rows(run, table)
    assert list(found) == run.sequences.user_ids
    assert table["rank"].to_list() == [*range(1, 8)] * run.sequences.num_users
    everything = np.arange(1, run.sequences.num_items + 1)
    for user, name in enumerate(run.sequences.user_ids):
        history = run.sequences.sequence(user)
        allowed = np.setdiff1d(everything, history)
        is_best(found[name], one_by_one(run, history, user), allowed, 7)


@pytest.mark.parametrize("model", ["rksa", "item_knn"])
def test_rows_do_not_depend_on_who_else_is_asked(runs, model, monkeypatch):
    run = runs(model)
    names = ["u7", "u3", "u59"]
    whole = run.recommend(names, top=5)
    monkeypatch.setattr(ranking, "ENCODED", 2)
    alone = pl.concat([run.recommend(name, top=5) for name in names])
    assert whole["user"].to_list() == [name for name in names for _ in range(5)]
    assert whole["item"].to_list() == alone["item"].to_list()
    assert np.allclose(whole["score"], alone["score"], rtol=0, atol=1e-5)


def test_what_may_be_shown(runs):
    run = runs("rksa")
    user = run.sequences.user_index("u7")
    history = run.sequences.sequence(user)
    scores, ids = one_by_one(run, history, user), run.sequences.item_ids
    everything = np.arange(1, run.sequences.num_items + 1)
    is_best(rows(run, run.recommend("u7", 9, seen="keep"))["u7"], scores, everything, 9)
    few = np.array([3, 50, 51, int(history[0])])
    only = [ids[i - 1] for i in few]
    is_best(
        rows(run, run.recommend("u7", 9, items=only))["u7"], scores, np.setdiff1d(few, history), 9
    )
    best = run.recommend("u7", 3)["item"].to_list()
    without = np.setdiff1d(everything, [*history, *run.sequences.item_indices(best[:2])])
    is_best(rows(run, run.recommend("u7", 9, exclude=best[:2]))["u7"], scores, without, 9)
    both = run.recommend(["u3", "u7"], 9, exclude={"u7": best[:2], "somebody": best})
    is_best(rows(run, both)["u7"], scores, without, 9)
    pairs = pl.DataFrame({"user_id": ["u7", "u7"], "item_id": best[:2]})
    assert run.recommend(["u3", "u7"], 9, exclude=pairs).equals(both)
    twice = run.recommend(["u7", "u3", "u7"], 9, exclude=pairs)
    assert twice[:9].equals(twice[18:]) and twice[:9].equals(both.filter(user="u7"))
    numbered = run.recommend({7.0: ids[:2]}, 3)  # a table with gaps has 7 so
    assert set(numbered["user"]) == {"7"}
    hidden = numbered["item"].to_list()
    pandas = pytest.importorskip("pandas").DataFrame({"user": [7.0] * 3, "item": hidden})
    for exclude in ({7.0: hidden}, pandas):
        shown = run.recommend({7.0: ids[:2]}, 3, exclude=exclude)["item"]
        assert len(shown) == 3 and not set(shown) & set(hidden)
    with pytest.warns(UserWarning, match="exclude: none of its users is asked for"):
        run.recommend("u3", 9, exclude=pairs)
    with pytest.warns(UserWarning, match="1 of 2 items are not in the catalogue") as told:
        run.recommend("u3", 9, exclude={"u3": ["nothing"], "u7": best[:1]})
    assert not any("none of its users" in str(warning.message) for warning in told)
    assert both.filter(user="u3").equals(run.recommend(["u3", "u7"], 9).filter(user="u3"))


def test_lists_of_users_are_all_that_they_are_shown(runs, tmp_path, monkeypatch):
    """In a catalogue that is scored 17 items at a time, and by the command."""
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", 3 * 17)
    run = runs("rksa")
    scores, histories = {}, {}
    for name in ("u7", "u3"):
        user = run.sequences.user_index(name)
        histories[name] = run.sequences.sequence(user)
        scores[name] = one_by_one(run, histories[name], user)
    lists = {"u7": [f"i{n}" for n in range(0, 30, 2)], "u3": ["i1", "i5"], "somebody": ["i9"]}
    found = run.recommend(["u7", "u3", "u9"], 9, items=lists, exclude={"u7": ["i4"], "u3": ["i8"]})
    index = {name: run.sequences.item_indices(items) for name, items in lists.items()}
    for name, hidden in (("u7", ["i4"]), ("u3", [])):
        out = [*histories[name], *run.sequences.item_indices(hidden)]
        is_best(rows(run, found)[name], scores[name], np.setdiff1d(index[name], out), 9)
    assert set(found["user"]) == {"u7", "u3"}  # u9 has no list
    pairs = pl.DataFrame([(u, i) for u in lists for i in lists[u]], ["user", "item"], orient="row")
    assert run.recommend(["u7", "u3"], 9, items=pairs).equals(
        run.recommend(["u7", "u3"], 9, items=lists)
    )
    pairs.write_csv(tmp_path / "lists.csv")
    out = tmp_path / "recs.parquet"
    flags = ["--all", "--items", str(tmp_path / "lists.csv"), "--out", str(out), "--top", "9"]
    assert main([str(run.folder), *flags]) == 0
    assert pl.read_parquet(out).equals(run.recommend(top=9, items=lists))
    with pytest.raises(ConfigError, match="ann goes with items for everybody"):
        run.recommend("u7", items=lists, ann=True)


def test_popularity_stands_in_where_nothing_is_known(runs):
    run = runs("rksa")
    counts = run.batcher.split.train_counts()
    order = np.lexsort((np.arange(len(counts)), -counts))
    order = order[order > 0][:5]
    histories = {"new": [], "strange": ["nothing"], "known": ["i3", "nothing", "i5"]}
    with pytest.warns(UserWarning, match="history|histories|events") as told:
        table = run.recommend(histories, top=5)
    texts = [str(warning.message) for warning in told]
    assert any("left out 2 events with items" in text for text in texts)
    assert any("2 histories have no known item" in text for text in texts)
    for name in ("new", "strange"):
        part = table.filter(user=name)
        assert part["item"].to_list() == [run.sequences.item_ids[i - 1] for i in order]
        assert part["score"].to_list() == counts[order].tolist()
        assert set(part["by"]) == {"popularity"}
    known = table.filter(user="known")
    assert set(known["by"]) == {"rksa"}
    assert known["item"].to_list() == run.recommend([["i3", "i5"]], 5)["item"].to_list()
    with pytest.raises(DataError, match="'nothing'"):
        run.recommend(histories, unknown="refuse")
    with pytest.raises(DataError, match="'nothing'"):
        run.recommend([["i3", "nothing"]])


def test_mean_and_spread_are_those_of_draws(runs):
    """Draws have other seeds, so both are estimates: their errors are a few std / sqrt(draws)."""
    run, draws = runs("rksa"), 100
    table = run.recommend("u7", 20, draws=draws)
    user = run.sequences.user_index("u7")
    batch = run.batcher.history(run.sequences.sequence(user).tolist(), user)
    torch.manual_seed(1)
    with torch.no_grad(), use_draws(run.model):
        drawn = torch.stack([run.model.scores(batch)[0] for _ in range(draws)])
    items = run.sequences.item_indices(table["item"])
    mean, std = (x[items].numpy() for x in (drawn.mean(0), drawn.std(0)))
    error = std / np.sqrt(draws)
    assert (std > 0).all()
    assert (np.abs(table["mean"] - mean) < 6 * np.sqrt(2) * error).all()
    assert (np.abs(table["std"] / std - 1) < 6 * np.sqrt(2) / np.sqrt(2 * (draws - 1))).all()
    assert table["score"].equals(table["mean"].alias("score"))
    again = run.recommend("u7", 20, draws=draws)
    assert again.equals(table) and not run.recommend("u7", 20, draws=draws, seed=5).equals(table)


def test_orders(runs):
    run = runs("rksa")
    everything = run.sequences.num_items
    mean = run.recommend("u7", everything, draws=8)
    lower = run.recommend("u7", everything, draws=8, order="lower")
    both = mean.join(lower, on="item")
    assert np.allclose(both["score_right"], both["mean"] - both["std"], rtol=0, atol=1e-6)
    assert lower["score"].is_sorted(descending=True)
    drawn = [run.recommend("u7", 5, order="thompson", seed=s) for s in range(3)]
    assert drawn[0].columns == ["user", "rank", "item", "score"]
    assert drawn[0].equals(run.recommend("u7", 5, order="thompson", seed=0))
    assert not drawn[0]["score"].equals(drawn[1]["score"])
    for options in ({"draws": 4}, {"order": "thompson"}, {"order": "lower"}):
        with pytest.raises(ConfigError, match="SASRec, whose attention is not drawn"):
            runs("sasrec").recommend("u7", **options)


def test_of_equal_scores_the_lower_item_comes_first():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 300)).astype(np.float32)
    scores[0] = -np.inf
    scores[1, 5:] = -np.inf
    for top in (1, 3, 10, 60, 300):
        found = ranking.top_items(torch.from_numpy(scores), top).numpy()
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        finite = np.take_along_axis(scores, expected, 1) > -np.inf
        assert (found == expected)[finite].all()


def test_who_is_asked_for(runs):
    run = runs("pop")
    table = run.recommend(["u3", "u7"], 2)
    assert run.recommend(pl.DataFrame({"user": ["u3", "u7"]}), 2).equals(table)
    lists = {"a": ["i3", "i5"], "b": ["i7"]}
    events = pl.DataFrame({"item": ["i5", "i7", "i3"], "user": ["a", "b", "a"], "time": [9, 1, 2]})
    assert run.recommend(events, 2).equals(run.recommend(lists, 2))
    assert run.histories(events).items.tolist() == run.histories(lists).items.tolist()
    assert run.recommend([["i3", "i5"], ("i7",)], 2)["user"].to_list() == ["0", "0", "1", "1"]
    pandas = pytest.importorskip("pandas")
    found = run.recommend(pandas.DataFrame({"user": ["u3", "u7"]}), 2)
    assert isinstance(found, pandas.DataFrame)
    assert found.to_dict("list") == table.to_dict(as_series=False)


@pytest.mark.parametrize(
    ("of", "parts"),
    [
        (["i3", "i5"], ["unknown user ids 'i3', 'i5'", "'i3' is the id of an item", "[[id, ...]]"]),
        ({"a": "242"}, ["history a: expected a list of item ids, got '242'", "['242']"]),
        ([["i3"], "i5"], ["got both", "['i5']"]),
        ([["i3", None]], ["item id None", "NoneType"]),
        ([None], ["history 0: expected a list of item ids, got None"]),
        ({None: ["i3"]}, ["of: expected text or numbers as names, got None"]),
        ([], ["empty"]),
        ([["u3"]], ["unknown item id 'u3'", "'u3' is the id of a user"]),
        (7, ["unknown user id '7'", "ids look like u"]),
        (pl.DataFrame({"a": ["u3"]}), ["expected a column 'user'", "got a"]),
    ],
)
def test_wrong_questions_are_told(runs, of, parts):
    with pytest.raises(DataError) as error:
        runs("pop").recommend(of)
    for part in parts:
        assert part in str(error.value)


def test_numbers_as_ids(tmp_path):
    """Ids that are numbers may be given as numbers, of Python and numpy."""
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "".join(f"{n % 9},{n * 7 % 31}\n" for n in range(90)))
    assert train(log, tmp_path / "run", "--model", "pop") == 0
    run = Run.load(tmp_path / "run")
    expected = run.recommend("3", 4)
    for number in (3, 3.0, np.int64(3), [3], pl.DataFrame({"user": [3]})):
        assert run.recommend(number, 4).equals(expected)
    assert run.recommend([[7, np.float64(14)]]).equals(run.recommend([["7", "14"]]))
    with pytest.raises(DataError, match=r"unknown user id '3\.5'"):
        run.recommend(3.5)


def test_a_run_of_plain_attention_draws_nothing(tmp_path):
    log = write_log(tmp_path / "log.txt")
    flags = ("--epochs", "1", "--train-mode", "location", "--eval-mode", "location")
    assert train(log, tmp_path / "run", *flags) == 0
    run = Run.load(tmp_path / "run")
    assert len(run.recommend("u7", 3)) == 3
    for options in ({"draws": 4}, {"order": "lower"}):
        with pytest.raises(ConfigError, match="trained with train_mode 'location'"):
            run.recommend("u7", 3, **options)
