"""Which column holds what, where only values tell."""

import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data import evidence
from rka_fast.data.evidence import Column
from rka_fast.data.judge import Judge
from rka_fast.data.times import TimeKind


def roles_by_values(judge: Judge) -> dict[str, int]:
    """Positions by role, told by the values. Raises DataError where two readings fit."""
    free = [c for c in judge.columns if len(c.values) or judge.source.width < 3]
    free = [c for c in free if not (c.is_row_number and len(free) > 2)]
    times = _times_by_values(judge, free)
    if len(times) > 1:
        ids = [c for c in free if c not in times][:2]
        roles: dict[str, int] = dict(zip(("user", "item"), (c.position for c in ids), strict=False))
        if len(roles) == 2:
            judge.refuse_several(times, roles)
        if len(free) > 2:
            raise judge.refusal(
                " and ".join(judge.title(c.position) for c in times)
                + " may be times or ids, and nothing tells which",
                [_with_time(time, free) for time in reversed(times)],
            )
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
        if times[0].position < 2 and judge.source.width > 2:
            judge.notes.append(f"{judge.title(times[0].position)} is the time: {times[0].kind}")
    elif clocks:
        roles["timestamp"] = clocks[0].position
    elif len(rest) > 2:
        _number_behind(judge, rest, roles)
    # Beside a few words over many rows, kinds of events, numbers of more kinds are the items.
    words = len(rest) == 3 and rest[1].numbers is None and len(rest[1].values) >= 100
    few = words and rest[1].distinct <= 10 < rest[-1].distinct
    if len(rest) > 2 and rest[-1].is_rating and not few:
        roles["rating"] = rest.pop().position
    if len(rest) > 2:
        kept = [c for c in rest if not c.is_measure]
        rest = kept if len(kept) >= 2 else rest
    if len(rest) > 2:
        most = max(c.distinct for c in rest)
        kept = [c for c in rest if c.distinct > min(10, 0.2 * most)]
        rest = kept if len(kept) == 2 else rest
    if len(rest) != 2:
        first = dict(zip(("user", "item"), (c.position for c in rest), strict=False))
        ids = [c.position for c in rest]
        guesses = [{**roles, "user": ids[0], "item": item} for item in ids[1:5]]
        if len(judge.columns) == 4 and not times:
            if all(c.numbers is not None for c in judge.columns[2:]):
                guesses = [dict(zip(cols.ROLES, range(4), strict=True)), *guesses]
        elif guesses:
            guesses.append({**roles, "user": first["item"], "item": first["user"]})
        raise judge.refusal("cannot tell the user and the item", guesses)
    return {**roles, **_user_and_item(judge, rest[0], rest[1], times, roles)}


def _with_time(time: Column, free: list[Column]) -> dict[str, int]:
    """The roles if this column holds the times and the first of the others the ids."""
    user, item = [c.position for c in free if c is not time][:2]
    return {"user": user, "item": item, "timestamp": time.position}


def _times_by_values(judge: Judge, free: list[Column]) -> list[Column]:
    """The columns that surely hold times; where a few rows say little, their place helps."""
    faulty = [c for c in free if c.fault is not None]
    if faulty:
        roles: dict[str, int] = dict(
            zip(("user", "item"), (c.position for c in free if c not in faulty), strict=False)
        )
        raise judge.faulty(faulty[0], roles)
    real = [c for c in free if c.kind is not None and c.kind.is_real]
    sure = [c for c in real if evidence.is_surely_time(c, [o for o in free if o is not c])]
    dates = [c for c in sure if c.is_date]
    if dates:
        return dates
    if len(sure) > 1 and len(free) - len(sure) < 2:
        # Ids as large as times: only order can tell them.
        ordered = [c for c in sure if any(evidence.is_ordered(o, c) for o in free if o is not c)]
        sure = ordered if len(ordered) == 1 else sure
    if len(free) - len(sure) == 2:
        first, second = [c for c in free if c not in sure]
        if evidence.counts_up(first, second):  # steps, which are no items: the others are
            return []
    behind = [c for c in real if c.position >= 2]
    if not sure and len(real) == len(behind) == 1 and real[0].distinct > 0.5 * len(real[0].values):
        return real
    if sure:
        return sure
    ids = {"user": 0, "item": 1}
    if len(behind) > 1:
        raise judge.refusal(
            " and ".join(judge.title(c.position) for c in behind)
            + " may hold times, and nothing else says whether they do; with one of them, or none",
            [{**ids, "timestamp": c.position} for c in behind[:3]] + [ids],
        )
    for column in behind:
        judge.warn_of_doubtful(column, ids)
    return []


def _number_behind(judge: Judge, rest: list[Column], roles: dict[str, int]) -> None:
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
        judge.notes.append(
            f"{judge.title(last.position)} is the time, in steps of its own: it ascends inside "
            f"{judge.title(rest[0].position)}"
        )
    elif (
        (last.numbers != last.numbers.round()).any()
        or last.distinct <= 0.2 * max(c.distinct for c in rest)
        or len(last.values) < 20
    ):
        rest.pop()


def _user_and_item(
    judge: Judge, a: Column, b: Column, times: list[Column], roles: dict[str, int]
) -> dict[str, int]:
    """Of two columns of ids the user and the item; the user is first unless something tells."""
    straight = {"user": a.position, "item": b.position}
    turned = {"user": b.position, "item": a.position}
    titles = judge.title(a.position), judge.title(b.position)
    if evidence.is_amazon(a, b):
        judge.notes.append(
            f"{titles[0]} is the item and {titles[1]} the user: they look like Amazon's ids"
        )
        return turned
    by_place = (
        f"{titles[0]} is taken as the user, as usual; if it is the item: "
        f"{judge.flag({**turned, **roles})}"
    )
    if evidence.is_amazon(b, a):
        return straight
    if not times:
        judge.notes.append(by_place)
        return straight
    time = times[0]
    ordered_a, ordered_b = (evidence.is_ordered(c, time) for c in (a, b))
    if ordered_a != ordered_b:
        if ordered_b:
            judge.notes.append(
                f"{titles[1]} is the user: its rows are in order of time, those of {titles[0]} "
                "are not"
            )
        return straight if ordered_a else turned
    if judge.source.kind.startswith(("TSV", "table separated by '::'")):
        return straight
    unordered = not ordered_a and sum(map(sum, (evidence.moves(c, time) for c in (a, b)))) >= 20
    grouped = evidence.is_grouped(a) != evidence.is_grouped(b)
    if unordered and grouped and not _sorted_by_id(a, b):
        raise judge.refusal(
            f"cannot tell the user from the item: the rows are grouped by "
            f"{titles[0] if evidence.is_grouped(a) else titles[1]}, but not in order of time, "
            f"as files by item are. If the user comes first, give the first of these",
            [{**straight, **roles}, {**turned, **roles}],
        )
    judge.notes.append(by_place)
    return straight


def _sorted_by_id(group: Column, ids: Column) -> bool:
    """Whether rows of a group stand in the order of the other column's ids."""
    numbers = ids.numbers
    if numbers is None:
        rank = ids.values.cast(pl.String).rank("dense").cast(pl.Float64)
        numbers = rank.to_numpy()
    if len(numbers) != len(group.codes):
        return False
    same = group.codes[1:] == group.codes[:-1]
    return same.sum() >= 20 and not (same & (numbers[1:] < numbers[:-1])).any()
