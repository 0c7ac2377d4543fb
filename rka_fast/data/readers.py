"""Interaction logs of every usual form, told apart by content."""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data.tables import HINT, Part, read_text
from rka_fast.errors import DataError

_POOLED = tuple(f"hcrnn_{part}.txt.gz" for part in ("train", "valid", "test"))


@dataclass(frozen=True, eq=False)
class Interactions:
    """A log as it was read, in file order.

    frame: columns user and item (strings, as in the file), and where the file has them rating
        (float64) and timestamp (float64, in the file's unit; seconds since 1970 for dates).
    form: what the file was read as, for example "MovieLens u.data: columns user, item, rating,
        timestamp".
    ordered: False where the file has neither times nor an order of its own: every user's items
        are sorted by id.
    """

    frame: pl.DataFrame
    form: str
    ordered: bool = True


def read_interactions(
    path: str | os.PathLike | Iterable[str | os.PathLike],
    columns: Sequence[str] | None = None,
) -> Interactions:
    """Read one log, or several files of one form as one log; plain or gzip, whatever the name.

    path: a file, a list of files, files with commas between, or the folder of CiteULike's three
        hcrnn_*.txt.gz files. Users are the same person in every file, but sessions are numbered
        anew in each, so there the user id becomes "file:session".
    columns: overrides the detection of columns. Either the header's names, or positions counted
        from 0, of user, item, rating and timestamp (the last two may be left out, "-" skips one);
        or, for a file without such names, the words user, item, rating, timestamp and "-" in the
        file's own order.

    Raises DataError, with the line where there is one, for whatever cannot be read.
    """
    files = _files(path)
    parts = [_read_file(file, columns) for file in files]
    frames = [part.frame for part in parts]
    if len(parts) > 1:
        for file, part in zip(files, parts, strict=True):
            if part.form != parts[0].form:
                raise DataError(
                    f"files of different forms: {files[0]} is {parts[0].form}; "
                    f"{file} is {part.form}"
                )
        if parts[0].sessions:
            names = [file.name.split(".")[0] for file in files]
            frames = [
                frame.with_columns(pl.concat_str(pl.lit(f"{name}:"), "user").alias("user"))
                for name, frame in zip(names, frames, strict=True)
            ]
    frame = pl.concat(frames)
    form = parts[0].form + (f" ({len(files)} files pooled)" if len(files) > 1 else "")
    return Interactions(frame, form, "timestamp" in frame.columns or not _sorted_by_id(frame))


def _files(path) -> list[Path]:
    if not isinstance(path, str | os.PathLike):
        files = [Path(file) for file in path]
    elif Path(path).is_dir():
        files = [Path(path) / name for name in _POOLED]
        if not all(file.is_file() for file in files):
            raise DataError(f"{path} is a folder: give a file, or several with commas between")
    elif "," in str(path) and not Path(path).exists():
        files = [Path(file.strip()) for file in str(path).split(",")]
    else:
        files = [Path(path)]
    if not files:
        raise DataError("no data file given")
    return files


def _read_file(path: Path, columns: Sequence[str] | None) -> Part:
    content = _content(path)
    if content[:4] == b"PAR1":
        return _read_parquet(content, path, columns)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = text.replace("\r\n", "\n")
    if not text.strip():
        raise DataError(f"{path} is empty")
    if "\0" in text:
        raise DataError(f"{path} is neither text nor Parquet (plain or gzip); convert it to CSV")
    if text.lstrip()[0] == "{":
        return _read_json(text, path, columns)
    return read_text(text, str(path), columns)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _read_parquet(content: bytes, path: Path, columns: Sequence[str] | None) -> Part:
    try:
        raw = pl.read_parquet(BytesIO(content))
    except Exception as error:  # polars raises several kinds for a damaged file
        raise DataError(f"{path} is a damaged Parquet file: {error}") from error
    roles = _roles(raw.columns, columns, path, "Parquet")
    if len(raw) == 0:
        raise DataError(f"{path} has columns but no interactions")
    frame = cols.typed(raw.select(**roles), lambda row: f"{path}, row {row + 1}")
    return Part(frame, f"Parquet: columns {', '.join(roles.values())}")


def _read_json(text: str, path: Path, columns: Sequence[str] | None) -> Part:
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    roles = _roles(list(_object(path, *lines[0])), columns, path, "JSON lines")
    # Only the fields that are used, and as strings: ids stay as they are.
    schema = dict.fromkeys(roles.values(), pl.String)
    try:
        raw = pl.read_ndjson(text.encode(), schema=schema).select(**roles)
    except pl.exceptions.PolarsError as error:
        for line in lines:
            _object(path, *line)
        raise DataError(f"{path}: {error}") from error
    frame = cols.typed(raw, lambda row: f"{path}, line {lines[row][0]}")
    form = "Amazon reviews, JSON lines" if roles["user"] == "reviewerID" else "JSON lines"
    return Part(frame, f"{form}: columns {', '.join(roles.values())}")


def _object(path: Path, number: int, line: str) -> dict:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not a JSON object: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number}: not a JSON object: {line[:40]}")
    return value


def _roles(
    names: list[str], columns: Sequence[str] | None, path: Path, form: str
) -> dict[str, str]:
    """Column name of every role, for forms in which columns have names."""
    roles = cols.recognise(names) if columns is None else cols.choose(columns, names, len(names))
    if "user" not in roles or "item" not in roles:
        raise DataError(
            f"{path}: read as {form}, but cannot tell the user and the item; "
            f"the columns are {', '.join(names)}; {HINT}"
        )
    return {role: names[roles[role]] for role in cols.ROLES if role in roles}


def _sorted_by_id(frame: pl.DataFrame) -> bool:
    """Whether every user's items stand sorted by id, and that cannot be chance."""
    ids = frame["item"].cast(pl.Int64, strict=False)
    ids = ids if ids.null_count() == 0 else frame["item"]
    codes = ids.rank("dense").to_numpy()
    users = frame["user"].rank("dense").to_numpy().astype(np.int64)
    order = np.argsort(users, kind="stable")
    users, codes = users[order], codes[order].astype(np.int64)
    same = users[1:] == users[:-1]
    # Each further event of a user would be in place by chance with probability 1/2 at most.
    return int(same.sum()) >= 20 and not (same & (codes[1:] < codes[:-1])).any()
