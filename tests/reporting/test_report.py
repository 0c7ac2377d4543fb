"""Reports on small runs against their files and plain counting."""

import json

import numpy as np
import pytest
from support.runs import train, write_log

from rka_fast.errors import ConfigError, FolderError
from rka_fast.pages.report_page import report_page
from rka_fast.reporting.report import report
from rka_fast.reporting.runs import read_runs
from rka_fast.reproduction.results import Scores
from rka_fast.run import Run
from rka_fast.training.metrics import METRICS, Metric, rank_metrics
from rka_fast.training.report import result_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of three models on one log, one on another, and one that has not ended."""
    folder = tmp_path_factory.mktemp("runs")
    log = write_log(folder / "log.txt")
    for name, flags in {
        "rksa": ("--epochs", "2"),
        "sasrec": ("--model", "sasrec", "--epochs", "1", "--seed", "3"),
        "pop": ("--model", "pop"),
        "stopped": ("--epochs", "1"),
    }.items():
        assert train(log, folder / name, *flags) == 0
    (folder / "stopped" / "result.json").unlink()
    (folder / "stopped" / "lists.npz").unlink()
    other = write_log(folder / "other.txt", seed=1)
    assert train(other, folder / "elsewhere" / "rksa", "--epochs", "1") == 0
    return folder


def test_scores_are_those_of_the_result_files(folder):
    names = ["rksa", "sasrec", "pop"]
    found = report(read_runs([folder / name for name in names]), {"i3": "Three"})
    (group,) = found.groups
    assert group.runs == names and [row.name for row in group.rows] == [*names, "popularity"]
    for row, name in zip(group.rows, [*names, "rksa"], strict=True):
        result = json.loads((folder / name / "result.json").read_text())
        result = result if row.name != "popularity" else result["popularity"]
        for ranking, by_metric in row.scores.items():
            for metric, value in by_metric.items():
                assert value.mean == result["test"][ranking][metric]
                assert [value.low, value.high] == result["intervals"][ranking][metric]
        assert row.qualities == result["lists"]
    told = found.runs[0]
    result = json.loads((folder / "rksa" / "result.json").read_text())
    assert (told.finished, told.best_epoch, told.epochs) == (True, result["best_epoch"], 2)
    assert told.data == json.loads((folder / "rksa" / "data.json").read_text())
    json.dumps(found.to_json(), allow_nan=False)


def test_a_metric_that_came_later_is_left_out(folder, monkeypatch):
    """Of the page, the table and the summary alike; what the runs have stays."""
    old = set(METRICS)
    monkeypatch.setitem(METRICS, "rbp@9", Metric("RBP@9", lambda ranks: 0.2 * 0.8 ** (ranks - 1)))
    found = report(read_runs([folder / "rksa", folder / "sasrec"]))
    for row in found.groups[0].rows:
        assert {frozenset(scores) for scores in row.scores.values()} == {frozenset(old)}
    page = report_page(found)
    assert "NDCG@10" in page and "RBP@9" not in page
    result = json.loads((folder / "rksa" / "result.json").read_text())
    assert "RBP@9" not in result_table(result)
    assert set(Scores({0: result}).to_json()["full"]) == old
    assert "rbp@9" in rank_metrics(np.ones(3))


def test_settings_that_differ(folder):
    found = report(read_runs([folder / "rksa", folder / "sasrec"]))
    assert found.differing["model"] == ["rksa", "sasrec"]
    assert found.differing["epochs"] == [2, 1] and found.differing["seed"] == [0, 3]
    assert found.differing["kernel_weight"] == [0.5, None]
    assert not {"width", "out", "data", "split"} & set(found.differing)
    assert report(read_runs([folder / "rksa"])).differing == {}


def test_differences_are_means_of_paired_gains(folder):
    found = report(read_runs([folder / "rksa", folder / "sasrec"]))
    (by_ranking,) = found.groups[0].differences.values()
    for ranking, told in by_ranking.items():
        gains = []
        for name in ("rksa", "sasrec"):
            with np.load(folder / name / "ranks.npz") as ranks:
                gains.append([1 / np.log2(r + 1) if r <= 10 else 0.0 for r in ranks[ranking]])
        difference = np.mean(gains[0]) - np.mean(gains[1])
        assert told.difference == pytest.approx(difference, abs=1e-12)
        assert told.low <= told.difference <= told.high and told.users == 60


def test_what_is_shown_by_popularity(folder):
    run = Run.load(folder / "rksa")
    split, sequences = run.batcher.split, run.sequences
    who = [set() for _ in range(sequences.num_items + 1)]
    events = []
    for user in range(sequences.num_users):
        for item in sequences.items[sequences.indptr[user] : split.train_end[user]]:
            who[item].add(user)
            events.append(item)
    by_popularity = sorted(range(1, sequences.num_items + 1), key=lambda i: -len(who[i]))
    tenth = {item: place * 10 // sequences.num_items for place, item in enumerate(by_popularity)}

    def shares(items):
        places = [tenth[item] for item in items]
        return [places.count(i) / len(places) for i in range(10)]

    with np.load(folder / "rksa" / "lists.npz") as lists:
        shown = [item for item in lists["items"].ravel().tolist() if item]
    (group,) = report(read_runs([folder / "rksa"])).groups
    assert group.rows[0].exposure == pytest.approx(shares(shown))
    assert group.events == pytest.approx(shares(events))
    assert group.targets == pytest.approx(shares(split.target_items("test").tolist()))


def test_examples_are_the_lists_that_were_tested(folder):
    found = report(read_runs([folder / "rksa", folder / "pop"]), {"i3": "Three"})
    run = Run.load(folder / "rksa")
    examples = found.groups[0].examples
    assert [example.user for example in examples] == [
        run.sequences.user_ids[row] for row in (10, 30, 50)
    ]
    for example in examples:
        events = [run.sequences.item_id(i) for i in run.sequences.sequence(
            run.sequences.user_index(example.user))]  # fmt: skip
        assert example.target.id == events[-1]
        before = events[:-1]
        assert [item.id for item in example.history] == before[-8:]
        assert example.earlier == max(0, len(before) - 8)
        ours, popular = example.shown
        # Who is recommended to had the target already; before it, the same list is recommended.
        ids = [item.id for item in ours.items]
        assert len(ids) == 10 and not set(ids) & set(before)
        assert (example.target.id in ids) == (ours.rank <= 10)
        if ours.rank <= 10:
            assert ids[ours.rank - 1] == example.target.id
        had = run.batcher.split.train_counts()  # ties stand in any order
        counts = [
            [had[run.sequences.item_indices([item.id])[0]] for item in items]
            for items in (example.popular, popular.items)
        ]
        assert counts[0] == counts[1] and not {item.id for item in example.popular} & set(before)
        for item in [*example.history, example.target, *ours.items]:
            assert item.title == ("Three" if item.id == "i3" else None)


def test_a_run_that_has_not_ended(folder):
    found = report(read_runs([folder / "stopped", folder / "rksa"]))
    assert [told.finished for told in found.runs] == [False, True]
    assert found.runs[0].best_epoch == 1 and len(found.runs[0].curve.losses) == 1
    assert found.groups[0].runs == ["rksa"]


def test_runs_on_other_data_are_not_compared(folder):
    found = report(read_runs([folder / "rksa", folder / "elsewhere" / "rksa"]))
    first, second = (told.name for told in found.runs)
    assert second == "elsewhere/rksa" and first.endswith("/rksa")
    assert [group.runs for group in found.groups] == [[first], [second]]
    assert all(group.differences == {} for group in found.groups)


def test_wrong_folders_are_told(folder):
    with pytest.raises(ConfigError, match="is given twice"):
        read_runs([folder / "rksa", folder / "pop" / ".." / "rksa"])
    with pytest.raises(FolderError, match="is not a run folder"):
        read_runs([folder])
