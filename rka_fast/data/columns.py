"""Which columns are the user, the item, the rating and the time: by their names, or as told."""

import re
import shlex
from collections.abc import Sequence

from rka_fast.errors import DataError, printable

ROLES = ("user", "item", "rating", "timestamp")
CLOCK = "clock"
"""The role of a second column of times: the time of day."""

NEXT = "next"
"""The role of a single item that comes after a list of items."""

# Names as they are after `_plain`; earlier ones win where a header has several.
_NAMES = {
    "user": "user userid uid username reviewerid visitorid customerid memberid session sessionid",
    "item": (
        "item itemid movieid asin parentasin productid gmapid businessid gameid appid trackid "
        "songid artistid bookid isbn videoid articleid newsid iid product movie itemlist itemids "
        "itemidlist items"
    ),
    "rating": "rating overall score stars ratings reviewrating",
    "timestamp": (
        "timestamp unixreviewtime unixtime ts time datetime date posted createdat eventtime when "
        "timestamps timestamplist times eventdate"
    ),
}
KNOWN = {role: names.split() for role, names in _NAMES.items()}

# Words that with nothing but one of _ADDED say what a column is: "sess_idx", "CustomerNo".
_WORDS = {
    "user": (
        "user usr customer client member visitor reviewer person buyer shopper listener reader "
        "viewer player learner student account profile cookie device household session sess"
    ),
    "item": (
        "item itm product prod article sku stock movie film book song track artist video game app "
        "course poi venue business restaurant recipe show anime news asin"
    ),
}
_ADDED = set("id idx index ids no nr num number code key uuid hash sk".split())

_MEASURES = set(
    "price cost amount revenue sales total quantity qty count score rating rank".split()
)

# RecBole writes a type behind every name.
_TYPED = re.compile(r"^[^:]+:(token|float|token_seq|float_seq)$")


def is_typed(header: Sequence[str]) -> bool:
    """Whether a header is RecBole's, with a type behind every name."""
    return all(_TYPED.match(name) for name in header)


def recognise(names: Sequence[str]) -> dict[str, int]:
    """Positions of the columns whose names are known, by role."""
    plain = [_plain(name) for name in names]
    found = {}
    for role, known in KNOWN.items():
        position = next((plain.index(name) for name in known if name in plain), None)
        if position is not None:
            found[role] = position
    for role, words in _WORDS.items():
        if role not in found and (position := _by_words(names, words.split())) is not None:
            found[role] = position
    return found


def named(names: Sequence[str], role: str) -> list[int]:
    """Positions of all columns whose names are known for a role, the likeliest first."""
    plain = [_plain(name) for name in names]
    known = [plain.index(name) for name in KNOWN[role] if name in plain]
    words = _WORDS.get(role, "").split()
    return known + [
        position
        for position, name in enumerate(names)
        if position not in known and _says(name, words) is not None
    ]


def says_no_time(name: str) -> bool:
    """Whether a column's name says that its numbers are ids or measures: "seller_id", "price"."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", _bare(name))
    return not {part.lower() for part in parts}.isdisjoint(_ADDED | _MEASURES)


def is_session(name: str) -> bool:
    """Whether a column's name says that it numbers sessions."""
    return "sess" in name.lower()


def choose(columns: Sequence[str], names: Sequence[str] | None, width: int) -> dict[str, int]:
    """Positions by role from the user's own choice; see `readers.read_interactions`."""
    columns = [str(column).strip() for column in columns]
    said = f"columns={printable(','.join(columns), 200)}"
    if set(columns) - {"-"} <= set(ROLES):
        # Words for the columns' meanings are their names if the header has them.
        wanted = [column for column in columns if column != "-"]
        if names is not None and set(wanted) <= set(names):
            return _complete({column: list(names).index(column) for column in wanted}, said, width)
        return _complete(_in_file_order(columns, names, said), said, width)
    if len(columns) > len(ROLES):
        raise DataError(
            f"{said}: at most {len(ROLES)} columns, {', '.join(ROLES)}; or the words user, item, "
            "rating, timestamp and - in the file's own order, as many as it has columns"
        )
    chosen: dict[str, int] = {}
    for role, column in zip(ROLES, columns, strict=False):
        if column == "-":
            continue
        parts = column.split("+") if role == "timestamp" else [column]
        if names is not None and column in names:
            parts = [column]
        if len(parts) > 2:
            raise DataError(
                f"{said}: at most two columns make a time, the date and the time of day"
            )
        for part, key in zip(parts, (role, CLOCK), strict=False):
            chosen[key] = _position(part.strip(), names, width, said)
    return _complete(chosen, said, width)


def flag(roles: dict[str, int], names: Sequence[str] | None, width: int) -> str:
    """The `--columns` that chooses these roles, as one types it."""
    if names is None:
        words = ["-"] * width
        for role, position in roles.items():
            words[position] = "timestamp" if role == CLOCK else role
        while words[-1] == "-":
            words.pop()
        return f"--columns {','.join(words)}"
    usable = all(_is_usable(names[p], names, role) for role, p in roles.items())
    spoken = {
        role: names[position] if usable else str(position) for role, position in roles.items()
    }
    if CLOCK in spoken:
        spoken["timestamp"] += f"+{spoken.pop(CLOCK)}"
    given = [spoken.get(role, "-") for role in ROLES]
    while given[-1] == "-":
        given.pop()
    return f"--columns {shlex.quote(','.join(given))}"


def _in_file_order(
    columns: Sequence[str], names: Sequence[str] | None, said: str
) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for position, column in enumerate(columns):
        if column == "-":
            continue
        role = CLOCK if column == "timestamp" and column in chosen else column
        if role in chosen:
            raise DataError(f"{said}: {role} stands twice")
        chosen[role] = position
    for role, position in chosen.items():
        if names is not None and role in names and list(names).index(role) != position:
            raise DataError(
                f"{said}: these words follow the order of the file, whose header is "
                f"{listed(names)}; give the header's names, of user, item, rating and timestamp"
            )
    return chosen


def _position(column: str, names: Sequence[str] | None, width: int, said: str) -> int:
    if names is not None and column in names:
        return list(names).index(column)
    if column.isascii() and column.isdecimal() and len(column) < 10:
        return int(column)
    has = f"the header has {listed(names)}" if names else f"the file has no header, {width} columns"
    raise DataError(f"{said}: no column {printable(column)}; {has}; give names or positions")


def _complete(chosen: dict[str, int], said: str, width: int) -> dict[str, int]:
    if "user" not in chosen or "item" not in chosen:
        raise DataError(f"{said}: user and item are needed, as in --columns user,item")
    outside = [position for position in chosen.values() if position >= width]
    if outside:
        raise DataError(f"{said}: no column {outside[0]}; the file has {width}, counted from 0")
    if len(set(chosen.values())) < len(chosen):
        raise DataError(f"{said}: one column cannot be two things; name different ones")
    return {role: chosen[role] for role in (*ROLES, CLOCK) if role in chosen}


def listed(names: Sequence[str], most: int = 12) -> str:
    """Column names for a message, at most so many."""
    shown = ", ".join(printable(name) if name else "''" for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _is_usable(name: str, names: Sequence[str], role: str) -> bool:
    """Whether a name can be typed in a list with commas and means just this column."""
    odd = "," in name or "+" in name or name != name.strip() or not name.isprintable()
    return (
        not odd
        and name not in ("", "-", *(r for r in ROLES if r != role))
        and not name.isdecimal()
        and (list(names).count(name) == 1)
    )


def _by_words(names: Sequence[str], words: list[str]) -> int | None:
    ranks = [(rank, k) for k, name in enumerate(names) if (rank := _says(name, words)) is not None]
    return min(ranks)[1] if ranks else None


def _says(name: str, words: list[str]) -> int | None:
    """The rank of the only word of a name that is neither an addition nor unknown, or None."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", _bare(name))
    parts = [part.lower() for part in parts]
    left = [part for part in parts if part not in _ADDED]
    ranks = [words.index(part) for part in left if part in words]
    return ranks[0] if ranks and len(ranks) == len(left) else None


def _bare(name: str) -> str:
    return name.rpartition(":")[0] if _TYPED.match(name) else name


def _plain(name: str) -> str:
    name = _bare(name)
    return "".join(c for c in name.lower() if c.isalnum())
