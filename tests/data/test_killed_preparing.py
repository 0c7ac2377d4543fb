"""Killed at any call, the same `rka-fast prepare` goes on, and nothing else is harmed."""

import json
from pathlib import Path

import pytest
from support import kills
from support.kills import content
from support.processes import python
from support.runs import write_log
from support.slow import slow

from rka_fast.commands import main
from rka_fast.data.shards import Prepared

FLAGS = ["--shards", "2", "--min-rating", "2", "--ties", "file"]


def write_days(folder):
    """Two days of events with times and ratings."""
    lines = write_log(folder / "all").read_text().splitlines()
    rows = [f"{line} {1 + k % 5} {1_500_000_000 + 60 * k}" for k, line in enumerate(lines)]
    for name, part in (("one", rows[:300]), ("two", rows[300:])):
        (folder / name).write_text("user_id item_id rating timestamp\n" + "\n".join(part))
    return folder / "one", folder / "two"


@pytest.mark.parametrize(
    ("engine", "added", "every", "paths"),
    [
        ("polars", False, 31, 13),
        ("polars", True, 31, 13),
        slow("polars", False, 1, 1),
        slow("polars", True, 1, 1),
        slow("duckdb", False, 7, 1),
        slow("duckdb", True, 7, 2),
    ],
)
def test_killed_anywhere_the_same_command_goes_on(tmp_path, engine, added, every, paths):
    """What was done stays and is said to be there; else the same content is made, and no more."""
    if engine == "duckdb":
        pytest.importorskip("duckdb")
    sources = tmp_path / "sources"
    sources.mkdir()
    one, two = write_days(sources)
    words = [str(one), *FLAGS]
    if added:
        assert main(["prepare", *words, "--out", str(sources / "first")]) == 0
        words = [str(two), "--add", str(sources / "first")]
    words += ["--engine", engine]
    assert main(["prepare", *words, "--out", str(tmp_path / "whole")]) == 0
    whole = Prepared.open(tmp_path / "whole")
    before = content(sources)
    out = tmp_path / "killed" / "out"
    out.parent.mkdir()
    tests = str(Path(kills.__file__).parents[1])
    code = (
        f"import pathlib, sys; sys.path.append({tests!r}); "
        "from support.killed_prepare import run; "
        f"run({words!r}, pathlib.Path({str(out)!r}), {every}, {paths})"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    files = sorted(str(path.relative_to(whole.path)) for path in whole.path.rglob("*"))
    for of in found:
        assert of["status"] == (2 if of["done"] else 0), of["place"]
        assert of["same"] == of["done"], of["place"]
        assert of["facts"] == whole.facts, of["place"]
        assert of["files"] == files and of["beside"] == ["out"], of["place"]
    assert content(sources) == before
    killed = [of["place"].split()[0] for of in found]
    assert killed.count("call") * every >= 60 and killed.count("signal") * paths >= 12
    assert not all(of["done"] for of in found)
