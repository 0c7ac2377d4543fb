"""Text with one user, or one history, a line."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from rka_fast.data.sources import SAMPLE, Source
from rka_fast.data.tables import separator_of, skipped, without_comments
from rka_fast.errors import DataError, printable

FORMS = {
    "user-items": "one user a line: columns user, item, item, ...",
    "items": "one history a line: columns item, item, ... (users are numbered by line)",
    "count-items": "one user a line: columns count, item, item, ... (users are numbered by line)",
}


def list_form(lines: Sequence[str], path: str) -> str | None:
    """Which of FORMS the first lines have, None where they are a table.

    Raises DataError where they can be read in two ways.
    """
    lines, _ = without_comments(list(lines))
    if _is_table(lines):
        return None
    rows = [words(line) for line in lines]
    if all(row[0] == str(len(row) - 1) for row in rows):
        return "count-items"
    first = [row[0] for row in rows]
    if len(set(first)) == len(first) and (_number_lines(first) or _differ(rows)):
        return "user-items"
    if len(set(first)) < len(first):
        raise DataError(
            f"{path}: one history a line, or a table with broken rows: first words such as "
            f"{printable(Counter(first).most_common(1)[0][0])} come again. If the lines are "
            "histories without a user: --form items; if they are rows of a table: --form table"
        )
    raise DataError(
        f"{path}: one history a line, and nothing tells whether the first word of a line, such as "
        f"{printable(first[0])}, is the user or the first item. If it is the user: --form "
        "user-items; if it is an item and users have no names: --form items"
    )


def words(line: str) -> list[str]:
    """The words of a line, between blanks or else commas, semicolons or bars."""
    return [word for word in re.split(_separator(line), line.strip()) if word]


def read_lists(content: bytes, path: str, form: str) -> Source:
    """Every word after the first (or every word) of a line is an event, in that order."""
    text = pl.Series(content.decode().split("\n")).str.strip_chars()
    lines = pl.DataFrame({"text": text}).with_row_index("line", offset=1)
    lines = lines.filter(pl.col("text") != "")
    comment = without_comments(lines["text"].head(100).to_list())[1]
    notes = []
    if comment:
        found = lines["text"].str.starts_with(comment)
        notes.append(skipped(int(found.sum()), comment))
        lines = lines.filter(~found)
    separators = Counter(map(_separator, lines["text"].head(100)))
    split = pl.col("text").str.replace_all(separators.most_common(1)[0][0], " ").str.strip_chars()
    lines = lines.with_columns(words=split.str.split(" "))
    first = pl.col("words").list.first()
    if form == "count-items":
        found = pl.col("words").list.len() - 1
        _refuse(
            lines.filter(first != found.cast(pl.String)),
            lambda row: (
                f"the count in front is {printable(row[0])}, but {len(row) - 1} items follow"
            ),
            path,
        )
    if form == "user-items":
        user, item = first, pl.col("words").list.slice(1)
        _refuse(
            lines.filter(first.is_duplicated()),
            lambda row: (
                f"read as one user a line, but user {printable(row[0])} has more than one; if the "
                "lines are histories without a user: --form items; if they are rows of a table: "
                "--form table"
            ),
            path,
        )
    else:
        user = pl.col("line").cast(pl.String)
        item = pl.col("words") if form == "items" else pl.col("words").list.slice(1)
    events = lines.select(pl.col("line"), user.alias("0"), item.alias("1"))
    events = events.explode("1").drop_nulls("1")
    frame = events.select("0", "1")

    return Source(
        path,
        FORMS[form],
        ["user", "item"],
        frame.head(SAMPLE),
        lambda positions, types: frame.select(str(position) for position in positions),
        lambda row: f"{path}, line {events['line'][row]}",
        notes,
        {"user": 0, "item": 1},
    )


def _is_table(lines: list[str]) -> bool:
    separator = separator_of(lines)
    if separator not in (None, " "):
        return True
    rows = [words(line) for line in lines]
    lengths = Counter(map(len, rows))
    if separator is None:
        # A table of which some lines are broken is one; the lines will be named.
        repeats = len({row[0] for row in rows}) < len(rows)
        loose = separator_of(lines, 0.5 if repeats else 0.7)
        return max(lengths) < 2 or loose not in (None, " ")
    # Blanks and (nearly) one length: histories were all cut to it, or some are longer while every
    # line has a first word of its own, which the users of a table have not.
    if len(lengths) == 1:
        numbers = all(word.isdigit() for word in rows[0])
        return len(rows[0]) <= 4 or not numbers or len({row[0] for row in rows}) < len(rows)
    longer = max(lengths) > lengths.most_common(1)[0][0]
    return not (longer and len(rows) >= 20 and len({row[0] for row in rows}) == len(rows))


def _number_lines(first: list[str]) -> bool:
    """Whether first words ascend from 0 or 1: they number the lines, though some are left out."""
    if not all(word.isdecimal() for word in first):
        return False
    numbers = [int(word) for word in first]
    ascending = all(a < b for a, b in itertools.pairwise(numbers))
    return ascending and numbers[0] <= 1


def _differ(rows: list[list[str]]) -> bool:
    """Whether no item looks like a first word: letters and digits stand in other places."""
    first = {_looks(row[0]) for row in rows}
    return first.isdisjoint(_looks(word) for row in rows for word in row[1:])


def _looks(word: str) -> str:
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"\d+", "0", word))


def _separator(line: str) -> str:
    blanks = len(line.split())
    for separator in (r"\t", ",", ";", r"\|"):
        if len(re.findall(separator, line.strip())) >= blanks:
            return rf"\s*{separator}\s*"
    return r"\s+"


def _refuse(wrong: pl.DataFrame, complaint: Any, path: str) -> None:
    if len(wrong):
        line, row = wrong.select("line", "words").row(len(wrong) - 1)
        raise DataError(f"{path}, line {line}: {complaint(row)}")
