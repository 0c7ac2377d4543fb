"""Where training stands, and the checkpoints that a run is taken up from."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch.optim.swa_utils import AveragedModel

from rka_fast.data.sequences import Sequences
from rka_fast.errors import CheckpointError, FolderError
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.config import Config
from rka_fast.training.metrics_log import read_lines, state_of
from rka_fast.training.run_folder import RunFolder


@dataclass
class Progress:
    """Where training stands: with the weights, all that a resumed run needs."""

    step: int = 0  # steps done
    best_epoch: int = 0
    best_score: float = -1.0
    stale: int = 0  # evaluations since the best one
    train_seconds: float = 0.0
    eval_seconds: float = 0.0

    def seconds(self, epochs: int) -> dict[str, float]:
        """What was spent, by what for. epochs: those that are done."""
        return {
            "train": self.train_seconds,
            "eval": self.eval_seconds,
            "per_epoch": self.train_seconds / epochs if epochs else 0.0,
        }

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Progress:
        """What a checkpoint tells. Raises CheckpointError where it is not one."""
        try:
            progress = cls(**checkpoint.meta["progress"])
            if not all(math.isfinite(value) for value in asdict(progress).values()):
                raise ValueError("a number is not finite")
            return progress
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {checkpoint.path} is damaged: it does not tell the progress "
                f"({error}); restore it from a copy or start the run again with another --out"
            ) from None


class State(NamedTuple):
    """What a checkpoint keeps: of the best one the model alone."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer | None = None
    average: AveragedModel | None = None


class Checkpoints:
    """The last and the best checkpoint of one run, of its settings, its data and its items."""

    def __init__(self, folder: RunFolder, config: Config, sequences: Sequences) -> None:
        self.folder, self.config = folder, config
        self.catalogue, self.data = sequences.fingerprint(), sequences.digest()

    def load(self, path: Path) -> Checkpoint:
        """Read one. Raises CheckpointError unless it is whole and of this run."""
        checkpoint = Checkpoint.load(path, self.catalogue)
        checkpoint.check_run(self.config, self.data)
        return checkpoint

    def last(
        self, model: torch.nn.Module, steps_per_epoch: int
    ) -> tuple[Checkpoint, Progress] | None:
        """The last one and how far it is; None where the run was stopped before the first.

        model: what the best one has to fit, too. Raises CheckpointError or FolderError where what
        going on needs is lost, damaged or of another run.
        """
        if not self.folder.last.exists():
            return self._refuse_lost(steps_per_epoch)
        checkpoint = self.load(self.folder.last)
        progress = Progress.of(checkpoint)
        if progress.best_score >= 0:
            best = self.load(self.folder.best)
            best.load_into(model)  # whether it would fit at the end
            if Progress.of(best).step < progress.best_epoch * steps_per_epoch:
                raise CheckpointError(
                    f"{self.folder.best} is of an earlier step than the best one that "
                    f"{self.folder.last} knows; restore it from a copy or start the run again "
                    "with another --out"
                )
        return checkpoint, progress

    def _refuse_lost(self, steps_per_epoch: int) -> None:
        """Raise CheckpointError where there has been a checkpoint, which is gone."""
        steps = max((line["step"] for line in read_lines(self.folder.log)), default=0)
        if steps > steps_per_epoch or self.folder.result.exists():
            raise CheckpointError(
                f"there is no {self.folder.last}, though {self.folder.log} tells of {steps} steps; "
                f"restore it from a copy, or delete {self.folder.log} and {self.folder.result} to "
                "train from the start again"
            )

    def save(
        self,
        path: Path,
        progress: Progress,
        state: State,
        scaler: torch.amp.GradScaler | None,
        log: IO[str] | None,
    ) -> None:
        """Write one. What is logged is on the disk before it, never behind it."""
        if log is not None:
            log.flush()
            os.fsync(log.fileno())
        checkpoint = Checkpoint(
            model=state.model.state_dict(),
            optimizer=None if state.optimizer is None else state.optimizer.state_dict(),
            average=None if state.average is None else state.average.module.state_dict(),
            meta={
                "progress": asdict(progress),
                "config": self.config.to_json(),
                "data": self.data,
                "log": state_of(self.folder.log) if log is not None else None,
                "scaler": scaler.state_dict() if scaler else None,
            },
            catalogue=self.catalogue,
        )
        try:
            checkpoint.save(path)
        except FolderError as error:
            raise FolderError(f"{error}; {self.go_on()}") from None

    def kept(self) -> str:
        """What a person still has when training cannot go on."""
        kept = next((path for path in (self.folder.last, self.folder.best) if path.exists()), None)
        if kept is None:
            return "no checkpoint had been written yet"
        return f"the last good checkpoint is kept in {kept}"

    def go_on(self) -> str:
        """The same, and what to do where the reason can be mended."""
        command = f"rka-fast train --resume {shlex.quote(str(self.folder.path))}"
        return f"{self.kept()}; mend this and go on with: {command}"
