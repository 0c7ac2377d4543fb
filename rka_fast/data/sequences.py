"""Sequences of items, one per user, as flat arrays: the form everything after the readers uses."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rka_fast.errors import DataError, UserError, printable
from rka_fast.files import write_atomically

ARRAYS, IDS = "sequences.npz", "ids.json"


@dataclass(frozen=True, eq=False)
class Sequences:
    """All users' events in time order, users one after the other.

    User indices are 0..num_users-1. Item indices are 1..num_items; 0 is padding.

    indptr: int64 (num_users + 1,), user u owns items[indptr[u]:indptr[u + 1]].
    items: int32 (events,), item indices.
    user_ids, item_ids: the ids of the input; item_ids[0] belongs to item index 1.
    timestamps: float64 (events,), seconds since 1970, or None where the input has no times.
    parts: int8 (events,), 0 for training, 1 validation, 2 test, rising for each user; None where
        the input has no split of its own.
    features: float32 (num_items, F), of every item, under feature_names (F,); None where no
        features were given.
    source_sum: of prepared data that is streamed the checksum, which is then the digest.
    """

    indptr: np.ndarray
    items: np.ndarray
    user_ids: list[str]
    item_ids: list[str]
    timestamps: np.ndarray | None = None
    parts: np.ndarray | None = None
    features: np.ndarray | None = None
    feature_names: list[str] | None = None
    source_sum: str | None = None

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Events of every user, int64 (num_users,)."""
        return np.diff(self.indptr)

    @property
    def event_users(self) -> np.ndarray:
        """The user of every event, int64 (events,)."""
        return np.repeat(np.arange(self.num_users), self.lengths)

    def sequence(self, user: int) -> np.ndarray:
        """Item indices of one user in time order, int32 (length,)."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def user_index(self, user_id: str) -> int:
        """Index of a user id; raises DataError that names an unknown id."""
        return int(_look_up(self._user_indices, [user_id], "user")[0])

    def item_indices(self, item_ids: Iterable[str]) -> np.ndarray:
        """Indices of item ids, int64; raises DataError that names every unknown id."""
        return _look_up(self._item_indices, item_ids, "item")

    def item_id(self, index: int) -> str:
        """The id of item index 1..num_items."""
        if not 1 <= index <= self.num_items:
            raise DataError(f"item index {index} is outside 1..{self.num_items}")
        return self.item_ids[index - 1]

    def indices(self, kind: str) -> dict[str, int]:
        """Every index by its id, of kind "user" or "item"."""
        return self._user_indices if kind == "user" else self._item_indices

    @cached_property
    def _user_indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.user_ids)}

    @cached_property
    def _item_indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.item_ids, start=1)}

    def fingerprint(self) -> str:
        """SHA-256 of the catalogue: equal exactly when the item ids and their order are."""
        return hashlib.sha256(json.dumps(self.item_ids).encode()).hexdigest()

    def digest(self) -> str:
        """SHA-256 of everything: equal exactly when ids, order, items, times and parts are."""
        if self.source_sum is not None:
            return self.source_sum
        found = hashlib.sha256(json.dumps([self.user_ids, self.item_ids]).encode())
        for array in (self.indptr, self.items, self.timestamps, self.parts):
            found.update(b"-" if array is None else np.ascontiguousarray(array).data)
        if self.features is not None:
            found.update(json.dumps(self.feature_names).encode())
            found.update(np.ascontiguousarray(self.features).data)
        return found.hexdigest()

    def files(self) -> dict[str, bytes]:
        """The content of sequences.npz and ids.json, which together are the sequences."""
        arrays: dict[str, Any] = {"indptr": self.indptr, "items": self.items}
        if self.timestamps is not None:
            arrays["timestamps"] = self.timestamps
        if self.parts is not None:
            arrays["parts"] = self.parts
        names = {"users": self.user_ids, "items": self.item_ids}
        if self.features is not None:
            arrays["features"], names["features"] = self.features, self.feature_names or []
        ids = json.dumps(names)
        compressed = io.BytesIO()
        np.savez_compressed(compressed, **arrays)
        return {ARRAYS: compressed.getvalue(), IDS: ids.encode()}

    def save(self, folder: str | os.PathLike) -> None:
        """Write `files` into `folder`, each complete or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            write_atomically(folder / name, content)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Sequences":
        """Read what `save` wrote; raises DataError where it is missing or damaged."""
        return cls.from_files(lambda name: (Path(folder) / name).read_bytes(), str(folder))

    @classmethod
    def from_files(cls, read: Callable[[str], bytes], folder: str) -> "Sequences":
        """The sequences of the files that `read` gives by name; `folder` is where they lie.

        Raises DataError where they are missing or damaged, and what else `read` raises as its own.
        """
        try:
            ids = json.loads(read(IDS))
            with np.load(io.BytesIO(read(ARRAYS)), allow_pickle=False) as arrays:
                loaded = cls(
                    arrays["indptr"],
                    arrays["items"],
                    ids["users"],
                    ids["items"],
                    arrays.get("timestamps"),
                    arrays.get("parts"),
                    arrays.get("features"),
                    ids.get("features"),
                )
            fits = loaded._fits_together()
        except UserError:
            raise
        except Exception as error:  # zip, json and numpy each raise their own kinds
            raise DataError(f"cannot load the sequences in {folder}: {error}") from error
        if not fits:
            raise DataError(f"the sequences in {folder} do not fit together: {ARRAYS} and {IDS}")
        return loaded

    def _fits_together(self) -> bool:
        """Whether shapes, types and values are those that the class says."""
        indptr, items, events = self.indptr, self.items, len(self.items)
        per_event = [array for array in (self.timestamps, self.parts) if array is not None]
        return bool(
            indptr.dtype == np.int64
            and indptr.shape == (self.num_users + 1,)
            and (indptr[0], indptr[-1]) == (0, events)
            and (np.diff(indptr) >= 0).all()
            and items.dtype == np.int32
            and items.ndim == 1
            and (events == 0 or (items.min() >= 1 and items.max() <= self.num_items))
            and all(array.shape == (events,) for array in per_event)
            and all(np.isfinite(array).all() for array in per_event)
            and self._features_fit()
            and all(
                isinstance(ids, list)
                and all(isinstance(name, str) for name in ids)
                and len(set(ids)) == len(ids)
                for ids in (self.user_ids, self.item_ids)
            )
        )

    def _features_fit(self) -> bool:
        if self.features is None or self.feature_names is None:
            return self.features is None and self.feature_names is None
        shape = (self.num_items, len(self.feature_names))
        return bool(
            self.features.shape == shape
            and self.features.dtype == np.float32
            and np.isfinite(self.features).all()
        )


class UserItems:
    """Answers, for arrays of pairs, whether a user has an item: binary search on sorted keys."""

    def __init__(
        self, users: np.ndarray, items: np.ndarray, num_users: int, num_items: int
    ) -> None:
        self._stride = num_items + 1
        keys = np.multiply(users, self._stride, dtype=np.int64)
        keys += items
        self._keys = distinct(keys)
        # How many distinct items each user has, int64 (num_users,).
        self.distinct = np.bincount(self._keys // self._stride, minlength=num_users)
        # How many users each item has, int64 (num_items + 1,).
        self.holders = np.bincount(self._keys % self._stride, minlength=self._stride)

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self.distinct.nbytes + self.holders.nbytes

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Bool array of the broadcast shape; users of index -1 have nothing."""
        return lookup(self._keys, self._key(users, items))[1]

    def of(self, user: int) -> np.ndarray:
        """Sorted distinct item indices of one user."""
        first, last = np.searchsorted(self._keys, (user * self._stride, (user + 1) * self._stride))
        return self._keys[first:last] - user * self._stride

    def pairs(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """User and item, each int64, of all that users first..last - 1 have, sorted."""
        ends = np.searchsorted(self._keys, (first * self._stride, last * self._stride))
        return np.divmod(self._keys[slice(*ends)], self._stride)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each user's items begin, int64 (num_users + 1,), and all of them, int32, sorted."""
        begin = np.append(0, np.cumsum(self.distinct))
        return begin, (self._keys % self._stride).astype(np.int32)

    def mask(self, users: np.ndarray) -> np.ndarray:
        """Bool (len(users), num_items + 1): which items each user has; padding counts as had."""
        first, last = (np.searchsorted(self._keys, (users + k) * self._stride) for k in (0, 1))
        row = np.repeat(np.arange(len(users)), last - first)
        # The keys of all rows, one row after the other.
        place = np.arange(len(row)) + (last - np.cumsum(last - first))[row]
        mask = np.zeros((len(users), self._stride), bool)
        mask[:, 0] = True
        mask[row, self._keys[place] - users[row] * self._stride] = True
        return mask

    def _key(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        return np.asarray(users, np.int64) * self._stride + items


def distinct(values: np.ndarray) -> np.ndarray:
    """Sorted distinct values of an array of one dimension.

    np.unique of numpy 2.4 does not sort whole numbers but hashes them, which takes a hundred times
    as long where they are many.
    """
    values = np.sort(values)
    first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values if first.all() else values[first]


def lookup(sorted_keys: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `keys` in `sorted_keys` (0 where absent) and whether each is there."""
    if len(sorted_keys) == 0:
        return np.zeros(keys.shape, np.int64), np.zeros(keys.shape, bool)
    position = np.searchsorted(sorted_keys, keys)
    position[position == len(sorted_keys)] = 0
    return position, sorted_keys[position] == keys


def left_padded(items: np.ndarray, start: np.ndarray, end: np.ndarray, width: int) -> np.ndarray:
    """The last `width` of items[start:end] of every row, int64 (rows, width), 0 in front."""
    index = np.asarray(end)[:, None] - width + np.arange(width)
    inside = index >= np.asarray(start)[:, None]
    return np.where(inside, items[np.where(inside, index, 0)], 0).astype(np.int64)


def _look_up(indices: dict[str, int], names: Iterable[str], kind: str) -> np.ndarray:
    names = list(names)
    if unknown := [name for name in names if name not in indices]:
        noun = f"{kind} id" + ("s" if len(unknown) > 1 else "")
        raise DataError(
            f"unknown {noun} {', '.join(map(repr, unknown))}; ids look like "
            f"{', '.join(map(printable, list(indices)[:3]))}"
        )
    return np.array([indices[name] for name in names], np.int64)
