"""Times in every writing are read to the nanosecond, or refused with what disagrees."""

from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from support.logs import make_log, read, remedies, run_as_printed, table, write

from rka_fast.data.readers import read_interactions
from rka_fast.data.times import parse, recognise, told
from rka_fast.errors import DataError

EPOCH = datetime(1970, 1, 1)
SECOND = 10**9
LOG = make_log()


def nanoseconds(moment: datetime) -> int:
    if moment.tzinfo is not None:
        moment = moment.astimezone(timezone.utc).replace(tzinfo=None)
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def moments(seed=0, size=1500):
    """Points in time of 1996 to 2030, to the microsecond."""
    rng = np.random.default_rng(seed)
    seconds = rng.integers(820_454_400, 1_893_456_000, size)
    micros = rng.integers(0, 10**6, size)
    return [
        EPOCH + timedelta(seconds=int(s), microseconds=int(m))
        for s, m in zip(seconds, micros, strict=True)
    ]


WRITTEN = [  # as strftime has it; what is not written is cut off
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S+00:00",
    "%Y-%m-%d %H:%M:%S,%f",
    "%Y/%m/%d %H:%M:%S",
    "%Y.%m.%d",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %I:%M:%S %p",
    "%d-%m-%Y %H:%M",
    "%a %b %d %H:%M:%S +0000 %Y",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y %I:%M %p",
    "%d-%b-%Y",
    "%d/%b/%Y:%H:%M:%S +0000",
    "%Y%m%d",
    "%Y%m%d%H%M%S",
]


@pytest.mark.parametrize("size", [1500, 40])  # many values are read in another way than few
@pytest.mark.parametrize("form", WRITTEN)
def test_dates_are_read_as_python_reads_them(form, size):
    written = [moment.strftime(form) for moment in moments(size=size)]
    expected = [nanoseconds(datetime.strptime(text, form)) for text in written]
    values = pl.Series(written)
    assert parse(values, recognise(values, named=False)).to_list() == expected
    assert parse(values, told(form)).to_list() == expected
    # What stands before changes nothing: unpadded fields make values of several widths.
    shorter = values.str.replace(r"^0", "")
    if form[:2] in ("%d", "%m"):
        assert parse(shorter, recognise(shorter, named=False)).to_list() == expected


@pytest.mark.parametrize("hours", ["+02:00", "-0730", "+05"])
def test_offsets_are_taken_off(hours):
    sign = -1 if hours[0] == "-" else 1
    digits = hours[1:].replace(":", "").ljust(4, "0")
    ahead = sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    some = [moment.replace(microsecond=0) for moment in moments(size=50)]
    values = pl.Series([moment.strftime("%Y-%m-%dT%H:%M:%S") + hours for moment in some])
    expected = [nanoseconds(moment - ahead) for moment in some]
    assert parse(values, recognise(values, named=False)).to_list() == expected


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("text", [True, False])
def test_counts_are_told_apart_by_their_unit(unit, scale, text):
    counts = [int(nanoseconds(moment)) * scale // SECOND for moment in moments(size=60)]
    values = pl.Series(list(map(str, counts)) if text else counts)
    kind = recognise(values, named=True)
    assert kind.name == unit
    assert parse(values, kind).to_list() == [count * (SECOND // scale) for count in counts]


def test_order_keeps_the_resolution_of_the_file(tmp_path):
    # 100 ns apart: doubles of seconds would make them one.
    start = 1_600_000_000 * SECOND
    rows = [("u", f"i{k}", start + 100 * (7 * k % 50)) for k in range(50)]
    rows += [("v", f"i{k}", start) for k in range(3)]
    path = write(tmp_path, table(rows, ["user", "item", "timestamp"]))
    assert read(path)["u"] == [item for _, item, _ in sorted(rows[:50], key=lambda row: row[2])]


def test_fractions_of_seconds_are_kept():
    values = pl.Series(["1099502751.0", "1099502751.25", "1099502752"])
    assert parse(values, recognise(values, named=True)).to_list() == [
        1_099_502_751 * SECOND,
        1_099_502_751 * SECOND + SECOND // 4,
        1_099_502_752 * SECOND,
    ]


@pytest.mark.parametrize(
    "values",
    [
        [2_053_013_555_631_882_655, 2_053_013_563_000_000_000],  # category ids
        [214_500_009, 214_500_024],  # item ids
        [1, 2, 3],
        [99.5, 100.25],
        ["2.5.1", "10.0.1"],  # versions
        ["10.1", "11.3"],
        ["1-2", "3-4"],
        ["Mon", "Tue"],
        ["May 5 apples", "June 3 pears"],
        ["20211399", "20219901"],  # no months
        ["2021-13-01", "2021-02-30"],
        ["i2020-01-01", "i2020-01-02"],
        ["A 1 b 2021", "B 2 c 2020"],
    ],
)
def test_what_is_no_time(values):
    kind = recognise(pl.Series(values), named=False)
    assert kind is None or parse(pl.Series(values), kind).null_count() == len(values)


MIXED = {
    "digits and dates": ["20210101", "2020-12-31", "20201230"],
    "seconds and milliseconds": ["1609200000", "1609200000000", "1609200001"],
    "seconds and zeros": ["1609200000", "1609200300", "0", "1609200500"],
    "dates and words": ["2020-01-01", "2020-01-02", "yesterday"],
    "day.month and year-month": ["2020-01-13", "13.1.2020", "2020-02-01"],
    "numbers and words": ["5", "6", "noon"],
    "dates and times of day": ["2020-01-01", "10:00", "2020-01-02"],
    "Twitter and ISO": ["Tue Apr 03 18:00:09 +0000 2012", "2012-04-03T18:00:09Z"],
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_writings_are_refused_with_two_lines(tmp_path, name):
    stamps = MIXED[name]
    rows = [(f"u{k % 4}", f"i{k % 5}", stamps[k % len(stamps)]) for k in range(24)]
    path = write(tmp_path, table(rows, ["user", "item", "date"]))
    with pytest.raises(DataError, match=r"date mixes times: .* line \d+ .* line \d+ ") as refused:
        read_interactions(path)
    # The way out is the order of the file.
    flags = remedies(refused.value)[-1]
    expected = {}
    for user, item, _ in rows:
        expected.setdefault(user, []).append(item)
    assert run_as_printed(path, flags) == expected


def test_zeros_for_missing_times_are_left_out_as_printed(tmp_path):
    rows = [(u, i, 0 if k % 9 == 0 else t) for k, (u, i, t) in enumerate(LOG.rows)]
    path = write(tmp_path, table(rows, ["user", "item", "time"]))
    with pytest.raises(DataError, match="time mixes times") as refused:
        read_interactions(path)
    expected = make_log()
    expected.rows = [row for row in rows if row[2]]
    assert run_as_printed(path, remedies(refused.value)[0]) == expected.sequences


def test_one_odd_time_far_down_is_named(tmp_path):
    rows = [(f"u{k % 7}", f"i{k % 5}", 1_600_000_000 + k) for k in range(12_000)]
    for odd in ("1600000000000", "noon", "2020-01-01", "12"):
        rows[11_990] = ("u1", "i1", odd)
        path = write(tmp_path, table(rows, ["user", "item", "time"]))
        with pytest.raises(DataError, match=rf"line 11992: timestamp '{odd}' .*in .*line 2;"):
            read_interactions(path)


AMBIGUOUS = ["01/02/2020 10:00", "03/04/2020 11:30", "05/06/2020 09:15", "02/01/2020 23:00"]


@pytest.mark.parametrize("separator", ["/", "-"])
def test_dates_that_could_be_both_ask(tmp_path, separator):
    stamps = [stamp.replace("/", separator) for stamp in AMBIGUOUS]
    rows = [("u", f"i{k}", stamp) for k, stamp in enumerate(stamps)] + [("v", "i0", stamps[0])] * 2
    path = write(tmp_path, table(rows, ["user", "item", "date"]))
    with pytest.raises(DataError, match="tells the day from the month") as refused:
        read_interactions(path)
    day, month = remedies(refused.value)
    assert run_as_printed(path, day)["u"] == ["i3", "i0", "i1", "i2"]  # 2 January, 1 February, ...
    assert run_as_printed(path, month)["u"] == ["i0", "i3", "i1", "i2"]


def test_a_format_that_is_told_holds(tmp_path):
    rows = [
        ("u", "a", "1 of 2 in 2020"),
        ("u", "b", "3 of 1 in 2020"),
        ("v", "a", "1 of 1 in 2020"),
    ]
    path = write(tmp_path, table(rows, ["user", "item", "date"]))
    assert read(path, time_format="%d of %m in %Y")["u"] == ["b", "a"]
    for wrong, message in (
        ("%d of %Q", "%Q is not known"),
        ("%d of %m", "expected a format with year, month and day"),
        ("%d/%m/%Y", "timestamp '1 of 2 in 2020' does not belong"),
    ):
        with pytest.raises(DataError, match=message):
            read_interactions(path, time_format=wrong)
    numbers = [("u", "a", 1_600_000_000_000), ("u", "b", 5), ("v", "a", 7)]
    path = write(tmp_path, table(numbers, ["user", "item", "time"]))
    assert read(path, time_format="number")["u"] == ["b", "a"]


def two_columns(rows, date, clock):
    return [(u, i, date(EPOCH + timedelta(seconds=t)), clock(EPOCH + timedelta(seconds=t)))
            for u, i, t in rows]  # fmt: skip


@pytest.mark.parametrize("header", [["user", "item", "date", "time"], ["u", "i", "d", "t"], None])
@pytest.mark.parametrize("clock", ["%H:%M:%S", "%H:%M", "%I:%M:%S %p"])
def test_date_and_time_of_day_in_two_columns(tmp_path, header, clock):
    rows = two_columns(
        LOG.rows, lambda m: m.strftime("%Y-%m-%d"), lambda m: m.strftime(clock)
    )  # fmt: skip
    columns = ["u", "i", "-", "d+t"] if header and header[0] == "u" else None
    path = write(tmp_path, table(rows, header))
    log = read_interactions(path, columns)
    expected = [
        nanoseconds((EPOCH + timedelta(seconds=t)).replace(second=0 if clock == "%H:%M" else
                    (EPOCH + timedelta(seconds=t)).second)) for _, _, t in LOG.rows
    ]  # fmt: skip
    assert log.frame["timestamp"].to_list() == expected


def test_a_time_of_day_alone_is_no_order(tmp_path):
    rows = [(u, i, (EPOCH + timedelta(seconds=t)).strftime("%H:%M")) for u, i, t in LOG.rows]
    path = write(tmp_path, table(rows, ["user", "item", "time"]))
    with pytest.raises(DataError, match="time of day without the date") as refused:
        read_interactions(path)
    assert run_as_printed(path, remedies(refused.value)[0])


def test_parquet_has_times_of_its_own(tmp_path):
    some = [moment for moment in moments(size=30)]
    for dtype, cut in (("datetime[ns]", 1), (pl.Datetime("ms"), 10**6), (pl.Datetime("us"), 1)):
        dtype = pl.Datetime("ns") if dtype == "datetime[ns]" else dtype
        frame = pl.DataFrame(
            {
                "user": ["a", "b", "c"] * 10,
                "item": ["x", "y"] * 15,
                "at": pl.Series(some).cast(dtype),
            }
        )
        frame.write_parquet(tmp_path / "log")
        log = read_interactions(tmp_path / "log")
        expected = [nanoseconds(moment) // cut * cut for moment in some]
        assert log.frame["timestamp"].to_list() == expected
    dates = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "day": [EPOCH.date()] * 2})
    dates.write_parquet(tmp_path / "log")
    assert read_interactions(tmp_path / "log").frame["timestamp"].to_list() == [0, 0]
