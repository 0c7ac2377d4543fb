"""The page of an explanation: what it says, ids that would be markup, and in a browser."""

import json
from html import escape

import pytest
from support.pages import assert_shown_well, assert_whole_in_itself
from support.runs import train, write_log

from rka_fast.commands import main
from rka_fast.pages.rendering import later, number, percent, when
from rka_fast.run import Run

HOSTILE = {
    "i3": "<script>alert(1)</script>",
    "i5": '"><img/src=x/onerror=alert(2)>',
    "i9": "{{7*7}}&lt;\u202egnp.exe",
    "u7": "'</title><b>u7",
}
TITLES = {HOSTILE["i3"]: "<b>Heat</b> & 'Dust'", "i20": "Longest" * 40, "i21": "Nine Lives (1999)"}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """JSON lines, as ids may have any letters there."""
    plain = write_log(tmp_path_factory.mktemp("log") / "log.txt")
    rows = [line.split() for line in plain.read_text().splitlines()]
    path = plain.with_suffix(".jsonl")
    lines = [{"user": HOSTILE.get(u, u), "item": HOSTILE.get(i, i)} for u, i in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module", params=["rksa", "sasrec", "gru4rec"])
def run(request, log, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert train(log, folder, "--model", request.param, "--epochs", "1") == 0
    return folder


def history():
    return [HOSTILE["i3"], HOSTILE["i5"], HOSTILE["i9"], "i20", "i21"]


@pytest.fixture
def page(run, tmp_path):
    from rka_fast.pages.explain_page import explain_page

    found = Run.load(run).explain([history()], top=3, titles=TITLES)
    path = tmp_path / "why.html"
    path.write_text(explain_page(found), encoding="utf-8")
    return found, path


def test_the_page_says_what_the_numbers_are(page):
    found, path = page
    html = path.read_text(encoding="utf-8")
    text = assert_whole_in_itself(html).text
    assert "recommends this after this history" in text
    for shown in found.recommended:
        assert f"{shown.score:.3f}" in text and (shown.item.title or shown.item.id) in text
        for left_out in shown.without:
            assert f"{left_out.score:.3f}" in text
        if shown.parts:
            for item, place in zip(shown.parts.items, shown.parts.places, strict=True):
                assert f"{item + place:+.3f}".replace("-", "−") in text
    for block in found.attention:
        assert all(f"{weight:.3f}" in text for weight in block.weights)
    if found.kernels:
        assert html.count('<svg class="heatmap"') == 3  # who is not in the data has no user kernel
        assert "has no user kernel" in text
        assert "item kernel, " in text
    else:
        assert "heatmap" not in html.split("</style>")[1]
    assert ("over 64 draws" in text) == (found.model == "rksa")
    assert ("no attention to show" in text) == (found.model == "gru4rec")


def test_ids_and_titles_are_text(page):
    _, path = page
    html = path.read_text(encoding="utf-8")
    for raw in (HOSTILE["i3"], HOSTILE["i5"], "<b>Heat"):
        assert raw not in html
    assert escape("<b>Heat</b> & 'Dust'", quote=False).split("'")[0] in html
    assert "{{7*7}}" in html  # no template is made of it
    assert "\u202e" not in html and "\\u202e" in html  # what would turn the text round is seen
    assert "Longest" * 40 not in html  # a title has an end


@pytest.mark.slow  # a browser takes seconds to start
def test_in_a_browser(page, browser):
    found, path = page
    first = found.recommended[0]
    texts = [
        "how sure that is",
        "<b>Heat</b> & 'Dust'",
        f"{first.score:.3f}",
        "The list without an event",
    ]
    assert_shown_well(browser, path, texts)


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "new" / "why.html"
    assert (
        main(["explain", str(run), "--user", HOSTILE["u7"], "--top", "2", "--out", str(out)]) == 0
    )
    assert capsys.readouterr().out == f"page: {out}\n"
    text = assert_whole_in_itself(out.read_text(encoding="utf-8")).text
    assert f"recommends this to user {HOSTILE['u7']}" in text
    asked = json.dumps(history())
    assert main(["explain", str(run), "--history", asked, "--top", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = Run.load(run).explain([history()], top=2)
    assert told == json.loads(json.dumps(expected.to_json()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --user ID"),
        (["u1"], "unexpected 'u1'; did you mean --user u1, or --history u1?"),
        (["--usr", "u1"], "unknown flag --usr; did you mean --user?"),
        (["--user", "u1", "--history", "i20"], "give either --user ID"),
        (["--user", "u1"], "give --out FILE.html for the page, or --json"),
        (["--history", "[]", "--json"], "--history is empty: give at least one item"),
        (["--user", "u1", "--times", "1", "--json"], "--times goes with --history"),
        (["--user", "u1", "--at", "1", "--json"], "--at has no meaning: this run was trained"),
        (["--user", "nobody", "--json"], "unknown user id 'nobody'"),
        (["--user", "u1", "--json", "--draws", "1"], "draws must be at least 2, got 1"),
        (["--user", "u1", "--out", "/dev/null/x"], "cannot write /dev/null/x"),
    ],
)
def test_a_wrong_request_is_a_message(log, tmp_path, capsys, flags, message):
    assert train(log, tmp_path / "run", "--model", "pop") == 0
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_words_for_numbers():
    assert [when(x) for x in (None, 7.0, 881250949)] == ["", "7", "1997-12-04 15:55"]
    assert later(881250949, 881250949 + 86400) == "1 day later"
    assert later(881250949, 881250949 + 7300) == "2 hours later"
    assert later(881250949, 881250949 + 20) == later(1, 900) == later(None, 881250949) == ""
    assert [number(x) for x in (None, 0.12345, 12345.6)] == ["–", "0.123", "12,346"]
    assert [percent(x) for x in (0, 0.012, 0.5, 1)] == ["0 %", "1.2 %", "50 %", "100 %"]
