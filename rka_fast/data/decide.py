"""Which column holds what, decided by all the evidence there is, or refused with the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data import evidence
from rka_fast.data.evidence import Column
from rka_fast.data.judge import Judge
from rka_fast.data.named import roles_by_names
from rka_fast.data.nameless import roles_by_values
from rka_fast.data.sources import Source
from rka_fast.data.times import TimeKind
from rka_fast.data.values import split_lists
from rka_fast.data.where import Condition
from rka_fast.errors import printable


@dataclass
class Decision:
    """Positions by role, and for the report what was decided and why.

    kind: how times are written. lists: how lists are written as text, see `values.split_lists`.
    """

    roles: dict[str, int]
    kind: TimeKind | None = None
    lists: str | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def decide(
    source: Source,
    columns: Sequence[str] | None,
    time_format: str | None,
    max_missing: float,
    conditions: Sequence[Condition] = (),
) -> Decision:
    """What the columns of a file hold. Raises DataError, with the remedy, where nothing tells."""
    judge = Judge(source, columns, time_format, max_missing, conditions)
    if judge.chosen is not None:
        roles = dict(judge.chosen)
    elif source.roles is not None:
        roles = dict(source.roles)
    elif source.names is not None:
        roles = roles_by_names(judge)
    else:
        roles = roles_by_values(judge)
    lists = _lists(judge, roles)
    kind = _kind(judge, roles, lists)
    judge.name_the_unused(roles)
    order = (*cols.ROLES, cols.CLOCK, cols.NEXT)
    roles = {role: roles[role] for role in order if role in roles}
    return Decision(roles, kind, lists, judge.notes, judge.warnings)


def _lists(judge: Judge, roles: dict[str, int]) -> str | None:
    """How lists of items are written as text, if they are."""
    item = judge.columns[roles["item"]]
    name = judge.names[item.position] if judge.names else ""
    found = None
    if judge.source.roles is None:
        found = evidence.lists_in(item, name, judge.columns[roles["user"]])
    if found or item.is_nested:
        judge.notes.append(f"{judge.title(item.position)} holds lists: one event an entry")
    return found


def _kind(judge: Judge, roles: dict[str, int], lists: str | None) -> TimeKind | None:
    if "timestamp" not in roles:
        if judge.told is not None:
            raise judge.refusal("--time-format is given, but no column holds times", [roles])
        return None
    column = judge.columns[roles["timestamp"]]
    if judge.told is not None:
        return judge.told
    if column.fault is not None:
        raise judge.faulty(column, roles)
    values = split_lists(column.values, lists)
    if isinstance(values.dtype, pl.List):
        if not (lists or judge.columns[roles["item"]].is_nested):
            without = {role: p for role, p in roles.items() if role != "timestamp"}
            raise judge.refusal(
                f"{judge.title(column.position)} holds lists, but the items are none", [without]
            )
        return _kind_of_lists(judge, values, column.position, roles)
    if column.kind is None:
        without = {role: p for role, p in roles.items() if role not in ("timestamp", cols.CLOCK)}
        example = f" such as {printable(column.values[0])}" if len(column.values) else ""
        raise judge.refusal(
            f"{judge.title(column.position)} holds no times{example}; say how they are written "
            "with --time-format, or leave them out",
            [without],
        )
    if column.kind.name == "clock":
        without = {role: p for role, p in roles.items() if role != "timestamp"}
        raise judge.refusal(
            f"{judge.title(column.position)} holds the time of day without the date; to take "
            "the order of the file",
            [without],
        )
    return column.kind


def _kind_of_lists(
    judge: Judge, values: pl.Series, position: int, roles: dict[str, int]
) -> TimeKind:
    inner = Column(values.explode().drop_nulls(), position, named_time=True)
    if inner.kind is None:
        without = {role: p for role, p in roles.items() if role != "timestamp"}
        raise judge.refusal(f"{judge.title(position)} holds lists that are no times", [without])
    return inner.kind
