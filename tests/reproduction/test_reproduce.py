import csv
import dataclasses
import json
import os
import signal
import statistics

import numpy as np
import pytest
from support.runs import SMALL, write_log
from support.slow import slow

from rka_fast.models import MODELS
from rka_fast.reproduce import main
from rka_fast.reproduction import cells
from rka_fast.reproduction.cells import parse_overrides, plan
from rka_fast.reproduction.datasets import DATASETS, own_log
from rka_fast.reproduction.paper import FIGURES, PAPER_MODELS
from rka_fast.reproduction.results import Outcome, Scores
from rka_fast.training.assemble import load_data
from rka_fast.training.config import Config
from rka_fast.training.evaluator import Evaluator
from rka_fast.training.metrics import METRICS, RANKINGS, rank_metrics
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.trainer import Trainer

QUICK = ("--models", "pop,sasrec,rksa", "--seeds", "2", "--epochs", "2")


def reproduce(*flags):
    """Exit status of the command with settings for small runs."""
    sets = [word for pair in SMALL.items() for word in ("--set", "=".join(map(str, pair)))]
    return main([*map(str, flags), *sets])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with a small log under the name of Games, and an own log."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "sasrec").mkdir()
    write_log(folder / "sasrec" / "video_sasrec.txt")
    write_log(folder / "mine.txt", seed=1)
    return folder


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """The outputs of a run over two data sets, of which one is missing, and an own log."""
    out = tmp_path_factory.mktemp("runs") / "out"
    patch = pytest.MonkeyPatch()
    games = dataclasses.replace(DATASETS["games"], counts=None)  # the small log passes for it
    patch.setitem(DATASETS, "games", games)
    status = reproduce(
        "--datasets", "games,citeulike", "--data", folder / "mine.txt", "--data-dir", folder,
        "--out", out, "--json", out.parent / "result.json", *QUICK,
    )  # fmt: skip
    patch.undo()
    assert status == 0
    return out


def results(out, dataset, model):
    return [
        json.loads((out / dataset / model / f"seed{seed}" / "result.json").read_text())
        for seed in range(2)
    ]


def test_json_is_what_the_cells_came_to(done):
    values = json.loads((done / "result.json").read_text())
    assert values == json.loads((done.parent / "result.json").read_text())
    assert list(values) == ["games", "mine"]
    for dataset, models in values.items():
        assert list(models) == ["pop", "sasrec", "rksa"]
        for model, found in models.items():
            cells = results(done, dataset, model)
            for kind in RANKINGS:
                for name in METRICS:
                    assert found[kind][name] == [cell["test"][kind][name] for cell in cells]
            per_epoch = [cell["seconds"]["per_epoch"] for cell in cells]
            assert found["seconds_per_epoch"] == pytest.approx(statistics.mean(per_epoch))
    assert values["games"]["pop"]["full"]["hit@5"][0] == values["games"]["pop"]["full"]["hit@5"][1]
    sampled = values["games"]["pop"]["sampled"]["ndcg@10"]
    assert sampled[0] != sampled[1]  # each seed has negatives of its own


def test_ranks_are_those_of_the_result(done):
    for seed, result in enumerate(results(done, "mine", "rksa")):
        ranks = RunFolder(done / "mine" / "rksa" / f"seed{seed}").read_ranks()
        for kind in RANKINGS:
            assert rank_metrics(ranks[kind]) == result["test"][kind]


def test_significance_is_against_the_best_on_validation(done):
    values = json.loads((done / "result.json").read_text())["mine"]
    found = values["rksa"]["significance"]
    for kind in RANKINGS:
        valid = {m: statistics.mean(values[m]["valid"][kind]["ndcg@10"]) for m in values}
        baseline = found[kind]["baseline"]
        assert baseline == max(("pop", "sasrec"), key=valid.get)
        ours, theirs = (statistics.mean(values[m][kind]["ndcg@10"]) for m in ("rksa", baseline))
        assert found[kind]["difference"] == pytest.approx(ours - theirs)
        assert found[kind]["low"] <= found[kind]["difference"] <= found[kind]["high"]
        assert 0 <= found[kind]["p"] <= 1 and found[kind]["users"] == 60


def test_the_markdown_table(done):
    text = (done / "table.md").read_text()
    games, mine = text.split("## Not run")[0].split("\n## ")[1:]
    rows = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in games.splitlines()]
    hit = [result["test"]["sampled"]["hit@5"] for result in results(done, "games", "rksa")]
    expected = f"{statistics.mean(hit):.4f} ± {statistics.stdev(hit):.4f}".replace("0.", ".")
    row = next(row for row in rows if row and row[0] == "RKSA")
    assert row[1] == expected and row[2] == ".6544"  # the paper's Games, RKSA, Hit@5
    assert next(row for row in rows if row and row[0] == "POP")[8] == ".2168"
    assert "off by one" in games and "paper |" not in mine
    assert mine.startswith("Own data, ") and "6 of 6 cells" in mine
    assert "citeulike/hcrnn_train.txt.gz, " in text.split("## Not run")[1]
    assert DATASETS["citeulike"].source in text
    for fact in ("split: leave-one-out", "command: `python -m rka_fast.reproduce --datasets games"):
        assert fact in text
    cells = results(done, "games", "rksa")
    half = statistics.mean(
        (high - low) / 2 for low, high in (r["intervals"]["sampled"]["ndcg@10"] for r in cells)
    )
    assert row[9] == f"± {half:.4f}".replace("0.", ".", 1)
    assert "Tested: 60 users." in mine and "Warning: so few users" in mine
    shown = next(line for line in mine.split("are like**")[1].splitlines() if "| SASRec" in line)
    coverage = [r["lists"]["coverage@10"] for r in results(done, "mine", "sasrec")]
    assert shown.split("|")[2].strip() == f"{statistics.mean(coverage):.4g}"
    means = {
        title: statistics.mean(r["test"]["full"]["hit@10"] for r in results(done, "mine", model))
        for model, title in (("pop", "POP"), ("sasrec", "SASRec"), ("rksa", "RKSA"))
    }
    full = mine.split("**Full ranking")[1].splitlines()
    rows = {title: next(line for line in full if f"| {title} |" in line) for title in means}
    bold = {title for title, row in rows.items() if "**" in row.split("|")[4]}
    assert bold == {title for title, mean in means.items() if mean == max(means.values())}


def test_the_csv_table_and_the_figure(done):
    with open(done / "table.csv", newline="") as file:
        rows = {(row["dataset"], row["model"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    for (dataset, model), row in rows.items():
        values = [result["test"]["full"]["ndcg@10"] for result in results(done, dataset, model)]
        assert float(row["full_ndcg@10"]) == pytest.approx(statistics.mean(values))
        assert float(row["full_ndcg@10_sd"]) == pytest.approx(statistics.stdev(values))
    assert rows["games", "sasrec"]["paper_hit@10"] == "0.7373"
    assert rows["mine", "sasrec"]["paper_hit@10"] == ""
    assert (done / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_finished_cells_are_kept(done, folder, monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("a finished cell was computed again")

    monkeypatch.setattr(cells, "Trainer", refuse)
    before = (done / "result.json").read_text()
    flags = ("--data", folder / "mine.txt", "--data-dir", folder, "--out", done, *QUICK)
    assert reproduce(*flags) == 0
    assert capsys.readouterr().out.count("(kept)") == 6
    assert json.loads((done / "result.json").read_text())["mine"] == json.loads(before)["mine"]


def test_cells_of_one_data_set_and_seed_share_popularity(folder, tmp_path, monkeypatch):
    """Found once a seed, and what the cells of the model POP find."""
    calls, evaluate = [], Evaluator.popularity

    def counted(evaluator):
        calls.append(evaluator.config.seed)
        return evaluate(evaluator)

    monkeypatch.setattr(Evaluator, "popularity", counted)
    flags = ("--data", folder / "mine.txt", "--epochs", "1", "--out", tmp_path)
    assert reproduce("--models", "sasrec,item_knn", "--seeds", "2", *flags) == 0
    assert calls == [0, 1]
    assert reproduce("--models", "sasrec,item_knn,pop", "--seeds", "2", *flags) == 0
    assert calls == [0, 1]
    for model in ("sasrec", "item_knn"):
        for of_model, of_pop in zip(
            results(tmp_path, "mine", model), results(tmp_path, "mine", "pop"), strict=True
        ):
            assert of_model["popularity"]["test"] == of_pop["test"]


def test_other_settings_or_data_need_another_folder(done, folder, tmp_path, capsys):
    flags = ("--data", folder / "mine.txt", "--out", done, *QUICK)
    assert reproduce(*flags, "--set", "rksa.dropout=.5") == 2
    message = f"{done}/mine/rksa/seed0 holds a run with dropout 0.2, now it is 0.5"
    assert message in capsys.readouterr().err
    other = write_log(tmp_path / "mine.txt", users=61)
    assert reproduce("--data", other, "--out", done, *QUICK) == 2
    assert "holds a run on other data" in capsys.readouterr().err


@pytest.mark.slow  # a run that goes on exactly: tests/training/test_trainer.py
def test_stopped_inside_a_cell_it_goes_on_exactly(done, folder, tmp_path, monkeypatch, capsys):
    step = Trainer._step

    def interrupt(self, stop):
        if self.config.model == "rksa" and self.progress.step == 5 and not interrupted:
            interrupted.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, stop)

    interrupted = []
    monkeypatch.setattr(Trainer, "_step", interrupt)
    flags = ("--data", folder / "mine.txt", "--out", tmp_path / "out", *QUICK)
    assert reproduce(*flags) == 130
    captured = capsys.readouterr()
    assert "everything is kept" in captured.err and "Traceback" not in captured.err
    assert "2 of 6 cells finished" in (tmp_path / "out/table.md").read_text()
    assert reproduce(*flags) == 0
    assert capsys.readouterr().out.count("(kept)") == 2
    for model in ("pop", "sasrec", "rksa"):
        for once, twice in zip(
            results(done, "mine", model), results(tmp_path / "out", "mine", model), strict=True
        ):
            assert once["test"] == twice["test"] and once["valid"] == twice["valid"]
            assert once["best_epoch"] == twice["best_epoch"]


def test_a_cell_that_fails_does_not_stop_the_others(folder, tmp_path, capsys):
    flags = ("--models", "pop,sasrec", "--seeds", "1", "--set", "sasrec.learning_rate=1e38")
    assert reproduce("--data", folder / "mine.txt", "--out", tmp_path / "out", *flags) == 1
    assert "failed: mine sasrec seed 0: the " in capsys.readouterr().out
    text = (tmp_path / "out/table.md").read_text()
    assert "Failed: mine sasrec seed 0" in text and "| POP |" in text


def test_the_time_split_needs_times(folder, tmp_path, capsys):
    timed = tmp_path / "timed.csv"
    lines = (folder / "mine.txt").read_text().splitlines()
    rows = [f"{line.replace(' ', ',')},{1e9 + 7 * n % 601:.0f}" for n, line in enumerate(lines)]
    timed.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    flags = ("--split", "time", "--models", "pop,sasrec", "--seeds", "1", "--epochs", "1")
    assert reproduce("--data", timed, "--out", tmp_path / "a", *flags) == 0
    text = (tmp_path / "a/table.md").read_text()
    assert "split: by time" in text and "split: time" in text
    result = json.loads((tmp_path / "a/timed/sasrec/seed0/result.json").read_text())
    assert result["data"]["split"] == "time" and len(result["data"]["boundaries"]) == 2
    assert reproduce("--data", folder / "mine.txt", "--out", tmp_path / "b", *flags) == 2
    assert "not run: mine: the time split needs the time" in capsys.readouterr().out


def test_ties_and_what_is_shown_are_flags(tmp_path):
    rows = [(f"u{u}", f"i{(7 * u + 3 * k) % 30:02d}") for u in range(60) for k in range(6)]
    (tmp_path / "tied.csv").write_text(
        "user,item,timestamp\n" + "".join(f"{u},{i},1600000000\n" for u, i in sorted(rows))
    )
    flags = ("--data", str(tmp_path / "tied.csv"), "--models", "pop", "--seeds", "1")
    assert main([*flags, "--out", str(tmp_path / "a")]) == 0
    text = (tmp_path / "a/table.md").read_text()
    assert "- ties in time: in the order of the file" in text
    assert "**Warning: 300 events tie in time" in text
    assert main([*flags, "--ties", "shuffle", "--seen", "keep", "--out", str(tmp_path / "b")]) == 0
    text = (tmp_path / "b/table.md").read_text()
    assert "- ties in time: shuffled, the same for all seeds" in text
    assert "- candidates: every item" in text
    assert "tie in time with" not in text
    config = json.loads((tmp_path / "b/tied/pop/seed0/config.json").read_text())
    assert (config["ties"], config["seen"]) == ("shuffle", "keep")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sedes", "2"), "unknown flag --sedes; did you mean --seeds?"),
        (("--datasets", "citulike"), "unknown data set 'citulike'; did you mean 'citeulike'?"),
        (("--models", "rska"), "unknown model 'rska'; did you mean 'rksa'?"),
        (("--set", "rksa.dropuot=.5"), "unknown setting 'dropuot'; did you mean 'dropout'?"),
        (("--set", "rska.dropout=.5"), "unknown model 'rska'; did you mean 'rksa'?"),
        (("--set", "dropout"), "--set dropout: expected NAME=VALUE or MODEL.NAME=VALUE"),
        (("--set", "seed=3"), "--set seed=3: use --seeds for this"),
        (("--set", "ties=drop"), "--set ties=drop: use --ties for this"),
        (("--set", "rksa.where=a=1"), "all models share the data; use where=a=1"),
        (("--set", "rksa.min_rating=3"), "all models share the data; use min_rating=3"),
        (("--set", "rksa.item-features=x"), "all models share the data; use item_features=x"),
        (
            ("--models", "pop,narm,sasrec,rksa", "--set", "item-features=x"),
            "all models share the data, and pop, narm cannot use this; leave them out of --models",
        ),
        (("--set", "from_run=runs/a"), "--set from_run=runs/a: from_run is of a single run"),
        (("--set", "track=wandb"), "--set track=wandb: track is of a single run; leave it out"),
        (("--models", ","), "no model given in ','; known are all, rksa, sasrec"),
        (("--datasets", ""), "no data set given in ''; known are all, citeulike"),
        (("--set", "sasrec.kernel_weight=2"), "weight=2: not used by sasrec; leave it out"),
        (
            ("--models", "pop,narm", "--set", "kernel-weight=2"),
            "not used by pop, narm; leave it out",
        ),
        (("--seeds", "0"), "seeds must be at least 1, got 0"),
    ],
)
def test_wrong_names_and_values_are_messages(tmp_path, capsys, flags, message):
    assert main([*flags, "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_data_at_all(tmp_path, capsys):
    assert main(["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert all(f"not run: {name}: " in captured.out for name in DATASETS)
    assert f"no data set found in {tmp_path}; give --data-dir" in captured.err
    assert not (tmp_path / "out").exists()


def test_which_setting_wins(tmp_path):
    overrides = parse_overrides(["dropout=.3", "rksa.dropout=.5", "leave-self-out=false"])
    assert overrides == {"": {"dropout": 0.3, "leave_self_out": False}, "rksa": {"dropout": 0.5}}

    def configs(overrides):
        names = ["pop", "narm", "sasrec", "rksa"]
        made = plan(DATASETS["games"], "x", names, 1, "leave-one-out", tmp_path, overrides)
        return {cell.config.model: cell.config for cell in made}

    plain = configs({})
    assert {plain[m].loss for m in ("sasrec", "rksa")} == {DATASETS["games"].attention["loss"]}
    assert plain["pop"].loss is None  # not of a model with attention
    settings, attention = DATASETS["games"].settings, DATASETS["games"].attention
    assert plain["pop"].eval_every is None
    assert plain["narm"].eval_every == settings["eval_every"] != attention["eval_every"]
    assert plain["sasrec"].eval_every == plain["rksa"].eval_every == attention["eval_every"]
    given = configs(overrides)
    assert [given[m].dropout for m in ("pop", "sasrec", "rksa")] == [None, 0.3, 0.5]
    assert given["rksa"].leave_self_out is False and given["sasrec"].leave_self_out is None


def test_epochs_are_a_limit_and_no_more(tmp_path):
    cells = plan(
        DATASETS["games"], "x", ["bpr_mf", "rksa"], 1, "leave-one-out", tmp_path, {}, epochs=40
    )
    assert [cell.config.epochs for cell in cells] == [MODELS["bpr_mf"].settings()["epochs"], 40]


def test_the_baseline_is_the_best_of_its_own_ranking():
    def scores(sampled, full):
        ranks = {kind: np.array([1, rank]) for kind, rank in (("sampled", sampled), ("full", full))}
        valid = {kind: {"ndcg@10": 1 / ranks[kind][1]} for kind in RANKINGS}
        return Scores({0: {"valid": valid}}, {0: ranks})

    models = {"item_knn": scores(8, 3), "sasrec": scores(2, 6), "rksa": scores(1, 4)}
    outcome = Outcome(DATASETS["games"], {}, 3, models)
    assert (outcome.baseline("sampled"), outcome.baseline("full")) == ("sasrec", "item_knn")
    assert outcome.comparisons["sampled"].difference > 0 > outcome.comparisons["full"].difference


def test_an_own_log_is_never_taken_for_a_known_data_set():
    assert own_log("dir/games.csv.gz").name == "own-games"
    assert own_log("a.csv,b.csv").name == "a" and own_log("a.csv").paper is None


def test_files_with_other_counts_are_compared_with_nothing(folder, tmp_path):
    flags = ("--datasets", "games", "--models", "pop", "--seeds", "1")
    assert main([*flags, "--data-dir", str(folder), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/table.md").read_text()
    assert "These files are not the known ones (31,013 users" in text and "paper |" not in text


def test_the_papers_table():
    assert len(FIGURES) == 5 and all(list(row) == list(PAPER_MODELS) for row in FIGURES.values())
    assert set(MODELS) <= set(PAPER_MODELS)
    for row in FIGURES.values():
        for figures in row.values():
            assert 0 < figures["ndcg@5"] <= figures["hit@5"] <= figures["hit@10"] < 1
            assert figures["ndcg@5"] <= figures["ndcg@10"] <= figures["hit@10"]
    assert FIGURES["CiteULike"]["rksa"]["ndcg@10"] == 0.4202
    assert FIGURES["MovieLens"]["narm"]["hit@10"] == 0.5617


SMALLEST = "ml-100k"


@pytest.mark.parametrize("name", [n if n == SMALLEST else slow(n) for n in DATASETS])
def test_registered_files_have_their_counts(shared_data, name):
    dataset = DATASETS[name]
    files = dataset.find(shared_data)
    if files is None:
        pytest.skip(f"{', '.join(dataset.files)} not found in {shared_data}")
    settings = {**dataset.settings, "data": ",".join(map(str, files))}
    data = load_data(Config(**settings))[1]
    assert dataset.is_known(data["users"], data["items"], data["events"])
