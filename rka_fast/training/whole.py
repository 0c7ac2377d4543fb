"""Training on all of the data in memory, of which every process takes its part of each batch."""

from __future__ import annotations

import functools

from accelerate import Accelerator

from rka_fast.data.batches import Batch
from rka_fast.data.counting import Counts
from rka_fast.data.sequences import Sequences
from rka_fast.training.assemble import assemble
from rka_fast.training.config import Config
from rka_fast.training.devices import shard
from rka_fast.training.evaluator import Evaluator


class Whole:
    """The parts of a run: split, model and evaluator, and its batches step by step.

    counts: of the training events, where they are known already.
    """

    loading = 0.0  # seconds of an epoch that go into reading data

    def __init__(
        self, config: Config, sequences: Sequences, counts: Counts | None, accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.split, self.model, self.batcher = assemble(config, sequences, counts)
        self.evaluator = Evaluator(config, self.split, self.batcher, accelerator)
        self._order = functools.lru_cache(1)(self.batcher.epoch_order)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that cover every training user. Raises DataError where there is nobody."""
        self._order(0)
        return self.batcher.steps_per_epoch(self.config.batch_size or 1)

    def batch(self, step: int, steps: int) -> tuple[Batch, float]:
        """This process's part of the batch of a step, and the weight of its mean loss.

        steps: those of an epoch.
        """
        epoch, position = divmod(step, steps)
        size = self.config.batch_size or 1
        users = self._order(epoch)[position * size : (position + 1) * size]
        batch = self.batcher.training(users, step)
        return shard(batch, self.accelerator.process_index, self.accelerator.num_processes)
