"""From events to sequences and counts as SQL, one text for every engine.

Tables of events have the columns place (of the event in the log, from 0), user_id, item_id and,
where the log has them, rating and moment; those of sequences user_index, position (of the event in
its user's history, from 0), item_index and moment. The rules are those of `filters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rka_fast.data.filters import Filters

EVENTS = ("place", "user_id", "item_id")
OPTIONAL = ("rating", "moment")


def _listed(columns: Iterable[str], of: str = "") -> str:
    return ", ".join(f"{of}{column}" for column in columns)


class Query:
    """The SQL about tables of events with some columns. timed: whether moment is one of them."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self.timed = "moment" in columns
        self._order = "moment, place" if self.timed else "place"

    def rules(self, filters: Filters) -> dict[str, str]:
        """What is kept of a table {0}, by the rule's name, in the order in which they apply."""
        rules = {}
        if filters.duplicates == "drop" and self.timed:
            rules["duplicates=drop"] = self._first_of("user_id, item_id, moment")
        if filters.ties == "drop" and self.timed:
            rules["ties=drop"] = self._first_of("user_id, moment")
        if filters.min_rating is not None:
            rules[f"min_rating={filters.min_rating:g}"] = (
                f"SELECT {_listed(self.columns)} FROM {{0}} "
                f"WHERE rating >= CAST({filters.min_rating!r} AS DOUBLE)"
            )
        if filters.repeats == "drop":
            rules["repeats=drop"] = self._first_of("user_id, item_id")
        least = filters.min_user_events, filters.min_item_events
        if max(least) > 1:
            name = f"min_user_events={least[0]}, min_item_events={least[1]} ({filters.core})"
            rules[name] = (
                f"SELECT {_listed(self.columns, 'e.')} FROM {{0}} AS e "
                f"JOIN {_frequent('user_id', least[0])} AS u ON e.user_id = u.user_id "
                f"JOIN {_frequent('item_id', least[1])} AS i ON e.item_id = i.item_id"
            )
        return rules

    def _first_of(self, group: str) -> str:
        columns = _listed(self.columns)
        return (
            f"SELECT {columns} FROM (SELECT {columns}, ROW_NUMBER() OVER "
            f"(PARTITION BY {group} ORDER BY {self._order}) AS nth FROM {{0}}) AS numbered "
            "WHERE nth = 1"
        )

    def numbered(self) -> str:
        """Sequences of the events of a table kept, by the numbers in tables users and items."""
        moment = ", e.moment AS moment" if self.timed else ""
        order = _listed(self._order.split(", "), "e.")
        return (
            "SELECT u.user_index AS user_index, CAST(ROW_NUMBER() OVER "
            f"(PARTITION BY u.user_index ORDER BY {order}) - 1 AS INT) AS position, "
            f"i.item_index AS item_index{moment} FROM kept AS e "
            "JOIN users AS u ON e.user_id = u.user_id JOIN items AS i ON e.item_id = i.item_id"
        )

    def shard(self, number: int, shards: int) -> str:
        """The sequences of the users of one shard, of a table numbered, in order."""
        return (
            f"SELECT {_listed(self.of_sequences)} FROM numbered "
            f"WHERE user_index % {shards} = {number} ORDER BY user_index, position"
        )

    @property
    def of_sequences(self) -> list[str]:
        """The columns of a shard."""
        return ["user_index", "position", "item_index", *(["moment"] if self.timed else [])]


def _frequent(column: str, least: int) -> str:
    return f"(SELECT {column} FROM {{0}} GROUP BY {column} HAVING COUNT(*) >= {least})"


def sizes(table: str) -> str:
    """Events, users and items of a table of events."""
    return (
        "SELECT COUNT(*) AS events, COUNT(DISTINCT user_id) AS users, "
        f"COUNT(DISTINCT item_id) AS items FROM {table}"
    )


def numbers(kind: str, added_to: int | None = None) -> str:
    """Indices of the users or items of a table kept, by their first appearance in events.

    kind: "user", counted from 0, or "item", counted from 1. added_to: how many the tables old_users
    and old_items have, which keep their indices; None where there is nothing old.
    """
    index, of = ("- 1 AS BIGINT", "users") if kind == "user" else ("AS INT", "items")
    events = "events"
    if added_to is not None:
        events = (
            f"(SELECT {kind}_id, place + {added_to + 1} AS place FROM events UNION ALL "
            f"SELECT {kind}_id, CAST({kind}_index AS BIGINT) AS place FROM old_{of})"
        )
    return (
        f"SELECT CAST(ROW_NUMBER() OVER (ORDER BY appeared) {index}) AS {kind}_index, "
        f"{kind}_id FROM (SELECT e.{kind}_id AS {kind}_id, MIN(e.place) AS appeared "
        f"FROM {events} AS e JOIN (SELECT DISTINCT {kind}_id FROM kept) AS k "
        f"ON e.{kind}_id = k.{kind}_id GROUP BY e.{kind}_id) AS {of} ORDER BY {kind}_index"
    )


def training_pairs(split: str, max_counted: int) -> str:
    """Which user trains on which item that counts, of a table of sequences {0}.

    split: "leave-one-out" or "none". max_counted: see `Split`.
    """
    held = "0" if split == "none" else "CASE WHEN events < 3 THEN 0 ELSE 2 END"
    return (
        "SELECT DISTINCT user_index, item_index FROM (SELECT user_index, item_index, events - 1 "
        f"- position - {held} AS behind FROM (SELECT user_index, position, item_index, "
        "CAST(COUNT(*) OVER (PARTITION BY user_index) AS BIGINT) AS events FROM {0}) AS counted) "
        f"AS trained WHERE behind >= 0 AND behind < {max_counted}"
    )


COUNTS = (
    "SELECT a.item_index AS item_index, b.item_index AS other_index, "
    "CAST(COUNT(*) AS BIGINT) AS users FROM {0} AS a JOIN {0} AS b "
    "ON a.user_index = b.user_index WHERE a.item_index <= b.item_index "
    "GROUP BY a.item_index, b.item_index ORDER BY item_index, other_index"
)
"""How many users have both of two items, of a table of `training_pairs`, each pair once.

A sum over users, so counts of shards add."""

CHANGED = (
    "SELECT DISTINCT u.user_index AS user_index FROM fresh AS e "
    "JOIN users AS u ON e.user_id = u.user_id"
)
"""The users of a table fresh, whose events are added."""

OF_CHANGED = (
    "(SELECT s.user_index AS user_index, s.position AS position, s.item_index AS item_index "
    "FROM {0} AS s JOIN changed AS c ON s.user_index = c.user_index) AS theirs"
)
"""Their sequences, of a table {0}."""

SUMMED = (
    "SELECT item_index, other_index, CAST(SUM(users) AS BIGINT) AS users FROM "
    "(SELECT item_index, other_index, users FROM old_counts UNION ALL "
    "SELECT item_index, other_index, -users AS users FROM lost UNION ALL "
    "SELECT item_index, other_index, users FROM won) AS parts "
    "GROUP BY item_index, other_index HAVING SUM(users) > 0 ORDER BY item_index, other_index"
)
"""Those of a table old_counts, less what changed users had in it and with what they have now."""
