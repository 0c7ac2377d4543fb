"""Lists in a file: Parquet, CSV, JSON lines, Markdown or HTML, made in parts that survive a kill.

While `FILE` is made, the folder `FILE.parts` holds what is done: request.json says what was asked,
and every part appears whole or not at all. The same command goes on there; at the end the parts
are joined, one after the other, and the folder goes.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from rka_fast.errors import ConfigError, FolderError, printable
from rka_fast.files import check_writable, locked, sync_folder, to_json, write_atomically
from rka_fast.progress import progress
from rka_fast.recommending.plan import Plan

PART = 4096  # histories of a part, a multiple of those that are scored together
REQUEST = "request.json"


def write_lists(
    plan: Plan, out: str | os.PathLike, *, model: str, at_given: bool = True, quiet: bool = False
) -> tuple[Path, int]:
    """Make the lists of a plan in the file `out`, whose ending says the form.

    model: what the scores depend on beside the plan, as text, such as a checksum of the weights.
    at_given: whether the time of asking was given; else a request that goes on keeps the time at
    which it began. Returns the file's path, and how many of the lists have an item. Raises
    ConfigError for another ending, and FolderError where the file cannot be written or its parts
    are of another request.
    """
    path = Path(os.path.realpath(out))
    join = FORMS[form_of(path)]
    check_writable(path)
    folder = path.with_name(f"{path.name}.parts")
    if folder.exists() and not folder.is_dir():
        raise FolderError(
            f"{folder}, where the parts go, is no folder; move it away or give another --out"
        )
    folder.mkdir(exist_ok=True)
    with locked(folder):
        _begin(plan, folder, f"{model} {form_of(path)}", at_given)
        starts = range(0, len(plan), PART)
        files = [folder / f"part-{number:06}.parquet" for number in range(len(starts))]
        done = [file.is_file() for file in files]
        before = sum(min(PART, len(plan) - s) for s, had in zip(starts, done, strict=True) if had)
        with progress(len(plan), "user", initial=before, quiet=quiet) as bar:
            for start, file, had in zip(starts, files, done, strict=True):
                if had:
                    continue
                tables = []
                for count, table in plan.tables(start, start + PART):
                    tables.append(table)
                    bar.update(count)
                content = io.BytesIO()
                pl.concat(tables).write_parquet(content)
                write_atomically(file, content.getvalue())
        count = _joined(files, path, join)
        for file in files:  # before the request that they are of: killed here, they are made again
            file.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return path, count


def form_of(path: str | os.PathLike) -> str:
    """The ending that says the form of a file. Raises ConfigError for an unknown one."""
    ending = Path(path).suffix.lower()
    if ending not in FORMS:
        raise ConfigError(
            f"out {str(path)!r}: the ending says the form; known are {', '.join(FORMS)}"
        )
    return ending


def _begin(plan: Plan, folder: Path, model: str, at_given: bool) -> None:
    """Write what is asked, or see that it is what the parts are of."""
    at, histories = plan.histories.at, plan.histories
    if not at_given:
        plan.histories = replace(histories, at=None)
    asked = _digest(plan, model)
    plan.histories = histories
    file = folder / REQUEST
    if not file.exists():
        if any(folder.glob("part-*")):
            raise FolderError(f"{folder} has parts, but no {REQUEST}; delete it")
        write_atomically(file, to_json({"request": asked, "at": at}))
        return
    try:
        saved = json.loads(file.read_bytes())
        same, began = saved["request"] == asked, saved["at"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{file} cannot be read ({error}); delete {folder}") from None
    if not same:
        raise FolderError(
            f"{folder} has parts of another request; delete it, or give another --out"
        )
    plan.histories = replace(histories, at=began)


def _digest(plan: Plan, model: str) -> str:
    """SHA-256 of everything that the lists depend on."""
    histories, ranker, lister = plan.histories, plan.ranker, plan.lister
    titles = None if lister.titles is None else lister.titles.to_list()
    facts = [model, repr(ranker.options), ranker.seed, ranker.shown.hide_seen, titles, histories.at]
    found = hashlib.sha256(json.dumps([*facts, histories.names.to_list()]).encode())
    arrays = [ranker.shown.candidates, histories.users, histories.indptr, histories.items]
    none: tuple[None, None] = None, None
    for pairs in (ranker.shown.excluded, ranker.shown.allowed):
        arrays = [*arrays, *(none if pairs is None else pairs.pairs(0, len(histories)))]
    for array in (*arrays, histories.times):
        found.update(b"-" if array is None else np.ascontiguousarray(array).data)
    return found.hexdigest()


def _joined(files: list[Path], path: Path, join: Callable[[pl.LazyFrame, Path], None]) -> int:
    """Make one file of the parts. Returns how many lists are in it."""
    temporary = files[0].with_name("whole")  # goes with the parts where this is killed
    try:
        table = pl.scan_parquet(files)
        join(table, temporary)
        count = table.filter(rank=1).select(pl.len()).collect().item()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, pl.exceptions.PolarsError) as error:
        temporary.unlink(missing_ok=True)  # where the disk is full, it is the largest there
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FolderError(
            f"cannot write {path}: {reason}; the same command goes on from {path.name}.parts"
        ) from None
    return count


def harmless(table: pl.LazyFrame) -> pl.LazyFrame:
    """As `files.csv_cell`: text that a spreadsheet would compute gets a quote in front."""
    texts = [name for name, kind in table.collect_schema().items() if kind == pl.String]
    return table.with_columns(
        pl.when(pl.col(name).str.contains(r"^[=+\-@\t\r]"))
        .then(pl.lit("'") + pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name in texts
    )


def _csv(table: pl.LazyFrame, path: Path) -> None:
    harmless(table).sink_csv(path)


def _tsv(table: pl.LazyFrame, path: Path) -> None:
    harmless(table).sink_csv(path, separator="\t")


def _rows(table: pl.LazyFrame) -> Iterator[tuple[list[str], bool]]:
    """The header and the rows as text, and whether it is the header."""
    names = table.collect_schema().names()
    yield names, True
    for batch in table.collect_batches(chunk_size=PART):
        for row in batch.iter_rows():
            yield [_cell(value) for value in row], False


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def markdown_cell(text: str) -> str:
    """Text that stays one cell of a Markdown table, and is neither markup nor HTML there."""
    text = html.escape(printable(text, 200), quote=False)
    return "".join(f"\\{c}" if c in "\\|`*_[]" else c for c in text)


def _markdown(table: pl.LazyFrame, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for cells, header in _rows(table):
            file.write("| " + " | ".join(map(markdown_cell, cells)) + " |\n")
            if header:
                file.write("|" + " --- |" * len(cells) + "\n")


def _html(table: pl.LazyFrame, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write('<!doctype html>\n<meta charset="utf-8">\n<title>Recommendations</title>\n')
        file.write("<table>\n")
        for cells, header in _rows(table):
            _html_row(file, cells, "th" if header else "td")
        file.write("</table>\n")


def _html_row(file: IO[str], cells: list[str], tag: str) -> None:
    row = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    file.write(f"<tr>{row}</tr>\n")


FORMS: dict[str, Callable[[pl.LazyFrame, Path], None]] = {
    ".parquet": lambda table, path: table.sink_parquet(path),
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": lambda table, path: table.sink_ndjson(path),
    ".md": _markdown,
    ".html": _html,
}
"""What joins the parts, by the ending of the file."""
