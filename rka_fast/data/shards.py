"""A folder of prepared data: sequences in shards of users, as Parquet files with checksums.

User u is in shard u modulo the number of shards, so that early and late users are in all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse

from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.data_report import DataReport
from rka_fast.data.filters import seconds
from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError, UserError
from rka_fast.files import LOCK

PREPARED = "prepared.json"
FORMAT = 1
_AT_ONCE = 2**22  # counts that are looked at together
USERS, ITEMS, SHARDS, COUNTS = "users.parquet", "items.parquet", "shards", "counts.parquet"
TYPES = {"user_index": pl.Int64, "position": pl.Int32, "item_index": pl.Int32}
_REMEDY = "restore it from a copy, or delete the folder and prepare it again"


class Shard(NamedTuple):
    """The events of some users, sorted by user and position, see `query`. moment: or None."""

    user_index: np.ndarray
    position: np.ndarray
    item_index: np.ndarray
    moment: np.ndarray | None

    def sum(self) -> str:
        """SHA-256 of the rows, whatever wrote them."""
        found = hashlib.sha256()
        for array in self:
            if array is not None:
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def read_shard(path: Path, timed: bool) -> Shard:
    """One shard of a folder. Raises DataError where it cannot be read or is something else."""
    frame = read_parquet(path)
    types = dict(frame.schema)
    moment = types.pop("moment", None)
    if types != TYPES or (moment in (pl.Int64, pl.Float64)) != timed:
        raise DataError(f"{path} has columns {dict(frame.schema)}, not those of a shard; {_REMEDY}")
    user, position, item = (frame[name].to_numpy() for name in TYPES)
    return Shard(user, position, item, frame["moment"].to_numpy() if timed else None)


def read_parquet(path: Path) -> pl.DataFrame:
    """A Parquet file, or a folder of them, as a frame. Raises DataError where that fails."""
    try:
        return pl.read_parquet(_files(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, error) from None


def ids_sum(ids: Iterable[str]) -> str:
    """SHA-256 of ids in their order."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """What `rka-fast prepare` has written to a folder.

    facts: the content of prepared.json: engine, settings, report, timed, dated, the number of
    users, items and events, `sums` (SHA-256 of the users' and the items' ids and of every shard's
    rows), `content` (SHA-256 of all of these), and `counts`: what split they are of, or None.
    """

    path: Path
    facts: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Prepared:
        """The folder. Raises DataError where it is none, or of a later version."""
        file = Path(path) / PREPARED
        try:
            facts = json.loads(file.read_bytes())
            if facts["format"] != FORMAT:
                raise DataError(
                    f"{file} has format {facts['format']!r}, this version of rka_fast reads "
                    f"{FORMAT}; prepare it again"
                )
            if facts["content"] != content_sum(facts["sums"]):
                raise ValueError("its checksum does not match")
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is damaged ({error}); {_REMEDY}") from None
        return cls(Path(path), facts)

    @classmethod
    def of_run(cls, description: dict[str, Any]) -> Prepared:
        """That of a run, by its description. Raises DataError where it is another by now."""
        found = cls.open(description["source"])
        if found.facts["content"] != description["prepared"]["content"]:
            raise DataError(
                f"{found.path} is not what the run was trained on: its content is "
                f"{found.facts['content'][:16]}, not {description['prepared']['content'][:16]}; "
                "put the data back, or train again"
            )
        return found

    @staticmethod
    def is_one(path: str) -> bool:
        """Whether a path leads to such a folder."""
        return (Path(path) / PREPARED).is_file()

    @staticmethod
    def refuse_unfinished(path: str) -> None:
        """Raise DataError where a path leads to such a folder that was not made to its end."""
        if (Path(path) / SHARDS).is_dir() and (Path(path) / LOCK).is_file():
            raise DataError(
                f"{path} was not prepared to its end: run the same rka-fast prepare again"
            )

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self.facts["sums"]["shards"])

    @property
    def report(self) -> DataReport:
        """What was read and kept."""
        return DataReport.from_json(self.facts["report"])

    def shard(self, number: int) -> Shard:
        """One shard. Raises DataError where it is not what was prepared."""
        path = shard_path(self.path, number)
        found = read_shard(path, self.facts["timed"])
        self._check(path, found.sum(), self.facts["sums"]["shards"][number])
        return found

    def ids(self, kind: str) -> list[str]:
        """The ids of the users ("user") or items ("item") in the order of their indices."""
        path = self.path / (USERS if kind == "user" else ITEMS)
        ids = read_parquet(path)[f"{kind}_id"].to_list()
        self._check(path, ids_sum(ids), self.facts["sums"][f"{kind}s"])
        return ids

    def _check(self, path: Path, found: str, expected: str) -> None:
        if found != expected:
            raise DataError(f"{path} is damaged: it is not what was prepared; {_REMEDY}")

    def sequences(self) -> Sequences:
        """All of the sequences, in memory. Raises DataError where a file is damaged."""
        users, events = self.facts["users"], self.facts["events"]
        lengths = np.zeros(users, np.int64)
        shards = [self.shard(number) for number in range(self.shards)]
        for shard in shards:
            lengths += np.bincount(shard.user_index, minlength=users)
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        items = np.empty(events, np.int32)
        times = np.empty(events, np.float64) if self.facts["timed"] else None
        for shard in shards:
            place = indptr[shard.user_index] + shard.position
            items[place] = shard.item_index
            if times is not None and shard.moment is not None:
                times[place] = seconds(shard.moment, self.facts["dated"])
        return Sequences(indptr, items, self.ids("user"), self.ids("item"), times)

    def has_counts(self, split: str, max_counted: int) -> bool:
        """Whether the co-occurrence counts of a split are here."""
        told = self.facts["counts"]
        return told is not None and (told["split"], told["max_counted"]) == (split, max_counted)

    def counts(self, split: str, max_counted: int) -> CoOccurrence | None:
        """The co-occurrence counts of a split; None where others were prepared, or none."""
        if not self.has_counts(split, max_counted):
            return None
        self.check_counts()
        parts = map(read_parquet, [self.path / COUNTS])  # read there, and held by nobody else
        return CoOccurrence.from_half(half_of(parts, self.facts["items"]))

    def check_counts(self) -> None:
        """Raise DataError where the counts are not what was prepared; read in parts."""
        self._check(self.path / COUNTS, counts_sum(self.path)[1], self.facts["counts"]["sha256"])


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard of a folder lies."""
    return folder / SHARDS / f"{number:05}.parquet"


def content_sum(sums: dict[str, Any]) -> str:
    """The checksum of all checksums."""
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def counts_sum(folder: Path) -> tuple[int, str]:
    """How many pairs the counts of a folder have, and SHA-256 of them, read in parts.

    Raises DataError where they cannot be read.
    """
    path = folder / COUNTS
    rows, sums = 0, {name: hashlib.sha256() for name in ("item_index", "other_index", "users")}
    try:
        scanned = pl.scan_parquet(_files(path)).select(*sums)
        while len(part := scanned.slice(rows, _AT_ONCE).collect()):
            for name, found in sums.items():
                found.update(np.ascontiguousarray(part[name].to_numpy()).data)
            rows += len(part)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, error) from None
    return rows, content_sum({name: found.hexdigest() for name, found in sums.items()})


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder, as an engine has written it."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).partition("\n")[0][:200]
    return DataError(f"{path} is damaged ({reason}); {_REMEDY}")


def half_of(parts: Iterable[pl.DataFrame], num_items: int) -> scipy.sparse.csr_matrix:
    """The sum of counts of the pairs item_index <= other_index as a matrix.

    A part is given up when it is a matrix.
    """
    shape = (num_items + 1, num_items + 1)
    halves = (_half(frame, shape) for frame in parts)
    total = next(halves, scipy.sparse.csr_matrix(shape, dtype=np.int32))
    for half in halves:
        total += half
    return total


def _half(frame: pl.DataFrame, shape: tuple[int, int]) -> scipy.sparse.csr_matrix:
    row, column, users = (frame[name].to_numpy() for name in frame.columns)
    return scipy.sparse.csr_matrix((users.astype(np.int32), (row, column)), shape=shape)
