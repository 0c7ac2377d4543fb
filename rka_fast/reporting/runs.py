"""Run folders as they are read for a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rka_fast.data.sequences import Sequences
from rka_fast.data.split import Split
from rka_fast.data.split_rules import SPLITS
from rka_fast.errors import ConfigError
from rka_fast.training.assemble import split_options
from rka_fast.training.config import Config
from rka_fast.training.curves import Curve, curve_of
from rka_fast.training.metrics_log import read_lines
from rka_fast.training.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class ReadRun:
    """A run: its settings, data and, once it has ended, its result (None before)."""

    name: str
    folder: RunFolder
    config: Config
    description: dict[str, Any]
    sequences: Sequences
    result: dict[str, Any] | None

    @cached_property
    def split(self) -> Split:
        return SPLITS[self.config.split](self.sequences, split_options(self.config))

    @property
    def tested(self) -> bool:
        """Whether there are ranks and lists of test targets."""
        return self.result is not None and "test" in self.result

    @cached_property
    def curve(self) -> Curve:
        return curve_of(read_lines(self.folder.log), self.config, self.result)

    @cached_property
    def ranks(self) -> dict[str, np.ndarray]:
        return self.folder.read_ranks()

    @cached_property
    def lists(self) -> np.ndarray:
        """What was shown for each test target, int32 (targets, 10), 0 = none."""
        return self.folder.read_lists()[1]

    @cached_property
    def targets(self) -> tuple[str, bytes]:
        """Equal of two runs exactly when the data and the test targets are."""
        return self.sequences.digest(), self.split.targets("test").at.tobytes()


def read_runs(paths: Sequence[str | os.PathLike]) -> list[ReadRun]:
    """The runs of some folders, by the shortest names that tell them apart.

    Raises FolderError, DataError or ConfigError where one cannot be read, and ConfigError for a
    folder that is given twice.
    """
    folders = [RunFolder.open(path) for path in paths]
    places = [folder.path.resolve() for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"{place} is given twice; give each run folder once")
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return [
        _read("/".join(place.parts[-depth:]), folder)
        for place, folder in zip(places, folders, strict=True)
    ]


def _read(name: str, folder: RunFolder) -> ReadRun:
    ended = folder.result.is_file()
    return ReadRun(
        name=name,
        folder=folder,
        config=folder.read_config(),
        description=folder.read_description(),
        sequences=folder.read_sequences(),
        result=folder.read_json("result.json") if ended else None,
    )
