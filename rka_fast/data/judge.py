"""The sample of a file and what is said about its columns: notes, warnings, refusals."""

from collections.abc import Sequence

import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data.evidence import Column
from rka_fast.data.sources import Source
from rka_fast.data.times import AmbiguousDates, MixedTimes, told
from rka_fast.data.values import trimmed
from rka_fast.data.where import Condition
from rka_fast.errors import DataError, printable


class Judge:
    """A sample's columns, and the words for what is found.

    chosen: what `--columns` says. told: what `--time-format` says. time_names: the columns whose
        names say that they hold times, the likeliest first.
    """

    def __init__(
        self,
        source: Source,
        columns: Sequence[str] | None,
        time_format: str | None,
        max_missing: float,
        conditions: Sequence[Condition],
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
        kept = self._kept(conditions)
        self.columns = [
            Column(source.sample[str(p)], p, p in by_name, kept) for p in range(source.width)
        ]

    def _kept(self, conditions: Sequence[Condition]) -> pl.Series | None:
        """Which rows of the sample count: what `--where` keeps, but for the header again."""
        sample, kept = (
            self.source.sample,
            pl.Series([True]).new_from_index(0, len(self.source.sample)),
        )
        for condition in conditions:
            position = condition.position(self.names, self.source.width)
            kept &= condition.holds(trimmed(sample[str(position)]))
        if self.names and sample.width > 1 and all(t == pl.String for t in sample.dtypes[:2]):
            again = (sample["0"] == self.names[0]) & (sample["1"] == self.names[1])
            kept &= ~again.fill_null(False)
        return None if kept.all() else kept

    def refuse_several(self, times: list[Column], roles: dict[str, int]) -> None:
        titles = " and ".join(self.title(c.position) for c in times)
        guesses = [{**roles, "timestamp": c.position} for c in times[:3]]
        raise self.refusal(f"{titles} all hold times, and nothing tells which one counts", guesses)

    def warn_of_doubtful(self, column: Column, roles: dict[str, int]) -> None:
        flag = self.flag({**roles, "timestamp": column.position})
        self.warnings.append(
            f"{self.title(column.position)} may hold times ({column.kind}), but nothing else says "
            f"so: it is not used. If it does: {flag}"
        )

    def faulty(self, column: Column, roles: dict[str, int]) -> DataError:
        fault, title = column.fault, self.title(column.position)
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
        small = [v for v in values if v.lstrip("-").isdecimal() and abs(int(v)) < 10**6]
        name = self.names[column.position] if self.names else str(column.position)
        part = ""
        if len(small) == 1 and name.isprintable() and "'" not in name:
            part = f"leave out some rows: --where '{name}>{small[0]}'; or "
        return DataError(
            f"{title} mixes times: {values[0]} in {places[0]} ({first[1]}), but {values[1]} in "
            f"{places[1]} ({second[1]}). Write them alike; or {part}leave all out and take the "
            f"order of the file: {self.flag(without)}"
        )

    def others(self, column: Column) -> list[Column]:
        return [c for c in self.columns if c is not column and not c.is_nested]

    def title(self, position: int) -> str:
        return printable(self.source.title(position))

    def flag(self, roles: dict[str, int]) -> str:
        return cols.flag(roles, self.names, self.source.width)

    def refusal(self, reason: str, guesses: list[dict[str, int]]) -> DataError:
        has = (
            f"the columns are {cols.listed(self.names)}"
            if self.names
            else f"{self.source.width} columns without header, such as {self.example()}"
        )
        flags = list(dict.fromkeys(self.flag(guess) for guess in guesses))
        remedy = " or ".join(flags) or "say which with --columns user,item,rating,timestamp"
        if self.source.kind == "table separated by spaces without header":
            remedy += " or, if a line is a user's history, --form user-items or --form items"
        return DataError(
            f"{self.source.path}: read as {self.source.kind}: {reason} ({has}): {remedy}"
        )

    def example(self) -> str:
        row = self.source.sample.row(0) if len(self.source.sample) else ()
        return printable(", ".join("" if v is None else str(v) for v in row), 80)

    def name_the_unused(self, roles: dict[str, int]) -> None:
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
