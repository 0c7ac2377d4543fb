"""What is asked of a recommendation, and which items may be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rka_fast.data.split import SEEN
from rka_fast.errors import ConfigError, DataError, hint

if TYPE_CHECKING:
    from rka_fast.data.sequences import Sequences, UserItems
    from rka_fast.recommending.histories import Histories

ORDERS = ("mean", "thompson", "lower")


@dataclass(frozen=True)
class Options:
    """How lists are made. Raises ConfigError for a value that cannot be.

    top: items a list has at most. seen: "hide" what a person has had, or "keep" it. draws: of the
    attention, for mean and spread of the scores; None scores as the run evaluates. order: by the
    mean; by one draw ("thompson", Thompson sampling: what is uncertain is sometimes tried); or by
    the mean less one standard deviation ("lower"). seed: of the draws, by default the run's.
    """

    top: int = 10
    seen: str = "hide"
    draws: int | None = None
    order: str = "mean"
    seed: int | None = None
    ann: bool = False

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("draws", 2), ("seed", 0)):
            value = getattr(self, name)
            if name == "top" or value is not None:
                check_number(name, value, least)
        if not isinstance(self.ann, bool):
            raise ConfigError(f"ann must be True or False, got {self.ann!r}")
        if self.ann and (self.draws is not None or self.order != "mean"):
            raise ConfigError(
                "ann goes without draws, and with the order by the mean; leave it out"
            )
        for name, known in (("seen", SEEN), ("order", ORDERS)):
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, got {given!r}; "
                    f"{hint(str(given), known)}"
                )


def check_number(name: str, value: Any, least: int) -> None:
    """Raise ConfigError for what is no whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


class Shown:
    """Which items may be shown to whom.

    candidates: int64 (C,), rising item indices that may be shown to anybody. hide_seen: whether a
    history's own items are hidden. excluded: which row has which item that is never shown. allowed:
    which row has which items, that alone may be shown there; None allows all candidates.
    """

    def __init__(
        self,
        candidates: np.ndarray,
        hide_seen: bool,
        excluded: UserItems | None = None,
        allowed: UserItems | None = None,
    ) -> None:
        self.candidates, self.hide_seen = candidates, hide_seen
        self.excluded, self.allowed = excluded, allowed

    @classmethod
    def of(
        cls,
        sequences: Sequences,
        seen: str,
        items: np.ndarray | None = None,
        exclude: np.ndarray | None = None,
        excluded: UserItems | None = None,
        allowed: UserItems | None = None,
    ) -> Shown:
        """items: only these; exclude: these not. Raises DataError where nothing is left."""
        may = np.zeros(sequences.num_items + 1, bool)
        may[1:] = items is None
        if items is not None:
            may[items] = True
        if exclude is not None:
            may[exclude] = False
        candidates = np.flatnonzero(may)
        if not len(candidates):
            raise DataError("no item is left that may be shown; look at items and exclude")
        return cls(candidates, seen == "hide", excluded, allowed)

    def hidden(self, histories: Histories, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the histories, and places among the candidates, of what may not be shown there.

        first: number of the first history, by which `excluded` knows its rows.
        """
        rows, items = [], []
        if self.hide_seen:
            rows.append(np.repeat(np.arange(len(histories)), histories.lengths))
            items.append(histories.items.astype(np.int64))
        if self.excluded is not None:
            row, item = self.excluded.pairs(first, first + len(histories))
            rows.append(row - first)
            items.append(item)
        if not rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return self._places(np.concatenate(rows), np.concatenate(items))

    def only(self, count: int, first: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows of `count` histories, and places, of all that may be shown there; None of all."""
        if self.allowed is None:
            return None
        row, item = self.allowed.pairs(first, first + count)
        return self._places(row - first, item)

    def _places(self, row: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and places among the candidates, of the items that are there."""
        place = np.searchsorted(self.candidates, item)
        place[place == len(self.candidates)] = 0
        inside = self.candidates[place] == item
        return row[inside], place[inside]
