"""Reading a log beside polars.read_csv of the same lines: the ratio of both in one run.

pytest benchmarks/test_reading.py prints, for every form, the time of `read_interactions`, that of
`polars.read_csv`, which is told the separator and reads dates as such, and their ratio (medians
of pairs).
"""

import time

import numpy as np
import polars as pl
import pytest

from rka_fast.data.readers import read_interactions

EVENTS = 2_000_000
PAIRS = 5

FORMS = {  # separator, columns, header
    "CSV user,item,rating,time": (",", "uirt", False),
    "CSV with header": (",", "uirt", True),
    "TSV user,item,time": ("\t", "uit", False),
    "CSV user,item,date": (",", "uid", True),
    "spaces user item": (" ", "ui", False),
}


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {  # by user, and of each in order of time
        "u": np.sort(rng.integers(0, EVENTS // 20, EVENTS)),
        "i": rng.integers(0, EVENTS // 50, EVENTS),
        "r": rng.integers(1, 11, EVENTS) / 2,
        "t": 1_500_000_000 + 50 * np.arange(EVENTS),
        "d": pl.from_epoch(1_500_000_000 + 50 * pl.arange(EVENTS, eager=True)).dt.strftime(
            "%Y-%m-%d %H:%M:%S"
        ),
    }


@pytest.mark.parametrize("form", FORMS)
def test_reading(form, columns, tmp_path):
    separator, names, header = FORMS[form]
    words = {"u": "user", "i": "item", "r": "rating", "t": "timestamp", "d": "date"}
    frame = pl.DataFrame({words[name]: columns[name] for name in names})
    path = tmp_path / "log"
    frame.write_csv(path, separator=separator, include_header=header)

    def ours() -> pl.DataFrame:
        return read_interactions(path).frame

    def theirs() -> pl.DataFrame:
        return pl.read_csv(
            path, separator=separator, has_header=header, try_parse_dates="d" in names
        )

    assert len(ours()) == len(theirs()) == EVENTS
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(PAIRS)]
    ratio = sorted(a / b for a, b in pairs)[PAIRS // 2]
    mine, other = (sorted(times)[PAIRS // 2] for times in zip(*pairs, strict=True))
    print(f"\n{form}: {mine:.3f} s, polars.read_csv {other:.3f} s, ratio {ratio:.2f}")


def _seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
