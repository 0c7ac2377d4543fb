"""Runs with item features: items never trained on are recommended and related, and all goes on."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from support.runs import SMALL
from support.slow import slow

from rka_fast import fit
from rka_fast.errors import DataError
from rka_fast.models.item_table import ItemTable
from rka_fast.serving.graph import RankingGraph
from rka_fast.train import main
from rka_fast.training.assemble import assemble
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.run_folder import RunFolder

GROUPS, ITEMS, COLD = 6, 12, 3  # the last 3 items of each of 6 groups have no events


def name(group, number):
    return f"g{group}n{number}"


@pytest.fixture(scope="module")
def log():
    """Everybody goes from group to group in one of two directions, to a random item of it."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(150):
        group, step = int(rng.integers(GROUPS)), 1 if user % 2 else -1
        for time in range(10):
            group = (group + step) % GROUPS
            rows.append((f"u{user}", name(group, int(rng.integers(ITEMS - COLD))), time + 1))
    return pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    rows = [(name(g, n), f"group{g}") for g in range(GROUPS) for n in range(ITEMS)]
    path = tmp_path_factory.mktemp("features") / "items.csv"
    pl.DataFrame(rows, schema=["item_id", "group"], orient="row").write_csv(path)
    return path


@pytest.fixture(scope="module", params=[slow("sasrec"), "rksa"])
def run(request, log, features, tmp_path_factory):
    settings = {**SMALL, "width": 16, "learning_rate": 0.01, "epochs": 25, "model": request.param}
    out = str(tmp_path_factory.mktemp("run") / "run")
    return fit(log, item_features=str(features), out=out, **settings)


def cold_items():
    return [name(g, n) for g in range(GROUPS) for n in range(ITEMS - COLD, ITEMS)]


def test_cold_items_are_recommended_by_what_comes_next(run, log):
    """Among the 18 items without events, 3 are of the right group; popularity knows nothing."""
    facts = json.loads((run.folder / "data.json").read_text())["item_features"]
    assert facts["items_without_events"] == GROUPS * COLD == run.sequences.num_items - 54
    hits = []
    for user, events in log.group_by("user"):
        groups = [int(item[1]) for item in events.sort("timestamp")["item"]]
        following = (2 * groups[-1] - groups[-2]) % GROUPS
        top = run.recommend(user[0], top=COLD, items=cold_items())["item"]
        hits.append(np.mean([int(item[1]) == following for item in top]))
    # Popularity, which ties among items without events, hits one of 6.
    assert np.mean(hits) > 3 / GROUPS


def test_cold_items_are_related_to_those_with_their_features(run):
    for by in ("item", "embedding") if run.config.model == "rksa" else ("embedding",):
        found = run.similar(cold_items(), top=5, by=by)
        same = [row["item"][1] == row["similar"][1] for row in found.iter_rows(named=True)]
        assert np.mean(same) > 0.9


def unfolded(run):
    """The model as it is trained, with its weights."""
    _, model, _ = assemble(run.config, run.sequences)
    Checkpoint.load(RunFolder(run.folder).best).load_into(model)
    return model.eval()


def test_vectors_are_ids_and_a_map_of_features(run):
    model, state = unfolded(run), unfolded(run).state_dict()
    own, matrix = state["items.weight"].double(), state["items.map.weight"].double()
    trained = run.batcher.split.train_counts() > 0
    for item in range(1, run.sequences.num_items + 1):
        group = run.sequences.feature_names.index(f"group=group{run.sequences.item_id(item)[1]}")
        expected = matrix[:, group] + (own[item] if trained[item] else 0)
        for vectors in (model.item_vectors(), run.model.item_vectors(), run.model.items.weight):
            torch.testing.assert_close(vectors[item].double(), expected, rtol=0, atol=1e-6)
    batch = run.batcher.evaluation(slice(0, 20), "test")
    with torch.no_grad():  # folded or not, states are the same but for rounding
        torch.testing.assert_close(model.encode(batch), run.model.encode(batch), atol=1e-4, rtol=0)


def test_the_loss_compares_with_trained_items_alone(run):
    """Cross-entropy over those, by hand; items without events get no gradient."""
    model, batch = unfolded(run), run.batcher.training(np.arange(16), 0)
    wanted, kept = batch.targets > 0, run.batcher.split.train_counts() > 0
    states, targets = model.encode(batch)[wanted].double(), batch.targets[wanted]
    scores = states @ model.item_vectors().double()[torch.from_numpy(kept)].T
    place = torch.from_numpy(np.cumsum(kept) - 1)[targets]
    expected = (scores.logsumexp(-1) - scores[torch.arange(len(place)), place]).mean()
    parts = model.training_loss(batch, "ce")
    loss = parts.get("recommendation", parts["loss"])
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    loss.backward()
    gradient = model.items.weight.grad
    assert not gradient[torch.from_numpy(~kept)].any() and gradient[1:].any()
    assert model.items.map.weight.grad.any()


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_features_may_be_a_frame(kind, log, features, tmp_path):
    table = pl.read_csv(features)
    if kind == "pandas":
        table = pytest.importorskip("pandas").DataFrame(table.to_dict(as_series=False))
    settings = {**SMALL, "model": "sasrec", "epochs": 1}
    of_file = fit(log, item_features=str(features), out=str(tmp_path / "file"), **settings)
    run = fit(log, item_features=table, out=str(tmp_path / "frame"), **settings)
    logs = [(folder / "metrics.jsonl").read_text() for folder in (of_file.folder, run.folder)]
    assert logs[0] == logs[1]
    assert run.config.item_features == "frame"
    more = {"from_run": run, "out": str(tmp_path / "later"), "epochs": 1}
    with pytest.raises(DataError, match="data frame, which is to be given again"):
        fit(log, **more)
    later = fit(log, item_features=table, **more)
    assert later.sequences.feature_names == run.sequences.feature_names


def test_a_run_with_features_goes_on_without_their_file(log, features, tmp_path):
    settings = {**SMALL, "model": "sasrec", "epochs": 3, "patience": 99}
    file = shutil.copy(features, tmp_path / "items.csv")
    whole = fit(log, item_features=str(file), out=str(tmp_path / "whole"), **settings)
    part = fit(
        log, item_features=str(file), out=str(tmp_path / "part"), **{**settings, "epochs": 2}
    )
    file.unlink()
    assert main(["--resume", str(part.folder), "--epochs", "3"]) == 0
    logs = [(run.folder / "metrics.jsonl").read_text() for run in (whole, part)]
    assert logs[0] == logs[1]


def test_the_exported_graph_has_features_in_its_table(run):
    counts = run.batcher.cooccurrence
    graph = RankingGraph(run.model, counts).eval()
    assert not any(isinstance(module, ItemTable) for module in graph.modules())
    history = run.batcher.histories(
        np.array([-1]), np.array([0, 3]), run.sequences.item_indices(["g1n1", "g2n10", "g3n3"])
    ).items
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    scores, items = graph(history, nothing, torch.tensor(4))
    table = run.recommend([["g1n1", "g2n10", "g3n3"]], top=4, seen="keep")
    assert [run.sequences.item_id(int(i)) for i in items[0]] == table["item"].to_list()
    torch.testing.assert_close(
        scores[0], torch.tensor(table["score"].to_list()), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_an_exported_file_recommends_and_relates_items_without_events(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = run.export(tmp_path / "onnx")
    ids, cold = json.loads((folder / "items.json").read_text()), cold_items()
    history = ["g1n1", "g2n10", "g3n3"]
    given = {
        "history": np.array([[ids.index(item) + 1 for item in history]]),
        "hidden": np.array([[ids.index(i) + 1 for i in ids if i not in cold or i in history]]),
        "top": np.array(9),
    }
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    scores, items = session.run(None, given)
    expected = run.recommend([history], top=9, items=cold)
    np.testing.assert_allclose(scores[0], expected["score"].to_numpy(), rtol=0, atol=1e-4)
    assert {ids[i - 1] for i in items[0]} < set(cold)
    vectors = np.load(folder / "vectors.npy")
    assert (vectors == run.model.item_vectors()[1:].detach().numpy()).all()


def test_shares_add_up_to_the_score_of_a_cold_item(run):
    found = run.explain([["g1n1", "g2n10", "g3n3"]], top=3, draws=2)
    for shown in found.recommended:
        total = sum(shown.parts.items) + sum(shown.parts.places) + shown.parts.constants
        assert total == pytest.approx(shown.score, abs=1e-4)


def test_an_update_carries_the_map_by_the_names_of_features(run, features, tmp_path):
    more = pl.read_csv(features).with_columns(new=pl.lit("x"))
    more = pl.concat([more, pl.DataFrame({"item_id": ["a"], "group": ["group2"], "new": ["y"]})])
    path = tmp_path / "items.csv"
    more.select("new", "item_id", "group").write_csv(path)
    items = ["g2n10", "g1n1", "g3n3", "b", "g4n11"]  # the last two are held out
    new = pl.DataFrame({"user": ["v"] * 5, "item": items, "timestamp": range(90, 95)})
    later = fit(new, from_run=run, item_features=str(path), out=str(tmp_path / "run"), epochs=1)
    assert later.sequences.num_items == run.sequences.num_items + 2
    told = json.loads((later.folder / "data.json").read_text())["from"]
    assert told["new_items"] == 1  # b: the catalogue had the others without events
    begun = Checkpoint.load(RunFolder(later.folder).start).model
    best = Checkpoint.load(RunFolder(run.folder).best).model
    start, had = begun["items.map.weight"], best["items.map.weight"]
    assert later.sequences.feature_names[0] == "new=x" and start.shape[1] == had.shape[1] + 1
    for feature in run.sequences.feature_names:
        places = [s.feature_names.index(feature) for s in (later.sequences, run.sequences)]
        assert torch.equal(start[:, places[0]], had[:, places[1]])
    # An item that had features alone begins to be trained: from its neighbours, as new ones do.
    own = begun["items.weight"][later.sequences.item_indices(["g2n10"])[0]]
    near = best["items.weight"][run.sequences.item_indices(["g1n1", "g3n3"])]
    torch.testing.assert_close(own, near.mean(0), rtol=0, atol=1e-6)


def test_models_that_have_no_features_refuse_them(features, tmp_path, capsys):
    flags = ["--model", "narm", "--item-features", str(features), "--out", str(tmp_path / "run")]
    assert main(flags) == 2
    assert "is not used by model 'narm'" in capsys.readouterr().err
