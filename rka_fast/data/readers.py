"""Interaction logs of every usual form, told apart by content."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data import inputs
from rka_fast.data.decide import Decision, decide
from rka_fast.data.lists import FORMS, list_form, read_lists
from rka_fast.data.records import of_frame, read_json, read_parquet
from rka_fast.data.sources import Source
from rka_fast.data.tables import LINES, form_of, read_table
from rka_fast.data.texts import Text
from rka_fast.data.values import Tally, events
from rka_fast.data.where import conditions
from rka_fast.errors import DataError, printable

MAX_MISSING = 0.5
"""The share of rows that may lack a user, an item or a time."""

MAX_UNPACKED = 16.0
"""Gigabytes that a packed file may have inside."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """A log as it was read, in file order.

    frame: columns user and item (polars' Categorical or strings, as in the file but without blanks
        around them), and where the file has them rating (float64, NaN where missing) and timestamp.
    form: what the file was read as, for example "TSV without header: columns user, item, rating,
        timestamp".
    ordered: False where the file has neither times nor an order of its own: every user's items
        are sorted by id.
    dated: whether timestamp holds int64 nanoseconds since 1970; otherwise it holds the file's own
        numbers, int64 where all are whole and else float64.
    notes, warnings: what was decided and why, what was left out; what is doubtful.
    """

    frame: pl.DataFrame
    form: str
    ordered: bool = True
    dated: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_interactions(
    path: str | os.PathLike | Iterable[str | os.PathLike] | pl.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    form: str = "auto",
    time_format: str | None = None,
    where: str | None = None,
    max_missing: float = MAX_MISSING,
    max_unpacked: float = MAX_UNPACKED,
) -> Interactions:
    """Read one log, or several files of one form as one log; plain or packed, whatever the name.

    path: what `inputs.find` takes: a file, a folder, a pattern, an archive, several of these; or a
        data frame. Users are the same person in every file, but sessions that are numbered anew in
        each become "file:session".
    columns: overrides the detection of columns. Either the header's names, or positions counted
        from 0, of user, item, rating and timestamp (the last two may be left out, "-" skips one,
        "date+time" makes a time of two); or, for a file without such names, the words user, item,
        rating, timestamp and "-" in the file's own order.
    form: "auto", "table", or one of `lists.FORMS`: what a line of text is.
    time_format: how times are written: as in strptime, or s, ms, us, ns since 1970, or number.
    where: conditions on columns, see `where.conditions`; the other rows are left out.
    max_missing: the share of rows that may lack a user, an item or a time; they are left out.
    max_unpacked: gigabytes that a packed file may have inside.

    Raises DataError, with the line where there is one, for whatever cannot be read.
    """
    log = Log(
        path,
        columns,
        form=form,
        time_format=time_format,
        where=where,
        max_missing=max_missing,
        max_unpacked=max_unpacked,
    )
    frames = list(log.frames())
    if log.prefixes is not None:
        frames = [prefixed(*pair) for pair in zip(log.prefixes, frames, strict=True)]
    frame = pl.concat(frames, how="vertical_relaxed")
    log.refuse_nothing(len(frame))
    return Interactions(
        frame,
        log.form,
        ordered="timestamp" in frame.columns or not _sorted_by_id(frame),
        dated=log.dated,
        notes=log.notes,
        warnings=[*log.warnings, *log.mixed(frame)],
    )


class Log:
    """A log that is read file by file, all of them by what is decided on the first.

    The arguments are those of `read_interactions`. The rest is known once `frames` has ended:

    form, dated, notes, warnings: see `Interactions`. has_points: whether there are points in it.
    prefixes: of the users of every file, where sessions are numbered anew in each; else None.
    """

    def __init__(
        self,
        path: str | os.PathLike | Iterable[str | os.PathLike] | pl.DataFrame,
        columns: Sequence[str] | None = None,
        *,
        form: str = "auto",
        time_format: str | None = None,
        where: str | None = None,
        max_missing: float = MAX_MISSING,
        max_unpacked: float = MAX_UNPACKED,
    ) -> None:
        self._path, self._columns, self._form = path, columns, form
        self._time_format, self._where = time_format, where
        self._max_missing, self._max_unpacked = max_missing, max_unpacked
        self._first: Source | None = None
        self.form, self.dated, self.has_points = "", False, False
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.prefixes: list[str] | None = None

    def frames(self) -> Iterator[pl.DataFrame]:
        """The events of every file that holds anything, as in `Interactions.frame`.

        Raises DataError, with the line where there is one, for whatever cannot be read.
        """
        sources, wanted, tally = self._sources(), conditions(self._where), Tally()
        first = self._first = next(sources)
        decision = decide(first, self._columns, self._time_format, self._max_missing, wanted)
        titles = {role: printable(first.title(p)) for role, p in decision.roles.items()}
        files, sessions = 0, _Sessions()
        for source in itertools.chain([first], sources):
            _refuse_different(first, source)
            roles = _roles_in(source, first, decision)
            frame = events(source, roles, decision.kind, decision.lists, wanted, tally)
            self.has_points |= source.has_points
            files += 1
            if cols.is_session(titles["user"]):
                sessions.add(source.path, frame)
            yield frame
        tally.check(
            self._max_missing,
            titles,
            first.path,
            "name another column with --columns, or allow more with",
        )
        self.notes = [*first.notes, *decision.notes, *tally.notes(wanted)]
        self.prefixes = sessions.prefixes(self.notes)
        self.form = _form(first, decision) + (f" ({files} files pooled)" if files > 1 else "")
        self.dated = decision.kind is not None and decision.kind.is_real
        self.warnings = decision.warnings

    def mixed(self, ids: Mapping[str, pl.Series] | pl.DataFrame) -> list[str]:
        """Warnings about ids under "user" and "item" that are written in two ways."""
        return _mixed_ids(ids) if self.has_points else []

    def refuse_nothing(self, events: int) -> None:
        """Raise DataError where there are no events."""
        if not events:
            assert self._first is not None
            raise DataError(_nothing_left(self._first, conditions(self._where), self._where))

    def _sources(self) -> Iterator[Source]:
        """The files that hold anything."""
        if isinstance(self._path, pl.DataFrame):
            if self._path.is_empty():
                raise DataError("the data frame has no row")
            yield of_frame(self._path)
            return
        found, empty = inputs.find(self._path, self._max_unpacked), True
        for file in found:
            source = _open(file, self._columns, self._form, len(found) > 1)
            if source is not None:
                empty = False
                yield source
        if empty:
            raise DataError(f"{found[0].path} and the {len(found) - 1:,} other files are empty")


def _open(
    file: inputs.File, columns: Sequence[str] | None, form: str, pooled: bool
) -> Source | None:
    """One file with its form told by its content; None for an empty one among several."""
    content = file.content()  # one name for it: of several copies each may be most of the memory
    if content[:4] == b"PAR1":
        source = read_parquet(content, file.path)
        if len(source.sample) == 0:
            if pooled:
                return None
            raise DataError(f"{file.path} has columns but no interactions")
        return source
    raw, content = content, inputs.decode(content, file.path)
    text = Text(content, file.path, file.path if content is raw else None)
    del raw
    first = re.search(rb"\S", content)
    if first is None:
        if pooled:
            return None
        raise DataError(f"{file.path} is empty")
    start = first[0]
    if start == b"{" or (start == b"[" and form == "auto"):
        return read_json(text, file.path)
    lines = _first_lines(content)
    if form == "auto" and columns is None:
        form = list_form(lines, file.path) or "table"
    if form in FORMS:
        return read_lists(content, file.path, form)
    return read_table(text, lines, file.path, columns)


def _first_lines(text: bytes) -> list[str]:
    """The first lines that are not blank."""
    lines: list[str] = []
    start = 0
    while start < len(text) and len(lines) < LINES:
        piece = text[start : start + (1 << 16)]
        if len(piece) == 1 << 16:
            end = text.find(b"\n", start + len(piece) - 1)
            piece = text[start : len(text) if end < 0 else end + 1]
        start += len(piece)
        lines += [line for line in piece.decode().split("\n") if line.strip()]
    return lines[:LINES]


def _refuse_different(first: Source, other: Source) -> None:
    same = first.kind == other.kind and (
        set(first.names) == set(other.names)
        if first.names and other.names
        else first.width == other.width
    )
    if not same:
        raise DataError(
            f"files of different forms: {first.path} is {_outline(first)}; {other.path} is "
            f"{_outline(other)}; give those that belong together"
        )


def _outline(source: Source) -> str:
    if source.names:
        return f"{source.kind} ({cols.listed(source.names, 6)})"
    return f"{source.kind} ({source.width} columns)"


def _roles_in(source: Source, first: Source, decision: Decision) -> dict[str, int]:
    """The decision's positions in another file, whose columns may stand in another order."""
    if source.names is None or source.names == first.names:
        return decision.roles
    return {role: source.names.index(first.names[p]) for role, p in decision.roles.items()}


class _Sessions:
    """Sessions that every file numbers anew, told by most of them being in several files."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._known: set[str] = set()  # of the file before
        self._smaller = self._shared = 0

    def add(self, path: str, frame: pl.DataFrame) -> None:
        """Take account of a file."""
        known = set(frame["user"].unique())
        if self.names:
            self._smaller += min(len(self._known), len(known))
            self._shared += len(self._known & known)
        self.names.append(os.path.basename(path).split(".")[0])
        self._known = known

    def prefixes(self, notes: list[str]) -> list[str] | None:
        """What makes the users of each file their own, where that is meant; adds to the notes."""
        if len(self.names) < 2:
            return None
        parts = all(re.match(r"part-\d+", name) for name in self.names)  # one table of many writers
        if parts or self._shared <= 0.5 * self._smaller:
            if self._shared:
                notes.append("a session that is in several files is one session")
            return None
        notes.append("sessions are numbered anew in every file, so a user is file:session")
        return [f"{name}:" for name in self.names]


def prefixed(prefix: str, frame: pl.DataFrame, column: str = "user") -> pl.DataFrame:
    """The events with other names of their users, which stand in a column."""
    names = pl.concat_str(pl.lit(prefix), pl.col(column).cast(pl.String)).alias(column)
    return frame.with_columns(names.cast(frame.schema[column]))


def _nothing_left(first: Source, wanted: list, where: str | None) -> str:
    if not wanted:
        return f"{first.path}: no row has a user and an item"
    position = wanted[0].position(first.names, first.width)
    column = first.sample[str(position)]
    seen = column.cast(pl.String, strict=False).drop_nulls().unique(maintain_order=True).head(6)
    return (
        f"where={printable(where or '')}: no row is left; {first.title(position)} has values "
        f"such as {', '.join(map(printable, seen))}"
    )


def _form(source: Source, decision: Decision) -> str:
    if source.roles is not None:
        return source.kind
    if source.names:
        used = [source.names[position] for position in decision.roles.values()]
    else:
        meaning = {position: role for role, position in decision.roles.items()}
        used = [meaning.get(position, "-") for position in range(source.width)]
    kind = form_of(source.kind, source.names)
    if kind == "JSON lines" and "reviewerID" in used:
        kind = "Amazon reviews, JSON lines"
    return f"{kind}: columns {cols.listed(used)}"


def _mixed_ids(ids: Mapping[str, pl.Series] | pl.DataFrame) -> list[str]:
    """Ids such as 1 and 1.0 in one column, which may be one thing written in two ways."""
    found = []
    for role in ("user", "item"):
        known = ids[role].unique().cast(pl.String)
        whole = known.str.ends_with(".0")
        if not whole.any() or whole.all():
            continue
        floats = known.filter(whole)
        both = floats.str.strip_suffix(".0").is_in(known.filter(~whole).implode())
        if both.any():
            example = printable(floats.filter(both).sort()[0])
            found.append(
                f"{both.sum():,} {role}s are written in two ways, such as {example} and "
                f"{example.removesuffix('.0')}, and count as two; write them alike"
            )
    return found


def _sorted_by_id(frame: pl.DataFrame) -> bool:
    """Whether every user's items stand sorted by id, and that cannot be chance."""
    head = rises(frame.head(5_000))
    return head is not None and is_no_chance(rises(frame))


def is_no_chance(steps: int | None) -> bool:
    """Whether what `rises` found cannot be chance."""
    # Each further event of a user would be in place by chance with probability 1/2 at most.
    return steps is not None and steps >= 20


def rises(frame: pl.DataFrame) -> int | None:
    """How many events come after one of the same user; None where an id is below that before."""
    text = frame["item"].cast(pl.String)
    ids = text.cast(pl.Int64, strict=False)
    ids = ids if ids.null_count() == 0 else text
    codes = ids.rank("dense").to_numpy()
    users = frame["user"].cast(pl.String).rank("dense").to_numpy().astype(np.int64)
    order = np.argsort(users, kind="stable")
    users, codes = users[order], codes[order].astype(np.int64)
    same = users[1:] == users[:-1]
    return None if (same & (codes[1:] < codes[:-1])).any() else int(same.sum())
