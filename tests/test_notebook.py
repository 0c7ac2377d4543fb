"""What Python shows in a notebook: a bar of its own, and pages."""

import pytest
from support.processes import INSTALLED
from support.runs import SMALL, write_log

FIT = """
import rka_fast
run = rka_fast.fit({log!r}, out={out!r}, epochs=2, **{small!r})
"""
ASK = "run.recommend(progress=True)"
PAGES = """
from rka_fast.pages.explain_page import explain_page
display(run.report())
explain_page(run.explain("u7", draws=2))
"""


@pytest.mark.slow
def test_a_notebook_shows_bars_and_pages(tmp_path):
    """In a kernel as notebooks have it."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("ipywidgets")
    import nbformat

    log, out = str(write_log(tmp_path / "log.txt")), str(tmp_path / "run")
    cells = [FIT.format(log=log, out=out, small=SMALL), ASK, PAGES]
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    book = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(book, timeout=300, kernel_name="python3")
    client.execute(cwd=str(INSTALLED))
    fit, ask, pages = ([dict(o) for o in cell["outputs"]] for cell in book.cells)
    for outputs in (fit, ask):
        shown = [o["data"] for o in outputs if o["output_type"] == "display_data"]
        assert [d for d in shown if "application/vnd.jupyter.widget-view+json" in d], outputs
        told = "".join(o["text"] for o in outputs if o["output_type"] == "stream")
        assert "\r" not in told and "it/s" not in told
    assert "<table" in ask[-1]["data"]["text/html"]  # the frame
    html = [o["data"]["text/html"] for o in pages]
    assert len(html) == 2 and all(h.startswith("<iframe") and "svg" in h for h in html)
