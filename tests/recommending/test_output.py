"""Files of lists: forms, harmless cells, and what a kill leaves."""

import csv
import json
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support import kills
from support.processes import python
from support.runs import train
from support.slow import slow

from rka_fast.errors import ConfigError, FolderError
from rka_fast.files import csv_cell
from rka_fast.recommend import main
from rka_fast.recommending import output
from rka_fast.run import Run

WILD = ["=1+1", "+a", "-5", "@b", "a,b", 'say "x"', "a|b", "<b>", "*x*", " lead", "ü", "plain"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on items with names that are hard to write."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    names = [*WILD, *(f"i{n}" for n in range(40))]
    events = {"user": [], "item": []}
    for user in range(90):
        for item in rng.permutation(len(names))[:6]:
            events["user"].append(f"u{user}")
            events["item"].append(names[item])
    pl.DataFrame(events).write_parquet(folder / "log.parquet")
    assert train(folder / "log.parquet", folder / "run", "--epochs", "1") == 0
    return Run.load(folder / "run")


class Cells(HTMLParser):
    """The rows of a page's table."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        else:
            assert tag in ("table", "meta", "title"), tag

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_every_form_holds_the_same(run, tmp_path):
    titles = {name: f"={name}" for name in run.sequences.item_ids[::2]}
    expected = run.recommend(top=6, titles=titles)
    assert {"=1+1", "-5", "a,b", "a|b", "<b>", "*x*"} <= set(expected["item"])

    def made(ending):
        return run.recommend_to(tmp_path / f"recs{ending}", top=6, titles=titles, progress=False)

    assert pl.read_parquet(made(".parquet")).equals(expected)
    assert pl.read_ndjson(made(".jsonl"), schema=expected.schema).equals(expected)
    for ending, dialect in ((".csv", "excel"), (".tsv", "excel-tab")):
        with open(made(ending), encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, dialect)
        assert header == expected.columns == ["user", "rank", "item", "score", "title"]
        assert len(rows) == len(expected)
        for (user, rank, item, score, title), row in zip(rows, expected.iter_rows(), strict=True):
            assert (user, int(rank), np.float32(score)) == (row[0], row[1], np.float32(row[3]))
            assert (item, title) == (csv_cell(row[2]), csv_cell(row[4]))
    header, *rows = Cells(made(".html").read_text(encoding="utf-8")).rows
    assert header == expected.columns
    assert [row[2] for row in rows] == expected["item"].to_list()
    header, line, *rows = made(".md").read_text(encoding="utf-8").splitlines()
    assert header == "| user | rank | item | score | title |" and set(line) <= set("|- ")
    for text, row in zip(rows, expected.iter_rows(), strict=True):
        assert "<" not in text  # no HTML, and no cell more or less
        assert text.replace(r"\|", "").count("|") == 6
        assert f"| {row[0]} | {row[1]} | " in text


def test_a_file_where_the_parts_go_is_told(run, tmp_path):
    (tmp_path / "recs.csv.parts").write_text("mine")
    with pytest.raises(FolderError, match="recs.csv.parts, where the parts go, is no folder"):
        run.recommend_to(tmp_path / "recs.csv", progress=False)
    assert (tmp_path / "recs.csv.parts").read_text() == "mine"


@pytest.mark.parametrize(
    ("ending", "options"),
    [(".parquet", {}), (".csv", {}), (".parquet", {"order": "thompson", "draws": 3})],
    ids=["parquet", "csv", "draws"],
)
def test_stopped_it_goes_on(run, tmp_path, ending, options, monkeypatch):
    """To the same bytes, also where scores are drawn."""
    monkeypatch.setattr(output, "PART", 16)
    options = {"progress": False, **options}
    whole = run.recommend_to(tmp_path / f"whole{ending}", top=4, **options).read_bytes()
    write, made = output.write_atomically, []

    def dies(path, content):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(path)
        write(path, content)

    out = tmp_path / f"recs{ending}"
    monkeypatch.setattr(output, "write_atomically", dies)
    with pytest.raises(KeyboardInterrupt):
        run.recommend_to(out, top=4, **options)
    assert not out.exists()  # request.json and two parts of six
    parts = tmp_path / f"recs{ending}.parts"
    assert len(list(parts.glob("part-*"))) == 2
    with pytest.raises(FolderError, match=r"parts of another request; delete it"):
        run.recommend_to(out, top=5, **options)
    monkeypatch.setattr(output, "write_atomically", lambda *a: (made.append(a[0]), write(*a)))
    run.recommend_to(out, top=4, **options)
    assert out.read_bytes() == whole and not parts.exists()
    assert len(made) == len(set(made)) == 1 + 6  # nothing was made twice
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, f"whole{ending}"]


@pytest.mark.parametrize(
    ("ending", "every"),
    [slow(".parquet", 17), *(slow(e, 1) for e in (".parquet", ".csv"))],
)
def test_killed_anywhere_the_same_command_goes_on(run, tmp_path, ending, every):
    """By kill -9 beside its parts, and at any call of the operating system; to the same bytes."""
    whole = run.recommend_to(tmp_path / f"whole{ending}", top=3, progress=False).read_bytes()
    out = tmp_path / "killed" / f"recs{ending}"
    out.parent.mkdir()
    tests = str(Path(kills.__file__).parents[1])
    code = (
        f"import pathlib, sys; sys.path.append({tests!r}); from support.killed_lists import run; "
        f"run({str(run.folder)!r}, pathlib.Path({str(out)!r}), {every}, 16)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stderr.splitlines() if line.startswith(("call", "sig"))]
    assert {tuple(line[1:]) for line in lines} == {("0", sha256(whole).hexdigest(), out.name)}
    found = [line[0] for line in lines]
    assert found.count("call") * every >= 60 and found.count("signal") >= 3  # of 6 parts


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "recs.parquet"
    assert main([str(run.folder), "--all", "--out", str(out), "--top", "3"]) == 0
    assert "recommendations for 90 people" in capsys.readouterr().out
    assert pl.read_parquet(out).equals(run.recommend(top=3))
    (tmp_path / "only.txt").write_text("i3\n")
    few = ["--items", str(tmp_path / "only.txt"), "--out", str(tmp_path / "few.csv")]
    assert main([str(run.folder), "--all", *few]) == 0
    only = run.sequences.item_indices(["i3"])[0]
    lists = sum(only not in run.sequences.sequence(user) for user in range(90))
    assert lists < 90 and f"recommendations for {lists} of 90 people" in capsys.readouterr().out
    assert len(pl.read_csv(tmp_path / "few.csv")) == lists
    lists = tmp_path / "lists.json"
    lists.write_text(json.dumps({"a": ["a,b", " lead", "none"], "b": []}))
    flags = [str(run.folder), "--history-file", str(lists), "--top", "2"]
    assert main([*flags, "--json"]) == 0
    printed = capsys.readouterr()
    expected = run.plan({"a": ["a,b", " lead"], "b": []}, 2).table()
    found = json.loads(printed.out)
    assert [part["user"] for part in found] == ["a", "b"]
    assert [row for part in found for row in part["recommendations"]] == expected.drop(
        "user"
    ).to_dicts()
    assert "note: left out 1 event" in printed.err and "note: 1 history has no" in printed.err
    assert main([str(run.folder), "--history", '["a,b", " lead"]', "--top", "2"]) == 0
    table = capsys.readouterr().out
    assert all(item in table for item in expected.filter(user="a")["item"])


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["u7"], ["unexpected 'u7'", "--user u7"]),
        (["--all"], ["--all needs --out FILE"]),
        (["--all", "--out", "recs.xls"], ["ending says the form", ".parquet"]),
        (["--all", "--user", "u7"], ["give either --user"]),
        (["--history-file", "none.csv"], ["none.csv does not exist"]),
        (["--user", "u7", "--items", "none.csv"], ["none.csv does not exist"]),
    ],
)
def test_wrong_flags_are_told(run, flags, parts, capsys):
    assert main([str(run.folder), *flags]) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error


def test_a_file_that_cannot_be_written(run, tmp_path):
    with pytest.raises(ConfigError, match="ending"):
        run.recommend_to(tmp_path / "recs", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot write"):
        run.recommend_to(tmp_path / "file" / "recs.csv", progress=False)
