"""A run as an engine."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rka_fast.data.sequences import UserItems
from rka_fast.errors import DataError
from rka_fast.recommending.histories import Histories, everybody
from rka_fast.recommending.options import Options, Shown
from rka_fast.run import Run
from rka_fast.serving.engine import Asked, Engine, Listed, cut


class RunEngine(Engine):
    """The best epoch of a run, with its data. Raises what `Run` raises.

    ann: find items by approximate search.
    """

    def __init__(self, folder: Path, ann: bool = False) -> None:
        self.run = run = Run.load(folder)
        super().__init__(
            run.config.model,
            run.sequences.item_ids,
            run.config.seen == "hide",
            run.batcher.split.train_counts()[1:],
        )
        self.reads_times = run.model.uses_times
        self.ranker = run.ranker(Options(seen="keep", ann=ann))
        if ann:
            hiding = copy.copy(self.ranker)
            hiding.shown = Shown(hiding.shown.candidates, self.hides_seen)
            self.notes = [hiding.recall_note(everybody(run.sequences, time.time()))]

    def user(self, name: str) -> tuple[int, np.ndarray, np.ndarray | None]:
        sequences = self.run.sequences
        number = sequences.user_index(name)
        times = None
        if self.reads_times:
            times = sequences.timestamps[sequences.indptr[number] : sequences.indptr[number + 1]]
        return number, sequences.sequence(number).astype(np.int64), times

    def _vectors(self) -> np.ndarray:
        if not self.run.model.has_vectors:
            raise DataError(f"a run of {self.model} has no item vectors")
        return self.run.model.item_vectors()[1:].detach().float().cpu().numpy()

    def _rank(self, asked: Sequence[Asked]) -> list[Listed]:
        histories = Histories(
            pl.Series([""] * len(asked), dtype=pl.String),
            np.array([of.user for of in asked]),
            np.cumsum([0, *(len(of.history) for of in asked)]),
            np.concatenate([of.history for of in asked]),
            np.concatenate([_times(of) for of in asked]) if self.reads_times else None,
            time.time(),
        )
        rows = np.repeat(np.arange(len(asked)), [len(of.hidden) for of in asked])
        hidden = np.concatenate([of.hidden for of in asked])
        ranker = copy.copy(self.ranker)
        excluded = UserItems(rows, hidden, len(asked), len(self.ids))
        ranker.shown = Shown(ranker.shown.candidates, False, excluded)
        ranker.options = dataclasses.replace(ranker.options, top=max(of.top for of in asked))
        top = ranker(histories)
        rows = zip(top.scores, top.items, asked, strict=True)
        return [cut(scores, items, of.top, self.model) for scores, items, of in rows]


def _times(of: Asked) -> np.ndarray:
    assert of.times is not None  # as `reads_times` asked for
    return of.times
