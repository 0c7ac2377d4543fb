"""Interaction logs of every usual form, told apart by content."""

import itertools
import os
import re
from collections.abc import Iterable, Sequence
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

    frame: columns user and item (strings, as in the file but without blanks around them), and
        where the file has them rating (float64, NaN where missing) and timestamp.
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
    if isinstance(path, pl.DataFrame):
        if path.is_empty():
            raise DataError("the data frame has no row")
        sources = [of_frame(path)]
    else:
        sources = _sources(path, columns, form, max_unpacked)
    wanted, tally = conditions(where), Tally()
    decision = decide(sources[0], columns, time_format, max_missing, wanted)
    frames = [
        events(
            source,
            _roles_in(source, sources[0], decision),
            decision.kind,
            decision.lists,
            wanted,
            tally,
        )
        for source in sources
    ]
    titles = {role: printable(sources[0].title(p)) for role, p in decision.roles.items()}
    tally.check(
        max_missing,
        titles,
        sources[0].path,
        "name another column with --columns, or allow more with",
    )
    notes = [*sources[0].notes, *decision.notes, *tally.notes(wanted)]
    if len(sources) > 1 and cols.is_session(titles["user"]):
        frames = _key_sessions(sources, frames, notes)
    frame = pl.concat(frames, how="vertical_relaxed")
    if len(frame) == 0:
        raise DataError(_nothing_left(sources, wanted, where))
    points = any(source.has_points for source in sources)
    name = _form(sources[0], decision) + (f" ({len(sources)} files pooled)" if sources[1:] else "")
    return Interactions(
        frame,
        name,
        ordered="timestamp" in frame.columns or not _sorted_by_id(frame),
        dated=decision.kind is not None and decision.kind.is_real,
        notes=notes,
        warnings=decision.warnings + (_mixed_ids(frame) if points else []),
    )


def _sources(
    path: str | os.PathLike | Iterable[str | os.PathLike],
    columns: Sequence[str] | None,
    form: str,
    max_unpacked: float,
) -> list[Source]:
    """The files that hold anything, all of one form."""
    found = inputs.find(path, max_unpacked)
    sources = [_open(file, columns, form, len(found) > 1) for file in found]
    sources = [source for source in sources if source is not None]
    if not sources:
        raise DataError(f"{found[0].path} and the {len(found) - 1:,} other files are empty")
    _refuse_different(sources)
    return sources


def _open(
    file: inputs.File, columns: Sequence[str] | None, form: str, pooled: bool
) -> Source | None:
    """One file with its form told by its content; None for an empty one among several."""
    content = file.content()
    if content[:4] == b"PAR1":
        source = read_parquet(content, file.path)
        if len(source.sample) == 0:
            if pooled:
                return None
            raise DataError(f"{file.path} has columns but no interactions")
        return source
    text = inputs.decode(content, file.path)
    first = re.search(rb"\S", text)
    if first is None:
        if pooled:
            return None
        raise DataError(f"{file.path} is empty")
    start = first[0]
    if start == b"{" or (start == b"[" and form == "auto"):
        return read_json(text, file.path)
    lines = _first_lines(text)
    if form == "auto" and columns is None:
        form = list_form(lines, file.path) or "table"
    if form in FORMS:
        return read_lists(text, file.path, form)
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


def _refuse_different(sources: list[Source]) -> None:
    first = sources[0]
    for other in sources[1:]:
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


def _key_sessions(
    sources: list[Source], frames: list[pl.DataFrame], notes: list[str]
) -> list[pl.DataFrame]:
    """Sessions that every file numbers anew, told by most of them being in several files."""
    names = [os.path.basename(source.path).split(".")[0] for source in sources]
    known = [set(frame["user"].unique()) for frame in frames]
    smaller = [min(len(a), len(b)) for a, b in itertools.pairwise(known)]
    shared = [len(a & b) for a, b in itertools.pairwise(known)]
    parts = all(re.match(r"part-\d+", name) for name in names)  # one table, written by many
    if parts or sum(shared) <= 0.5 * sum(smaller):
        if any(shared):
            notes.append("a session that is in several files is one session")
        return frames
    notes.append("sessions are numbered anew in every file, so a user is file:session")
    return [
        frame.with_columns(pl.concat_str(pl.lit(f"{name}:"), "user").alias("user"))
        for name, frame in zip(names, frames, strict=True)
    ]


def _nothing_left(sources: list[Source], wanted: list, where: str | None) -> str:
    if not wanted:
        return f"{sources[0].path}: no row has a user and an item"
    position = wanted[0].position(sources[0].names, sources[0].width)
    column = sources[0].sample[str(position)]
    seen = column.cast(pl.String, strict=False).drop_nulls().unique(maintain_order=True).head(6)
    return (
        f"where={printable(where or '')}: no row is left; {sources[0].title(position)} has values "
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


def _mixed_ids(frame: pl.DataFrame) -> list[str]:
    """Ids such as 1 and 1.0 in one column, which may be one thing written in two ways."""
    found = []
    for role in ("user", "item"):
        whole = frame[role].str.ends_with(".0")
        if not whole.any() or whole.all():
            continue
        floats = frame[role].filter(whole).unique()
        both = floats.str.strip_suffix(".0").is_in(frame[role].filter(~whole).unique().implode())
        if both.any():
            example = printable(floats.filter(both).sort()[0])
            found.append(
                f"{both.sum():,} {role}s are written in two ways, such as {example} and "
                f"{example.removesuffix('.0')}, and count as two; write them alike"
            )
    return found


def _sorted_by_id(frame: pl.DataFrame) -> bool:
    """Whether every user's items stand sorted by id, and that cannot be chance."""
    return _descends_never(frame.head(5_000)) is not False and bool(_descends_never(frame))


def _descends_never(frame: pl.DataFrame) -> bool | None:
    """Whether every user's items ascend by id; None where too few events could tell."""
    ids = frame["item"].cast(pl.Int64, strict=False)
    ids = ids if ids.null_count() == 0 else frame["item"]
    codes = ids.rank("dense").to_numpy()
    users = frame["user"].rank("dense").to_numpy().astype(np.int64)
    order = np.argsort(users, kind="stable")
    users, codes = users[order], codes[order].astype(np.int64)
    same = users[1:] == users[:-1]
    if (same & (codes[1:] < codes[:-1])).any():
        return False
    # Each further event of a user would be in place by chance with probability 1/2 at most.
    return True if int(same.sum()) >= 20 else None
