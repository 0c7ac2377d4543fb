"""The rules that split a log: leave-one-out, two boundaries in time, files, or not at all."""

import dataclasses
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from rka_fast.data.sequences import Sequences, distinct
from rka_fast.data.split import MAX_COUNTED, NOBODY, STAGES, Split, Targets
from rka_fast.errors import DataError

BOUNDARIES = "0.8,0.9"
MOST_SCORES = 5 * 10**9
"""Scores, of a target and an item, up to which a pass of evaluation asks everybody by itself."""
_ASKED = {
    "first": "the first",
    "last": "the last",
    "random": "a random one",
    "successive": "each in turn",
}
TARGETS = tuple(_ASKED)


class SplitOptions(NamedTuple):
    """What a rule may be told.

    seen: what may be recommended, see `Split`. boundaries: when validation and test begin, two
    quantiles of the event times or two ISO dates (UTC). targets: which of a user's events of a
    period is asked for, or all of them. seed: of the random ones. max_counted: see `Split`.
    eval_users: how many users a stage asks, or "all"; None is all of them while that takes no more
    than `MOST_SCORES`, and beyond it a sample that does. of_shard: there is more data elsewhere, so
    that a stage may ask nobody.
    """

    seen: str = "hide"
    boundaries: str = BOUNDARIES
    targets: str = "first"
    seed: int = 0
    max_counted: int = MAX_COUNTED
    eval_users: int | str | None = None
    of_shard: bool = False


DEFAULT = SplitOptions()


def leave_one_out(sequences: Sequences, options: SplitOptions = DEFAULT) -> Split:
    """The last event of every user tests, the one before validates, the rest trains.

    Users with fewer than 3 events train only. Raises DataError where no user has 3.
    """
    end = sequences.indptr[1:].astype(np.int64)
    users = np.flatnonzero(sequences.lengths >= 3)
    if not len(users) and not options.of_shard:
        raise DataError(
            f"no user has 3 events (the longest of {sequences.num_users} has "
            f"{sequences.lengths.max(initial=0)}): leave-one-out needs one to train, one to "
            "validate and one to test; check which column is the user, or relax the filters"
        )
    return Split(
        sequences,
        train_end=np.where(sequences.lengths >= 3, end - 2, end),
        valid=Targets(users, end[users] - 2),
        test=Targets(users, end[users] - 1),
        seen=options.seen,
        max_counted=options.max_counted,
    )


def time_boundaries(sequences: Sequences, boundaries: str = BOUNDARIES) -> tuple[float, float]:
    """The times at which validation and test begin, in seconds since 1970.

    boundaries: two quantiles of all event times, or two ISO dates in UTC, comma-separated. Raises
    DataError where they are neither, or the data has no times.
    """
    if sequences.timestamps is None:
        raise DataError(
            "the time split needs the time of every event and this data has none; name the "
            "column with --columns user,item,rating,timestamp, or use --split leave-one-out"
        )
    parts = [part.strip() for part in boundaries.split(",")]
    for read in (_quantile, iso_seconds):
        found = [value for part in parts if (value := read(part)) is not None]
        if len(parts) == len(found) == 2 and found[0] < found[1]:
            break
    else:
        raise DataError(
            f"split_boundaries {boundaries!r}: expected two rising quantiles between 0 and 1, such "
            f"as {BOUNDARIES}, or two ISO dates, such as 2020-01-01,2020-07-01"
        )
    if read is _quantile:
        found = np.quantile(sequences.timestamps, found, method="higher").tolist()
    return found[0], found[1]


def _quantile(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 < value < 1.0 else None


def iso_seconds(text: str) -> float | None:
    """Seconds since 1970 of an ISO date, in UTC where it says no zone; None where it is none."""
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _when(time: float) -> str:
    """A time for a message, with its date where it is as large as seconds since 1970 are."""
    number = f"{time:.15g}"
    if not 1e8 <= time < 1e10:  # steps of the file's own, or far off
        return number
    date = datetime.fromtimestamp(time, timezone.utc)
    return f"{number} ({date:%Y-%m-%d %H:%M:%S} UTC)"


def time_split(sequences: Sequences, options: SplitOptions = DEFAULT) -> Split:
    """Two boundaries in time, the same for all users: what came before the first one trains.

    Events from the first boundary on, and before the second, validate; those from the second on
    test. Of a user's events in a period, options.targets asks for the first (if the user had a
    history when the period began: what the model would be asked on the day it was trained), the
    last, a random one, or each in turn (those with any history). The history is everything that
    the user had before the target. Leave-one-out instead trains on what other users did after a
    user's target (Meng et al., RecSys 2020; Ji et al., ACM TOIS 2023, whose remedy is one time
    line for all users; the choices of targets as in Gusak et al., "Time to Split", 2025).

    Raises DataError where the data has no times, or one of the stages has nobody.
    """
    if options.targets not in TARGETS:
        raise DataError(f"split_targets {options.targets!r}: expected one of {', '.join(TARGETS)}")
    boundaries = time_boundaries(sequences, options.boundaries)
    times = np.asarray(sequences.timestamps)
    if not (times < boundaries[0]).any() and not options.of_shard:
        raise DataError(
            f"no event is before {_when(boundaries[0])}, where validation begins, so there is "
            f"nothing to train on; the events are from {_when(times.min())} to "
            f"{_when(times.max())}: choose --split-boundaries between"
        )
    # Users are in time order, so what came before a boundary is a prefix of each.
    period = np.searchsorted(boundaries, times, side="right")
    return _by_periods(
        sequences,
        period,
        options,
        lambda stage: (
            f"no user has an event in the {stage} period and one before it (the periods begin at "
            f"{_when(boundaries[0])} and {_when(boundaries[1])}, the last event is at "
            f"{_when(times.max())}); check the column of the times, choose other "
            "--split-boundaries, use more data, or --split leave-one-out"
        ),
    )


def file_split(sequences: Sequences, options: SplitOptions = DEFAULT) -> Split:
    """A split of one's own: what stands in the files of validation and test is asked for.

    Of a user's events in a file, options.targets asks for the first, the last, a random one or
    each; the history is everything before it, the files in the order train, valid, test. Raises
    DataError where a stage has nobody with a history.
    """
    if sequences.parts is None:
        raise DataError("the data has no split of its own; give --valid FILE and --test FILE")
    return _by_periods(
        sequences,
        sequences.parts,
        options,
        lambda stage: (
            f"no user of the {stage} file has events in the files before it, so nothing can be "
            "predicted; check that the files have the same users"
        ),
    )


def no_split(sequences: Sequences, options: SplitOptions = DEFAULT) -> Split:
    """Everything trains and nothing is asked: for serving, when the settings are known."""
    end = sequences.indptr[1:].astype(np.int64)
    return Split(sequences, end, NOBODY, NOBODY, seen=options.seen, max_counted=options.max_counted)


def _by_periods(
    sequences: Sequences,
    period: np.ndarray,
    options: SplitOptions,
    nobody: Callable[[str], str],
) -> Split:
    """The split of events in periods, (events,): 0 trains, 1 validates, 2 tests, in this order.

    Raises DataError with what `nobody` says of a stage that asks nobody.
    """
    start, end = sequences.indptr[:-1].astype(np.int64), sequences.indptr[1:].astype(np.int64)
    owner, users = sequences.event_users, sequences.num_users
    valid, test = (start + np.bincount(owner[period < part], minlength=users) for part in (1, 2))
    split = Split(
        sequences,
        train_end=valid,
        valid=_of_period(start, valid, test, options, stage=0),
        test=_of_period(start, test, end, options, stage=1),
        future_hidden=True,
        seen=options.seen,
        max_counted=options.max_counted,
    )
    for stage in STAGES:
        if len(split.targets(stage).users) == 0 and not options.of_shard:
            raise DataError(nobody(stage))
    return split


def _of_period(
    start: np.ndarray, begin: np.ndarray, end: np.ndarray, options: SplitOptions, stage: int
) -> Targets:
    """The targets among the events begin..end of every user, whose events begin at start."""
    if options.targets == "first":
        users = np.flatnonzero((start < begin) & (begin < end))
        return Targets(users, begin[users])
    begin = np.maximum(begin, start + 1)  # without a history there is nothing to go by
    users = np.flatnonzero(begin < end)
    if options.targets == "last":
        return Targets(users, end[users] - 1)
    if options.targets == "random":
        rng = np.random.Generator(np.random.Philox(key=[options.seed % 2**64, stage]))
        return Targets(users, rng.integers(begin[users], end[users]))
    counts = end[users] - begin[users]
    rows = np.repeat(np.arange(len(users)), counts)
    return Targets(users[rows], np.arange(len(rows)) + (end[users] - np.cumsum(counts))[rows])


def sampled(split: Split, users: int | str | None) -> Split:
    """The split with the targets of a sample of users in each stage, by `SplitOptions.eval_users`.

    The sample is the same for every seed of a run and every model, so that they can be compared.
    """
    changed: dict[str, Any] = {}
    sampled_of = {}
    for number, stage in enumerate(STAGES):
        targets = split.targets(stage)
        asked = distinct(targets.users)
        most = _most_users(len(asked), len(targets.users) * split.sequences.num_items, users)
        if most < len(asked):
            rng = np.random.Generator(np.random.Philox(key=[0, number]))
            kept = np.isin(targets.users, rng.choice(asked, most, replace=False))
            changed[stage] = Targets(targets.users[kept], targets.at[kept])
            sampled_of[stage] = len(asked)
    return dataclasses.replace(split, **changed, sampled_of=sampled_of) if changed else split


def _most_users(asked: int, scores: int, wanted: int | str | None) -> int:
    """How many of the users that are asked, which takes `scores`, are to be."""
    if wanted == "all" or (wanted is None and scores <= MOST_SCORES):
        return asked
    return int(wanted) if wanted is not None else max(1, asked * MOST_SCORES // scores)


class SplitRule(NamedTuple):
    """A way to split: which events of any log train, validate and test.

    name: of the setting. title: in tables. rule: the rule in a sentence. make: of sequences and
    options. reads: the options beside `seen` and `seed` that mean something to it.
    """

    name: str
    title: str
    rule: str
    make: Callable[[Sequences, SplitOptions], Split]
    reads: tuple[str, ...] = ()

    def __call__(self, sequences: Sequences, options: SplitOptions = DEFAULT) -> Split:
        """The split of a log. Raises DataError where the rule cannot be followed."""
        return sampled(self.make(sequences, options), options.eval_users)

    def describe(
        self, sequences: Sequences, options: SplitOptions
    ) -> tuple[dict[str, Any], list[str]]:
        """What it came to on a log, as JSON-able facts and as lines for a person."""
        facts, lines = {}, []
        if "targets" in self.reads and options.targets != "first":
            facts["split_targets"] = options.targets
            asked = _ASKED[options.targets]
            lines.append(f"{self.title}: of a user's events of a period {asked} is asked for")
        if "boundaries" in self.reads:
            facts["boundaries"] = valid, test = time_boundaries(sequences, options.boundaries)
            lines.append(
                f"{self.title}: validation begins at {_when(valid)}, test at {_when(test)}"
            )
        return facts, lines


SPLITS: dict[str, SplitRule] = {
    rule.name: rule
    for rule in (
        SplitRule(
            "leave-one-out",
            "leave-one-out",
            "leave-one-out: a user's last event tests, the one before validates",
            leave_one_out,
        ),
        SplitRule(
            "time",
            "split by time",
            "by time: events before one point train, each user's next after it and after a second "
            "point validate and test",
            time_split,
            ("boundaries", "targets"),
        ),
        SplitRule(
            "files",
            "split by files",
            "by files: what stands in the files of validation and test is asked for",
            file_split,
            ("targets",),
        ),
        SplitRule(
            "none",
            "nothing held out",
            "none: everything trains, for serving with known settings",
            no_split,
        ),
    )
}
"""The splits by the name of the setting `split`."""

if TYPE_CHECKING:
    SplitName = str
else:  # those that compare models; so that a command line lists them
    SplitName = Literal[tuple(name for name in SPLITS if name not in ("files", "none"))]
