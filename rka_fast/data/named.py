"""Which column holds what, where the columns have names."""

# The columns have names here: `Judge.names` is not None.
# pyright: reportArgumentType=false

from rka_fast.data import columns as cols
from rka_fast.data import evidence
from rka_fast.data.evidence import Column
from rka_fast.data.judge import Judge


def roles_by_names(judge: Judge) -> dict[str, int]:
    """Positions by role, told by the names and, where they say nothing, by the values."""
    found = cols.recognise(judge.names)
    roles: dict[str, int] = {}
    for role in ("user", "item"):
        if role in found:
            roles[role] = _least_missing(judge, role)
    _list_and_next(judge, roles)
    if "user" in roles and "item" in roles and roles["user"] == roles["item"]:
        roles.pop("item")
    _lists_of_items(judge, roles)
    _complete(judge, roles)
    if "rating" in found and found["rating"] not in roles.values():
        column = judge.columns[found["rating"]]
        if column.is_nested or column.mostly_numbers:
            roles["rating"] = found["rating"]
    _find_time(judge, roles)
    return roles


def _least_missing(judge: Judge, role: str) -> int:
    """The first column of the role's names in which most values are there."""
    places = [p for p in cols.named(judge.names, role)]
    first = places[0]
    for place in places:
        if judge.columns[place].missing <= judge.max_missing:
            if place != first:
                judge.notes.append(
                    f"{judge.title(first)} is missing in {judge.columns[first].missing:.0%} of "
                    f"the rows, so {judge.title(place)} is taken as the {role}"
                )
            return place
    return first


def _list_and_next(judge: Judge, roles: dict[str, int]) -> None:
    """A list of items beside a single one: the one comes after the list."""
    items = [p for p in cols.named(judge.names, "item") if p != roles.get("user")]
    lists = [p for p in items if _is_list(judge, p)]
    if lists:
        roles["item"] = lists[0]
        single = [p for p in items if p not in lists]
        if single:
            roles[cols.NEXT] = single[0]
            judge.notes.append(f"{judge.title(single[0])} comes after {judge.title(lists[0])}")


def _is_list(judge: Judge, position: int) -> bool:
    return judge.columns[position].is_nested or judge.names[position].endswith(":token_seq")


def _lists_of_items(judge: Judge, roles: dict[str, int]) -> None:
    """The only lists that there are hold the items."""
    if "item" not in roles:
        lists = [
            c.position for c in judge.columns if c.is_nested and c.position not in roles.values()
        ]
        if len(lists) == 1:
            roles["item"] = lists[0]


def _complete(judge: Judge, roles: dict[str, int]) -> None:
    """One of user and item is known by name: the other is what is left, if one is."""
    missing = [role for role in ("user", "item") if role not in roles]
    if not missing:
        return
    taken = {*roles.values(), *judge.time_names, *cols.named(judge.names, "rating")}
    left = [
        c
        for c in judge.columns
        if c.position not in taken
        and not (c.is_constant or c.is_row_number or c.is_date or c.fault)
        and judge.names[c.position]
        and not (c.kind is not None and evidence.is_surely_time(c, judge.others(c)))
    ]
    # People and things come more than once; titles and comments do not.
    likely = [c for c in left if len(c.values) >= 10 and c.distinct <= 0.8 * len(c.values)]
    if len(missing) == 1 and len(likely) == 1:
        left = likely
        roles[missing[0]] = left[0].position
        judge.notes.append(
            f"{judge.title(left[0].position)} is taken as the {missing[0]}: no other column is left"
        )
        return
    if len(missing) == 1:
        guesses = [{**roles, missing[0]: c.position} for c in left[:3]]
    else:
        pairs = [left[:2], left[1::-1]] if len(left) > 1 else []
        guesses = [{"user": a.position, "item": b.position} for a, b in pairs]
    for guess in guesses:
        _find_time(judge, guess, quietly=True)
    raise judge.refusal("cannot tell the user and the item", guesses)


def _find_time(judge: Judge, roles: dict[str, int], quietly: bool = False) -> None:
    """Add the column of the times, and of the time of day if that is another one."""
    free = [c for c in judge.columns if c.position not in roles.values()]
    by_name = [judge.columns[p] for p in judge.time_names if p not in roles.values()]
    clocks = [c for c in free if _is_clock(judge, c)]
    real = [c for c in by_name if c.kind is not None and c.kind.is_real]
    others = [judge.columns[roles[role]] for role in ("user", "item") if role in roles]
    unnamed = [
        c
        for c in free
        if c not in by_name
        and evidence.is_surely_time(c, others)
        and not (c.kind.is_count and cols.says_no_time(judge.names[c.position]))
        and not _is_property(judge, c, roles)
    ]
    doubtful = [
        c for c in free if c not in by_name and c not in unnamed and c.kind and c.kind.is_real
    ]
    faulty = [c for c in by_name if c.fault is not None and c not in clocks]
    lists = [c for c in by_name if c.is_nested]
    numbers = [c for c in by_name if c.kind is not None and c.kind.name == "number"]
    faulty_unnamed = [c for c in free if c.fault is not None and c not in by_name]
    if lists and judge.columns[roles["item"]].is_nested:
        roles["timestamp"] = lists[0].position
    elif real:
        roles["timestamp"] = real[0].position
    elif faulty:
        roles["timestamp"] = faulty[0].position
    elif len(unnamed) > 1 and not quietly:
        judge.refuse_several(unnamed, roles)
    elif unnamed:
        roles["timestamp"] = unnamed[0].position
        if not quietly:
            judge.notes.append(f"{judge.title(unnamed[0].position)} is the time: {unnamed[0].kind}")
    elif [c for c in numbers if c not in clocks]:
        roles["timestamp"] = next(c for c in numbers if c not in clocks).position
    elif faulty_unnamed:
        roles["timestamp"] = faulty_unnamed[0].position
    elif clocks:
        roles["timestamp"] = clocks[0].position
    elif [c for c in by_name if c.kind is None and len(c.values)]:
        roles["timestamp"] = next(c for c in by_name if c.kind is None and len(c.values)).position
    elif doubtful and not quietly:
        for column in doubtful[:2]:
            judge.warn_of_doubtful(column, roles)
    if (
        "timestamp" in roles
        and len(clocks) == 1
        and clocks[0].position != roles["timestamp"]
        and judge.columns[roles["timestamp"]].is_by_day
    ):
        roles[cols.CLOCK] = clocks[0].position


def _is_property(judge: Judge, column: Column, roles: dict[str, int]) -> bool:
    """Whether a column tells of the item or the user, as days of release and of birth do.

    A session may well have one day for all its events.
    """
    of = [roles[role] for role in ("user", "item") if role in roles]
    of = [position for position in of if not cols.is_session(judge.names[position])]
    return any(
        evidence.belongs_to(judge.columns[position], column)
        for position in of
        if not judge.columns[position].is_nested
    )


def _is_clock(judge: Judge, column: Column) -> bool:
    if column.kind is not None and column.kind.name == "clock":
        return True
    # Milliseconds since the session began, in logs that give its day only.
    name = judge.names[column.position].lower() if judge.names else ""
    n = column.numbers
    return name == "timeframe" and n is not None and n.min() >= 0 and n.max() < 86_400_000
