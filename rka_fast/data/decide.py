"""Which column holds what, decided by all the evidence there is, or refused with the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data import evidence
from rka_fast.data.evidence import Column
from rka_fast.data.sources import Source
from rka_fast.data.times import AmbiguousDates, MixedTimes, TimeKind, told
from rka_fast.errors import DataError, printable


@dataclass
class Decision:
    """Positions by role, how times are written, and for the report what was decided and why."""

    roles: dict[str, int]
    kind: TimeKind | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def decide(
    source: Source,
    columns: Sequence[str] | None,
    time_format: str | None,
    max_missing: float,
) -> Decision:
    """What the columns of a file hold. Raises DataError, with the remedy, where nothing tells."""
    return _Judge(source, columns, time_format, max_missing).decision()


class _Judge:
    def __init__(
        self,
        source: Source,
        columns: Sequence[str] | None,
        time_format: str | None,
        max_missing: float,
    ) -> None:
        self.source, self.names = source, source.names
        self.told = told(time_format) if time_format else None
        self.max_missing = max_missing
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.chosen = None
        if columns is not None:
            self.chosen = cols.choose(columns, self.names, source.width)
        by_name = [] if self.names is None else cols.named(self.names, "timestamp")
        if self.chosen is not None:
            by_name = [p for r, p in self.chosen.items() if r in ("timestamp", cols.CLOCK)]
        self.time_names = by_name
        self.columns = [
            Column(source.sample[str(p)], p, p in by_name) for p in range(source.width)
        ]

    def decision(self) -> Decision:
        if self.chosen is not None:
            roles = dict(self.chosen)
        elif self.source.roles is not None:
            roles = dict(self.source.roles)
        elif self.names is not None:
            roles = self._by_names()
        else:
            roles = self._by_values()
        kind = self._kind(roles)
        if kind is None:
            roles.pop("timestamp", None)
        self._name_the_unused(roles)
        order = (*cols.ROLES, cols.CLOCK)
        roles = {role: roles[role] for role in order if role in roles}
        return Decision(roles, kind, self.notes, self.warnings)

    # --- the kind of the times ---

    def _kind(self, roles: dict[str, int]) -> TimeKind | None:
        if "timestamp" not in roles:
            if self.told is not None:
                raise self._refusal("--time-format is given, but no column holds times", [roles])
            return None
        column = self.columns[roles["timestamp"]]
        if self.told is not None:
            return self.told
        if column.fault is not None:
            raise self._faulty(column, roles)
        if column.is_nested:
            return self._kind_of_lists(column, roles)
        if column.kind is None:
            without = {role: p for role, p in roles.items() if role not in ("timestamp", cols.CLOCK)}
            example = f" such as {printable(column.values[0])}" if len(column.values) else ""
            raise self._refusal(
                f"{self._title(column.position)} holds no times{example}; say how they are written "
                "with --time-format, or leave them out",
                [without],
            )
        if column.kind.name == "clock":
            without = {role: p for role, p in roles.items() if role != "timestamp"}
            raise self._refusal(
                f"{self._title(column.position)} holds the time of day without the date; to take "
                "the order of the file",
                [without],
            )
        return column.kind

    def _kind_of_lists(self, column: Column, roles: dict[str, int]) -> TimeKind:
        inner = Column(column.values.explode().drop_nulls(), column.position, named_time=True)
        if inner.kind is None:
            raise self._refusal(
                f"{self._title(column.position)} holds lists that are no times", [roles]
            )
        return inner.kind

    def _faulty(self, column: Column, roles: dict[str, int]) -> DataError:
        fault, title = column.fault, self._title(column.position)
        if isinstance(fault, AmbiguousDates):
            day, month = fault.formats
            return DataError(
                f"{self.source.path}: {title} holds dates such as {printable(fault.example)}, and "
                "no day above 12 tells the day from the month; if the day is first: "
                f"--time-format '{day}'; if the month is first: --time-format '{month}'"
            )
        assert isinstance(fault, MixedTimes)
        first, second = sorted(zip(fault.rows, fault.meanings, strict=True))
        places = [self.source.place(int(column.rows[row])) for row, _ in (first, second)]
        values = [printable(column.values[row]) for row, _ in (first, second)]
        without = {role: p for role, p in roles.items() if role in ("user", "item", "rating")}
        return DataError(
            f"{title} mixes times: {values[0]} in {places[0]} ({first[1]}), but {values[1]} in "
            f"{places[1]} ({second[1]}). Write them alike, or leave them out and take the order of "
            f"the file: {self._flag(without)}"
        )

    # --- with names ---

    def _by_names(self) -> dict[str, int]:
        found = cols.recognise(self.names)
        roles: dict[str, int] = {}
        for role in ("user", "item"):
            if role in found:
                roles[role] = self._least_missing(role)
        if "user" in roles and "item" in roles and roles["user"] == roles["item"]:
            roles.pop("item")
        self._lists_of_items(roles)
        self._complete(roles)
        if "rating" in found and found["rating"] not in roles.values():
            roles["rating"] = found["rating"]
        self._find_time(roles)
        return roles

    def _least_missing(self, role: str) -> int:
        """The first column of the role's names in which most values are there."""
        places = [p for p in cols.named(self.names, role)]
        first = places[0]
        for place in places:
            if self.columns[place].missing <= self.max_missing:
                if place != first:
                    self.notes.append(
                        f"{self._title(first)} is missing in {self.columns[first].missing:.0%} of "
                        f"the rows, so {self._title(place)} is taken as the {role}"
                    )
                return place
        return first

    def _lists_of_items(self, roles: dict[str, int]) -> None:
        """A list of items beside a single one: the one comes after the list."""
        if "item" not in roles:
            lists = [
                c.position for c in self.columns if c.is_nested and c.position not in roles.values()
            ]
            if len(lists) == 1:
                roles["item"] = lists[0]

    def _complete(self, roles: dict[str, int]) -> None:
        """One of user and item is known by name: the other is what is left, if one is."""
        missing = [role for role in ("user", "item") if role not in roles]
        if not missing:
            return
        taken = {*roles.values(), *self.time_names, *cols.named(self.names, "rating")}
        left = [
            c
            for c in self.columns
            if c.position not in taken
            and not (c.is_constant or c.is_row_number or c.is_date or c.fault)
            and self.names[c.position]
            and not (c.kind is not None and evidence.is_surely_time(c, self._others(c)))
        ]
        if len(missing) == 1 and len(left) == 1:
            roles[missing[0]] = left[0].position
            self.notes.append(
                f"{self._title(left[0].position)} is taken as the {missing[0]}: no other column is "
                "left"
            )
            return
        if len(missing) == 1:
            guesses = [{**roles, missing[0]: c.position} for c in left[:3]]
        else:
            pairs = [(a, b) for a in left for b in left if a is not b][:2]
            guesses = [{"user": a.position, "item": b.position} for a, b in pairs]
        for guess in guesses:
            self._find_time(guess, quietly=True)
        raise self._refusal("cannot tell the user and the item", guesses)

    def _find_time(self, roles: dict[str, int], quietly: bool = False) -> None:
        """Add the column of the times, and of the time of day if that is another one."""
        free = [c for c in self.columns if c.position not in roles.values()]
        by_name = [self.columns[p] for p in self.time_names if p not in roles.values()]
        clocks = [c for c in free if self._is_clock(c)]
        real = [c for c in by_name if c.kind is not None and c.kind.is_real]
        others = [self.columns[roles[role]] for role in ("user", "item") if role in roles]
        unnamed = [c for c in free if c not in by_name and evidence.is_surely_time(c, others)]
        doubtful = [
            c for c in free if c not in by_name and c not in unnamed and c.kind and c.kind.is_real
        ]
        faulty = [c for c in by_name if c.fault is not None and c not in clocks]
        lists = [c for c in by_name if c.is_nested]
        numbers = [c for c in by_name if c.kind is not None and c.kind.name == "number"]
        faulty_unnamed = [c for c in free if c.fault is not None and c not in by_name]
        if lists and self.columns[roles["item"]].is_nested:
            roles["timestamp"] = lists[0].position
        elif real:
            roles["timestamp"] = real[0].position
        elif faulty:
            roles["timestamp"] = faulty[0].position
        elif len(unnamed) > 1 and not quietly:
            self._refuse_several(unnamed, roles)
        elif unnamed:
            roles["timestamp"] = unnamed[0].position
            if not quietly:
                self.notes.append(f"{self._title(unnamed[0].position)} is the time: {unnamed[0].kind}")
        elif [c for c in numbers if c not in clocks]:
            roles["timestamp"] = next(c for c in numbers if c not in clocks).position
        elif faulty_unnamed:
            roles["timestamp"] = faulty_unnamed[0].position
        elif clocks:
            roles["timestamp"] = clocks[0].position
        elif [c for c in by_name if c.kind is None and len(c.values)]:
            roles["timestamp"] = next(c for c in by_name if c.kind is None and len(c.values)).position
        elif doubtful and not quietly:
            self._warn_of_doubtful(doubtful[0], roles)
        if "timestamp" in roles and len(clocks) == 1 and clocks[0].position != roles["timestamp"]:
            if self.columns[roles["timestamp"]].is_by_day:
                roles[cols.CLOCK] = clocks[0].position

    def _is_clock(self, column: Column) -> bool:
        if column.kind is not None and column.kind.name == "clock":
            return True
        # Milliseconds since the session began, in logs that give its day only.
        name = self.names[column.position].lower() if self.names else ""
        n = column.numbers
        return name == "timeframe" and n is not None and n.min() >= 0 and n.max() < 86_400_000

    def _refuse_several(self, times: list[Column], roles: dict[str, int]) -> None:
        titles = " and ".join(self._title(c.position) for c in times)
        guesses = [{**roles, "timestamp": c.position} for c in times[:3]]
        raise self._refusal(f"{titles} all hold times, and nothing tells which one counts", guesses)

    def _warn_of_doubtful(self, column: Column, roles: dict[str, int]) -> None:
        flag = self._flag({**roles, "timestamp": column.position})
        self.warnings.append(
            f"{self._title(column.position)} may hold times ({column.kind}), but nothing else says "
            f"so: it is not used. If it does: {flag}"
        )

    # --- without names ---

    def _by_values(self) -> dict[str, int]:
        free = [c for c in self.columns if not (c.is_row_number and self.source.width > 2)]
        times = self._times_by_values(free)
        if len(times) > 1:
            ids = [c for c in free if c not in times][:2]
            roles = dict(zip(("user", "item"), (c.position for c in ids), strict=False))
            if len(roles) == 2:
                self._refuse_several(times, roles)
        clocks = [c for c in free if c.kind is not None and c.kind.name == "clock"]
        rest = [c for c in free if c not in times and c not in clocks]
        if len(rest) > 2:
            kept = [c for c in rest if not (c.is_constant and len(c.values) > 4)]
            rest = kept if len(kept) >= 2 else rest
        roles = {}
        if times:
            roles["timestamp"] = times[0].position
            if clocks and times[0].is_by_day:
                roles[cols.CLOCK] = clocks[0].position
            if times[0].position < 2 and self.source.width > 2:
                self.notes.append(f"{self._title(times[0].position)} is the time: {times[0].kind}")
        elif clocks:
            roles["timestamp"] = clocks[0].position
        elif len(rest) > 2:
            self._number_behind(rest, roles)
        if len(rest) > 2 and rest[-1].is_rating:
            roles["rating"] = rest.pop().position
        if len(rest) > 2:
            most = max(c.distinct for c in rest)
            kept = [c for c in rest if c.distinct > min(10, 0.2 * most)]
            rest = kept if len(kept) == 2 else rest
        if len(rest) != 2:
            first = dict(zip(("user", "item"), (c.position for c in rest), strict=False))
            guesses = [{**roles, **first}] if len(first) == 2 else []
            if guesses:
                guesses.append({**roles, "user": first["item"], "item": first["user"]})
            raise self._refusal("cannot tell the user and the item", guesses)
        return {**roles, **self._user_and_item(rest[0], rest[1], times, roles)}

    def _times_by_values(self, free: list[Column]) -> list[Column]:
        """The columns that surely hold times; where a few rows say little, their place helps."""
        faulty = [c for c in free if c.fault is not None]
        if faulty:
            roles = dict(zip(("user", "item"), (c.position for c in free if c not in faulty), strict=False))
            raise self._faulty(faulty[0], roles)
        real = [c for c in free if c.kind is not None and c.kind.is_real]
        sure = [c for c in real if evidence.is_surely_time(c, [o for o in free if o is not c])]
        dates = [c for c in sure if c.is_date]
        if dates:
            return dates
        if len(sure) > 1 and len(free) - len(sure) < 2:
            # Ids as large as times: only order can tell them.
            ordered = [c for c in sure if any(evidence.is_ordered(o, c) for o in free if o is not c)]
            sure = ordered if len(ordered) == 1 else sure
        if not sure and len(real) == 1 and real[0].position >= 2:
            column = real[0]
            if column.distinct > 0.5 * len(column.values):
                return real
            self._warn_of_doubtful(column, {"user": 0, "item": 1})
        return sure

    def _number_behind(self, rest: list[Column], roles: dict[str, int]) -> None:
        """A third column of numbers: steps of time, a rating, or neither."""
        last = rest[-1]
        if last.numbers is None:
            return
        if last.is_rating and not evidence.counts_up(rest[0], last):
            return
        if evidence.counts_up(rest[0], last) or (
            evidence.is_ordered(rest[0], last) and not last.is_rating
        ):
            roles["timestamp"] = rest.pop().position
            last.kind = TimeKind("number")
            self.notes.append(
                f"{self._title(last.position)} is the time, in steps of its own: it ascends inside "
                f"{self._title(rest[0].position)}"
            )
        elif (last.numbers != last.numbers.round()).any() or last.distinct <= 0.2 * max(
            c.distinct for c in rest
        ):
            rest.pop()
        elif len(last.values) < 20:
            rest.pop()

    def _user_and_item(
        self, a: Column, b: Column, times: list[Column], roles: dict[str, int]
    ) -> dict[str, int]:
        """Of two columns of ids the user and the item; the user is first unless something tells."""
        straight = {"user": a.position, "item": b.position}
        turned = {"user": b.position, "item": a.position}
        titles = self._title(a.position), self._title(b.position)
        if evidence.is_amazon(a, b):
            self.notes.append(
                f"{titles[0]} is the item and {titles[1]} the user: they look like Amazon's ids"
            )
            return turned
        if evidence.is_amazon(b, a) or not times:
            return straight
        time = times[0]
        (pairs_a, down_a), (pairs_b, down_b) = (evidence.descents(c, time) for c in (a, b))
        ordered_a, ordered_b = (
            pairs >= 20 and down <= 0.01 * pairs for pairs, down in ((pairs_a, down_a), (pairs_b, down_b))
        )
        if ordered_a != ordered_b:
            if ordered_b:
                self.notes.append(
                    f"{titles[1]} is the user: its rows are in order of time, those of {titles[0]} "
                    "are not"
                )
            return straight if ordered_a else turned
        if self.source.kind.startswith(("TSV", "table separated by '::'")):
            return straight
        unordered = pairs_a + pairs_b >= 20 and not ordered_a
        grouped = evidence.is_grouped(a) != evidence.is_grouped(b)
        if unordered and grouped and not self._sorted_by_id(a, b):
            raise self._refusal(
                f"cannot tell the user from the item: the rows are grouped by "
                f"{titles[0] if evidence.is_grouped(a) else titles[1]}, but not in order of time, "
                f"as files by item are. If the user comes first, give the first of these",
                [{**straight, **roles}, {**turned, **roles}],
            )
        return straight

    def _sorted_by_id(self, group: Column, ids: Column) -> bool:
        """Whether rows of a group stand in the order of the other column's ids."""
        numbers = ids.numbers
        if numbers is None:
            rank = ids.values.cast(pl.String).rank("dense").cast(pl.Float64)
            numbers = rank.to_numpy()
        if len(numbers) != len(group.codes):
            return False
        same = group.codes[1:] == group.codes[:-1]
        return same.sum() >= 20 and not (same & (numbers[1:] < numbers[:-1])).any()

    # --- words ---

    def _others(self, column: Column) -> list[Column]:
        return [c for c in self.columns if c is not column and not c.is_nested]

    def _title(self, position: int) -> str:
        return printable(self.source.title(position))

    def _flag(self, roles: dict[str, int]) -> str:
        return cols.flag(roles, self.names, self.source.width)

    def _refusal(self, reason: str, guesses: list[dict[str, int]]) -> DataError:
        has = (
            f"the columns are {cols.listed(self.names)}"
            if self.names
            else f"{self.source.width} columns without header, such as {self._example()}"
        )
        flags = list(dict.fromkeys(self._flag(guess) for guess in guesses))
        remedy = " or ".join(flags) or "say which with --columns user,item,rating,timestamp"
        return DataError(
            f"{self.source.path}: read as {self.source.kind}: {reason} ({has}): {remedy}"
        )

    def _example(self) -> str:
        row = self.source.sample.row(0) if len(self.source.sample) else ()
        return printable(", ".join("" if v is None else str(v) for v in row), 80)

    def _name_the_unused(self, roles: dict[str, int]) -> None:
        unused = [
            c for c in self.columns if c.position not in roles.values() and not c.is_row_number
        ]
        unused = [c for c in unused if not (self.names and not self.names[c.position])]
        if not unused or self.source.roles is not None:
            return
        titles = [self.names[c.position] if self.names else str(c.position) for c in unused]
        example = next(
            (c for c in unused if not c.is_nested and 1 < c.distinct <= 20 and not c.is_date), None
        )
        hint = ""
        if example is not None:
            name = self.names[example.position] if self.names else str(example.position)
            value = example.values.cast(pl.String).mode().sort()[0]
            hint = f" (keep a part of the rows as with --where {printable(f'{name}={value}', 40)})"
        self.notes.append(f"columns not used: {cols.listed(titles)}{hint}")
