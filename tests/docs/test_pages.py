"""The pages: what the README shows runs, and every link leads somewhere."""

import re
from pathlib import Path

import pytest
import torch
from support.runs import train, write_log

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")})


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """Its blocks, one after the other, beside a run in runs/mine as its commands make one."""
    monkeypatch.chdir(tmp_path)
    assert train(write_log(tmp_path / "log.txt"), "runs/mine", "--epochs", "1") == 0
    names: dict = {}
    module, operator, log = blocks(README)
    exec(module, names)
    assert names["output"].shape == (8, 20, 64)
    assert not torch.equal(*names["draws"][:2])
    torch.testing.assert_close(names["weights"].sum(-1), torch.ones(8, 20))
    exec(operator, names)
    assert names["output"].shape == (8, 4, 20, 16)
    exec(log.replace("run.for_", "found = run.for_"), names)
    assert len(names["found"]) == 10 and not {"i3", "i42"} & {item for item, _ in names["found"]}


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
