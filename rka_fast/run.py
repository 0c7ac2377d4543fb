"""Training and recommending from Python: `run = fit("log.csv", model="rksa", epochs=20)`."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import polars as pl

from rka_fast.data.readers import Interactions
from rka_fast.recommend import Recommendations
from rka_fast.train import train
from rka_fast.training.assemble import read_log
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.config import Config
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

FRAME = "frame"
"""What a run says its data was, where it came as a data frame."""


def fit(
    data: str | os.PathLike | Iterable[str | os.PathLike] | pl.DataFrame | pd.DataFrame,
    **settings: Any,
) -> Run:
    """Train a model on a log, as `rka-fast train` does, and return the run of the best epoch.

    data: a file, a folder or files, in any form that the command reads, or a polars or pandas data
        frame with such columns.
    settings: those of `Config`: model="sasrec", out="runs/mine", epochs=20 and so on.

    Raises ConfigError, DataError, FolderError or TrainingError like the command.
    """
    interactions = None
    if isinstance(data, (str, os.PathLike)):
        source = str(data)
    elif _is_frame(data):
        source = FRAME
        interactions = _interactions(data, Config(data=FRAME, **settings))
    else:
        source = ",".join(map(str, data))
    config = Config(data=source, **settings)
    train(config, interactions=interactions)
    return Run.load(config.run_dir)


class Run(Recommendations):
    """A trained model with the data it was trained on, as a run folder has them.

    config: its settings. sequences: the data. model: with the weights of the best epoch.
    """

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str = "cpu") -> Run:
        """The run in a folder that `fit` or `rka-fast train` made.

        Raises FolderError, CheckpointError, ConfigError or DataError where it cannot be used.
        """
        return cls(folder, device)

    def recommend(
        self,
        of: str | Sequence[str],
        top: int = 10,
        *,
        times: Sequence[float] | None = None,
        at: float | None = None,
    ) -> list[tuple[str, float]]:
        """The best items that were not had, as (item id, score), the best first.

        of: the id of a user of the data, or the item ids of anyone's history, oldest first.
        times, at: as in `for_history`, read by models with time_bias; a user of the data has times.
        Raises DataError for ids that are not in the data.
        """
        if isinstance(of, str):
            return self.for_user(of, top, at)
        return self.for_history(of, top, times, at)

    def evaluate(self, stage: str = "test") -> dict[str, dict[str, float]]:
        """Metrics by ranking, "sampled" and "full", of the targets of "valid" or "test"."""
        folder = RunFolder(self.folder)
        config = dataclasses.replace(self.config, device=str(self.device))
        trainer = Trainer(config, self.sequences, folder, self.description, quiet=True)
        Checkpoint.load(folder.best, trainer.checkpoints.catalogue).load_into(trainer.evaluated)
        return trainer.evaluate(stage)


def _is_frame(data: object) -> TypeGuard[pl.DataFrame | pd.DataFrame]:
    return hasattr(data, "columns")


def _interactions(frame: pl.DataFrame | pd.DataFrame, config: Config) -> Interactions:
    """What the reader makes of a data frame, as of a Parquet file with its columns."""
    if not isinstance(frame, pl.DataFrame):
        frame = pl.DataFrame({name: frame[name].to_list() for name in frame.columns})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frame.parquet"
        frame.write_parquet(file)
        return read_log(config, file)
