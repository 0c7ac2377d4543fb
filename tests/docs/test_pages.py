"""The pages: what the README shows runs, and every link leads somewhere."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from support.runs import train, write_log

from rka_fast.training.config import Config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")})


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """Its blocks, one after the other, beside a run in runs/mine as its commands make one."""
    monkeypatch.chdir(tmp_path)
    assert train(write_log(tmp_path / "log.csv"), "runs/mine", "--epochs", "1") == 0
    names: dict = {}
    module, operator, log = blocks(README)
    exec(module, names)
    torch.testing.assert_close(names["weights"].sum(-1), torch.ones(8, 20))
    assert names["output"].shape == names["mean"].shape == (8, 20, 64)
    assert (names["std"] > 0).all()  # something was drawn
    exec(operator, names)
    assert names["output"].shape == (8, 4, 20, 16)
    assert "epochs=20" in log
    exec(
        log.replace("epochs=20", "epochs=1").replace("rka_fast.Run", "found = rka_fast.Run"), names
    )
    assert len(names["found"]) == 10 and not {"i3", "i42"} & set(names["found"]["item"])
    assert len(names["run"].recommend("u17", top=10)) == 10


def test_the_python_on_explaining_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(write_log(tmp_path / "log.csv"), "runs/mine", "--epochs", "1") == 0
    (block,) = blocks((ROOT / "docs" / "explaining.md").read_text(encoding="utf-8"))
    names: dict = {}
    exec(block, names)
    shown = names["found"].recommended[0]
    total = sum(shown.parts.items) + sum(shown.parts.places) + shown.parts.constants
    assert total == pytest.approx(shown.score, abs=1e-5)
    assert Path("why.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    """In backquotes or commands, by their path from the root."""
    folders = "benchmarks|csrc|docs|examples|rka_fast|tests|\\.ci"
    named = re.findall(rf"(?<![\w/])((?:{folders})/[\w/.-]+\w)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_names_every_extra():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", table, re.MULTILINE)
    assert {"serve", "ann", "export", "test"} < set(extras)
    assert [extra for extra in extras if f"`{extra}`" not in README] == []


def test_flags_of_the_page_on_data_exist():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", page)}
    assert {"columns", "seen", "split"} < flags
    assert flags - {field.name for field in fields(Config)} == {"refit"}


def anchors(page: Path) -> set[str]:
    """The headings of a page as a link names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"
