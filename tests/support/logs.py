"""Small logs of which the right reading is known, written in many forms."""

import csv
import io
import re
import shlex
from dataclasses import dataclass

import numpy as np

from rka_fast.data.filters import build_sequences
from rka_fast.data.readers import read_interactions
from rka_fast.training.assemble import load_data
from rka_fast.training.flags import parse

_NAMES = "columns|form|time-format|max-missing|max-unpacked|where"
FLAGS = re.compile(rf"--(?:{_NAMES}) (?:'[^']*'|\"[^\"]*\"|[^\s;:'\"])+")


@dataclass
class Log:
    """Users' items in order, and the rows (user, item, seconds) shuffled unless said."""

    rows: list[tuple[str, str, int]]

    @property
    def sequences(self) -> dict[str, list[str]]:
        """What every reading must give."""
        found: dict[str, list[tuple[int, str]]] = {}
        for user, item, time in self.rows:
            found.setdefault(user, []).append((time, item))
        return {user: [item for _, item in sorted(events)] for user, events in found.items()}


def make_log(seed=0, users=40, items=23, length=8, user="u{}", item="i{}", shuffled=True) -> Log:
    """Random histories over some months; times of one user differ by minutes to days."""
    rng = np.random.default_rng(seed)
    rows = []
    for u in range(users):
        times = (
            1_600_000_000 + int(rng.integers(10**7)) + np.cumsum(rng.integers(60, 86_400, length))
        )
        for time in times:
            rows.append((user.format(u), item.format(int(rng.integers(items))), int(time)))
    if shuffled:
        rng.shuffle(rows)
    return Log([(str(u), str(i), int(t)) for u, i, t in rows])


def table(rows, header=None, separator=",", end="\n") -> str:
    """Delimited text, quoted where it must be."""
    if len(separator) > 1 or separator == " ":
        return "".join(
            separator.join(map(str, row)) + end for row in ([header] if header else []) + rows
        )
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerows(([header] if header else []) + list(rows))
    return file.getvalue()


def write(folder, content, name="log"):
    """A file with this content."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, **options) -> dict[str, list[str]]:
    """Every user's items in order, as the readers have them."""
    return by_user(build_sequences(read_interactions(path, **options))[0])


def by_user(sequences) -> dict[str, list[str]]:
    """Every user's item ids in order."""
    return {
        name: [sequences.item_id(i) for i in sequences.sequence(u)]
        for u, name in enumerate(sequences.user_ids)
    }


def remedies(message) -> list[str]:
    """The flags that a refusal prints, each a way to read the file."""
    return FLAGS.findall(str(message))


def run_as_printed(path, flags) -> dict[str, list[str]]:
    """What the command gives with the flags of a refusal, typed as they are printed."""
    config = parse(["--data", str(path), *shlex.split(flags)]).config
    return by_user(load_data(config)[0])
