"""Which column holds what is decided rightly, or refused with flags that read the file rightly."""

from datetime import datetime, timezone

import pytest
from support.logs import make_log, read, remedies, run_as_printed, table, write

from rka_fast.data.readers import read_interactions
from rka_fast.errors import DataError

LOG = make_log()
NUMBERS = make_log(user="{}", item="{}", users=40, items=23)
HISTORIES = [items[k % 4 :] for k, items in enumerate(NUMBERS.sequences.values())]


def iso(time):
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def rows(log, *order):
    """Rows with some of user, item and time, a function of the time, or a constant."""
    places = {"user": 0, "item": 1, "time": 2}
    return [
        tuple(row[places[o]] if o in places else o(row) if callable(o) else o for o in order)
        for row in log.rows
    ]


def stars(row):
    return float(sum(map(ord, row[1])) % 9 + 1) / 2


def category(row):
    """As large as nanoseconds would be, with few values."""
    return 2_053_013_555_631_882_655 + sum(map(ord, row[1])) % 5


def kind(row):
    return ("view", "addtocart", "purchase")[row[2] % 3]


READ = {
    # Names of all kinds; times are seen whatever they are called.
    "ts": (rows(LOG, "user", "item", "time"), "user_id,item_id,ts"),
    "when": (rows(LOG, "time", "user", "item"), "when,user,item"),
    "t": (rows(LOG, "user", "item", "time"), "userId,itemId,t"),
    "InvoiceDate": (
        rows(LOG, "item", lambda r: iso(r[2]), lambda r: r[2] % 7, "user"),
        "StockCode,InvoiceDate,Quantity,CustomerID",
    ),
    "order_dow": (rows(LOG, "user", "item", lambda r: iso(r[2])), "customer_no,sku,order_dow"),
    "price and category beside": (
        rows(
            LOG, lambda r: iso(r[2]) + " UTC", kind, "item", category, lambda r: r[2] % 900, "user"
        ),
        "event_time,event_type,product_id,category_id,price,user_id",
    ),
    "item_idx": (rows(LOG, "item", "user", "time"), "item_idx,sess_idx,timestamp"),
    "one name is unknown": (rows(LOG, "user", "item", "time"), "who,item,time"),
    "other name is unknown": (rows(LOG, "user", "item", "time"), "user,what,time"),
    "R's row names": ([(str(n), *row) for n, row in enumerate(LOG.rows, 1)], "user,item,time"),
    "pandas' index": ([(n, *row) for n, row in enumerate(LOG.rows)], ",user,item,time"),
    # Without a header.
    "user,item,rating,time": (rows(LOG, "user", "item", stars, "time"), None),
    "user,item,time,rating": (rows(LOG, "user", "item", "time", stars), None),
    "user,item,time": (rows(LOG, "user", "item", "time"), None),
    "user,time,item": (rows(LOG, "user", "time", "item"), None),
    "time,user,item": (rows(LOG, "time", "user", "item"), None),
    "time,user,item in numbers": (rows(NUMBERS, "time", "user", "item"), None),
    "user,date,item": (rows(LOG, "user", lambda r: iso(r[2]), "item"), None),
    "date,user,item,label": (rows(LOG, lambda r: iso(r[2]), "user", "item", 1), None),
    "user,kind,item,time": (rows(LOG, "user", kind, "item", "time"), None),
    "session,time,item,category": (rows(LOG, "user", lambda r: iso(r[2]), "item", category), None),
    "user,item,category,time": (rows(LOG, "user", "item", category, "time"), None),
    "index,user,item,time": ([(n, *row) for n, row in enumerate(LOG.rows)], None),
}


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", READ)
def test_columns_are_told(tmp_path, name, separator):
    table_rows, header = READ[name]
    header = header and header.split(",")
    log = NUMBERS if "numbers" in name else LOG
    path = write(tmp_path, table(table_rows, header, separator))
    assert read(path) == log.sequences


@pytest.mark.parametrize("header", [None, "user,item,price,ts"])
@pytest.mark.parametrize("inner", [",", ";", "|", "::", "\t"])
@pytest.mark.parametrize("outer", [",", ";", "|", "\t"])
def test_ids_may_hold_separators(tmp_path, outer, inner, header):
    if inner == outer:
        inner = ":"
    log = make_log(user="u{}" + f"{inner}a{inner}b", item="i{}" + f"{inner}c{inner}d")
    lines = [outer.join((u, i, "5", str(t))) for u, i, t in log.rows]
    if header:
        lines.insert(0, header.replace(",", outer))
    assert read(write(tmp_path, "\n".join(lines) + "\n")) == log.sequences


def test_a_refusal_offers_every_column_as_the_item(tmp_path):
    log = [(u, t, i[::-1], f"by {i}", i, f"of {i}") for u, i, t in LOG.rows]
    path = write(tmp_path, table(log))
    with pytest.raises(DataError, match="cannot tell the user and the item") as refused:
        read_interactions(path)
    flags = remedies(refused.value)
    assert flags[2] == "--columns user,timestamp,-,-,item"
    assert run_as_printed(path, flags[2]) == LOG.sequences


def by_user_in_time(log, step=lambda n: n):
    """Rows sorted by user and time, with the number of the event among the user's."""
    found = []
    for user, items in log.sequences.items():
        found += [(user, item, step(n)) for n, item in enumerate(items)]
    return found


@pytest.mark.parametrize("first", [0, 1])
def test_steps_are_times(tmp_path, first):
    steps = by_user_in_time(LOG, lambda n: n + first)
    assert read(write(tmp_path, table(steps[::-1]))) == LOG.sequences
    # So are larger ones, where they are in order.
    steps = by_user_in_time(LOG, lambda n: 1000 * n + 160_000)
    assert read(write(tmp_path, table(steps))) == LOG.sequences


NO_TIMES = {
    "prices": lambda r: 100 + sum(map(ord, r[1])) / 4,
    "large item-like numbers": lambda r: 2 * 10**8 + sum(map(ord, r[1])) % 3,
    "categories": category,
    "play counts": lambda r: 100 + r[2] % 4,
    "stars": stars,
}


@pytest.mark.parametrize("name", NO_TIMES)
def test_numbers_are_no_times_by_their_size(tmp_path, name):
    ordered = [
        (u, i, NO_TIMES[name]((u, i, n))) for n, (u, i, _) in enumerate(by_user_in_time(LOG))
    ]
    for header in (None, ["user", "item", "value"]):
        log = read_interactions(write(tmp_path, table(ordered, header)))
        assert "timestamp" not in log.frame.columns
        assert read(tmp_path / "log") == LOG.sequences  # in the order of the file


def test_what_was_not_used_is_named(tmp_path):
    log = read_interactions(
        write(
            tmp_path, table(rows(LOG, "user", "item", kind, stars), ["user", "item", "event", "x"])
        )
    )
    assert log.notes[0].startswith(
        "columns not used: event, x (keep a part of the rows as with --where event="
    )


def test_a_column_that_may_hold_times_is_named(tmp_path):
    # Few counts, in no order: as good ids of sellers as times.
    some = [(u, i, 1_400_000_000 + 1000 * (ord(i[-1]) % 3)) for u, i, _ in LOG.rows]
    log = read_interactions(write(tmp_path, table(some, ["user", "item", "seller"])))
    assert "timestamp" not in log.frame.columns
    (warning,) = log.warnings
    assert "seller may hold times" in warning
    assert remedies(warning) == ["--columns user,item,-,seller"]
    assert run_as_printed(tmp_path / "log", remedies(warning)[0])


OTHERWISE = {
    # Numbers as large as times in a column of another name, and days that tell of what is bought
    # or of who buys.
    "seller_id": lambda n, u, i: 1_400_000_000 + 7919 * n % 10**7,
    "price": lambda n, u, i: 1_400_000_000 + 7919 * n % 10**7,
    "released": lambda n, u, i: f"19{60 + int(i[1:])}-02-03",
    "birthday": lambda n, u, i: f"19{40 + int(u[1:])}-02-03",
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_tells_of_something_else_is_no_time_but_is_named(tmp_path, name):
    rows = [(u, i, OTHERWISE[name](n, u, i)) for n, (u, i, _) in enumerate(by_user_in_time(LOG))]
    path = write(tmp_path, table(rows, ["user", "item", name]))
    log = read_interactions(path)
    assert "timestamp" not in log.frame.columns and read(path) == LOG.sequences
    (warning,) = log.warnings
    assert f"{name} may hold times" in warning
    assert run_as_printed(path, remedies(warning)[0])
    # A name that says time, or a choice, makes it one.
    named = read_interactions(write(tmp_path, table(rows, ["user", "item", "date"]), "date"))
    assert "timestamp" in named.frame.columns


def test_every_column_that_may_hold_times_is_named(tmp_path):
    rows = [
        (u, i, 1_600_000_000 + 60 * (t % 9), 1_600_100_000 - 60 * (t % 7)) for u, i, t in LOG.rows
    ]
    log = read_interactions(write(tmp_path, table(rows, ["user", "item", "created", "updated"])))
    assert "timestamp" not in log.frame.columns
    assert [remedies(warning) for warning in log.warnings] == [
        ["--columns user,item,-,created"],
        ["--columns user,item,-,updated"],
    ]
    path = write(tmp_path, table(rows))
    with pytest.raises(DataError, match="column 2 and column 3 may hold times") as refused:
        read_interactions(path)
    flags = remedies(refused.value)
    for flag, column in zip(flags, (2, 3, None), strict=True):
        chosen = rows
        if column:  # rows equal in user, item and time count once
            chosen = {(u, i, (a, b)[column - 2]): (u, i) for u, i, a, b in rows}
            chosen = [chosen[key] for key in sorted(chosen, key=lambda key: key[2])]
        expected = {u: [i for v, i, *_ in chosen if v == u] for u, *_ in rows}
        assert run_as_printed(path, flag) == expected


def test_ids_as_large_as_times(tmp_path):
    # Items that ascend like times beside steps, which are no items.
    walks = {f"{200_000_000 + u}": [f"{10**9 + u + k}" for k in range(8)] for u in range(40)}
    steps = [(u, i, k) for u, items in walks.items() for k, i in enumerate(items)]
    assert read(write(tmp_path, table(steps))) == walks
    # Beside times nothing tells: either way of reading is printed.
    path = write(tmp_path, table([(u, i, 1_600_000_000 + 60 * k) for u, i, k in steps]))
    with pytest.raises(DataError, match="column 1 and column 2 may be times or ids") as refused:
        read_interactions(path)
    first, second = remedies(refused.value)
    assert run_as_printed(path, first) == walks
    assert run_as_printed(path, second) == {
        u: [str(1_600_000_000 + 60 * k) for k in range(8)] for u in walks
    }


def grouped_by_item(log):
    """Sorted by item, times of an item in no order."""
    return sorted(log.rows, key=lambda r: (r[1], r[2] % 997))


REFUSED = {
    # content, the number of the remedy that reads it rightly, the right reading
    "item first": (
        table([(i, u, stars((u, i)), t) for u, i, t in grouped_by_item(LOG)]), 1, LOG.sequences,
    ),
    "user first, grouped by item": (
        table([(u, i, stars((u, i)), t) for u, i, t in grouped_by_item(LOG)]), 0, LOG.sequences,
    ),
    "names that say nothing": (table(LOG.rows, ["a", "b", "c"]), 0, LOG.sequences),
    "names that say nothing, turned": (
        table(rows(LOG, "item", "user", "time"), ["a", "b", "c"]), 1, LOG.sequences,
    ),
    "names with blanks and commas": (
        table(LOG.rows, ["the person", "the thing, bought", "day"]), 0, LOG.sequences,
    ),
    "names with blanks": (table(LOG.rows, ["the person", "it's", "day"]), 0, LOG.sequences),
    "five columns": (
        table([(u, i, 100 + ord(i[-1]) * k, t, k % 37) for k, (u, i, t) in enumerate(LOG.rows)]),
        0,
        LOG.sequences,
    ),
    "two columns of times": (
        table([(u, i, t, t + 7 * 86_400) for u, i, t in LOG.rows], ["user", "item", "a", "b"]),
        0,
        LOG.sequences,
    ),
    "two columns of dates": (
        table([(u, i, iso(t + 10**6), iso(t)) for u, i, t in LOG.rows]), 1, LOG.sequences,
    ),
    "histories, with the user": (
        "".join(f"{100 + k} {' '.join(items)}\n" for k, items in enumerate(HISTORIES)),
        0,
        {str(100 + k): items for k, items in enumerate(HISTORIES)},
    ),
    "histories, without": (
        "".join(f"{100 + k} {' '.join(items)}\n" for k, items in enumerate(HISTORIES)),
        1,
        {str(k + 1): [str(100 + k), *items] for k, items in enumerate(HISTORIES)},
    ),
    "histories of one length, without the user": (
        "".join(f"{' '.join(items)}\n" for items in NUMBERS.sequences.values()),
        -1,
        {str(k + 1): items for k, items in enumerate(NUMBERS.sequences.values())},
    ),
    "histories that begin alike": (
        "".join(f"{' '.join(items)}\n" for items in HISTORIES),
        0,
        {str(k + 1): items for k, items in enumerate(HISTORIES)},
    ),
    "histories with commas": (
        "".join(f"{','.join(items)}\n" for items in HISTORIES),
        0,
        {str(k + 1): items for k, items in enumerate(HISTORIES)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_prints_the_flags_that_read_the_file(tmp_path, name):
    content, right, expected = REFUSED[name]
    path = write(tmp_path, content)
    with pytest.raises(DataError) as refused:
        read_interactions(path)
    flags = remedies(refused.value)
    assert len(str(refused.value)) < 800 and "\n" not in str(refused.value)
    assert run_as_printed(path, flags[right]) == expected
    for other in flags if "of one length" not in name else ():
        if other != "--form table":
            assert run_as_printed(path, other)


def test_amazon_ids_tell_the_item_from_the_user(tmp_path):
    log = make_log(user="A{:03d}QX", item="B{:03d}X")
    for order in (("item", "user", stars, "time"), ("user", "item", stars, "time")):
        ordered = sorted(rows(log, *order), key=lambda row: (row[1], row[2]))
        assert read(write(tmp_path, table(ordered))) == log.sequences


@pytest.mark.parametrize("log", [LOG, NUMBERS], ids=["words", "numbers"])
def test_a_header_of_unknown_names_is_no_event(tmp_path, log):
    path = write(tmp_path, table(rows(log, "user", "item"), ["alpha", "beta"]))
    with pytest.raises(DataError, match="the columns are alpha, beta") as refused:
        read_interactions(path)
    frame = read_interactions(path, columns=["alpha", "beta"]).frame
    assert frame.rows() == [row[:2] for row in log.rows]
    assert remedies(refused.value) == ["--columns alpha,beta", "--columns beta,alpha"]
