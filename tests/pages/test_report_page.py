"""The page of a report: what it says, names that would be markup, and in a browser."""

import json
import re
from html import unescape
from itertools import pairwise

import pytest
from support.pages import assert_shown_well, assert_whole_in_itself
from support.runs import train, write_log

from rka_fast.commands import main
from rka_fast.errors import ConfigError
from rka_fast.pages.charts import Line, line_chart
from rka_fast.pages.report_page import report_page
from rka_fast.reporting.report import report
from rka_fast.reporting.runs import read_runs
from rka_fast.run import Run

NAME = "<b>run&amp;{{1}}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    log = write_log(folder / "log.txt")
    assert train(log, folder / NAME, "--epochs", "2") == 0
    assert train(log, folder / "sasrec", "--model", "sasrec", "--epochs", "2") == 0
    assert train(log, folder / "pop", "--model", "pop") == 0
    return [folder / NAME, folder / "sasrec", folder / "pop"]


def written(runs, path):
    found = report(read_runs(runs), {f"i{i}": f"<i>Title {i}" for i in range(130)})
    path.write_text(report_page(found), encoding="utf-8")
    return found


def test_the_page_says_what_the_numbers_are(runs, tmp_path):
    found = written(runs, tmp_path / "runs.html")
    html = (tmp_path / "runs.html").read_text(encoding="utf-8")
    text = assert_whole_in_itself(html).text
    assert NAME in text and "<b>run" not in html and "<i>Title" not in html
    (group,) = found.groups
    for row in group.rows:
        for by_metric in row.scores.values():
            for value in by_metric.values():
                assert f"{value.mean:.4f} ± {(value.high - value.low) / 2:.4f}" in text
        assert all(f"{value:.4g}" in text for value in row.qualities.values())
    for by_ranking in group.differences.values():
        assert all(f"{x.difference:+.4f}".replace("-", "−") in text for x in by_ranking.values())
    for example in group.examples:
        assert f"User {example.user} went on to {example.target.title}" in text
    assert "kernel_weight" in text and "Settings that differ" in text
    assert html.count('<svg class="chart"') == 4  # loss, two rankings, tenths of the items
    assert html.count('class="mark') == 6  # the best epoch of two runs in three of them
    assert "60 users in test" in text
    assert "warning: only 60 users are tested" in text


def test_one_run(runs, tmp_path):
    written(runs[:1], tmp_path / "run.html")
    text = assert_whole_in_itself((tmp_path / "run.html").read_text(encoding="utf-8")).text
    assert f"RKSA: {NAME}" in text and "Settings that differ" not in text
    written(runs[2:], tmp_path / "pop.html")
    text = assert_whole_in_itself((tmp_path / "pop.html").read_text(encoding="utf-8")).text
    assert "learned" not in text and "Test scores" in text


def test_a_notebook_shows_the_page_of_runs(runs):
    first, second, _ = runs
    found = Run.load(first).report(second, titles={"i3": "Three"})
    assert found == report_page(report(read_runs([first, second]), {"i3": "Three"}))
    frame = re.fullmatch(r'<iframe srcdoc="([^"]*)" style="[^"]*"></iframe>', found._repr_html_())
    assert frame and unescape(frame[1]) == found
    with pytest.raises(ConfigError, match="is given twice"):
        Run.load(first).report(first)


def test_a_run_that_held_nothing_out(tmp_path):
    log = write_log(tmp_path / "log.txt")
    assert train(log, tmp_path / "all", "--split", "none", "--epochs", "2") == 0
    found = written([tmp_path / "all"], tmp_path / "all.html")
    (told,) = found.runs
    assert (told.best_epoch, told.epochs) == (0, 2)
    html = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert html.count('<svg class="chart"') == 1 and "users in test" not in html  # the loss
    assert "best epoch on validation, whose" not in html and "nothing held out" in html


def test_ticks_that_lie_near_each_other_have_their_own_labels():
    losses = [Line("loss", 0, [(1.0, 10.7858), (2.0, 10.7600)])]
    svg = str(line_chart("Loss", losses, "epoch", False))
    labels = re.findall(r'text-anchor="end">([^<]*)<', svg)
    steps = [float(b) - float(a) for a, b in pairwise(labels)]
    assert len(labels) > 3 and steps == pytest.approx([steps[0]] * len(steps), rel=0.01)
    one = str(line_chart("Loss", [Line("loss", 0, [(1.0, 3.0)])], "epoch", True))
    assert re.findall(r'text-anchor="middle">([^<]*)<', one) == ["1", "2", "epoch"]


@pytest.mark.slow  # a browser takes seconds to start
def test_in_a_browser(runs, browser, tmp_path):
    written(runs, tmp_path / "runs.html")
    texts = ["3 runs side by side", NAME, "Test scores", "Examples of lists", "<i>Title"]
    assert_shown_well(browser, tmp_path / "runs.html", texts)


def test_the_command(runs, tmp_path, capsys):
    out = tmp_path / "runs.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"page: {out}\n"
    assert_whole_in_itself(out.read_text(encoding="utf-8"))
    assert main(["report", str(runs[1]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"][0]["name"] == "sasrec"
    assert told["groups"][0]["rows"][1]["name"] == "popularity"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--json"], "give a run folder"),
        (["RUN", "--otu", "x"], "unknown flag --otu; did you mean --out?"),
        (["RUN"], "give --out FILE.html for the page, or --json"),
        (["RUN", "RUN", "--json"], "is given twice"),
        (["RUN/sequences", "--json"], "is not a run folder"),
        (["RUN", "--titles", "RUN/none", "--json"], "none"),
    ],
)
def test_a_wrong_request_is_a_message(runs, capsys, flags, message):
    given = [flag.replace("RUN", str(runs[2])) for flag in flags]
    assert main(["report", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
