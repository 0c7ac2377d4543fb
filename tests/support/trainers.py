"""Trainings that are broken off at a step, and what of them must not depend on it."""

import os
import signal

import pytest

from rka_fast.errors import Interrupted
from rka_fast.training.metrics_log import read_lines


def break_at(trainer, step, action):
    """Let `action` see the loss parts of training step `step`, the first being 1."""
    compute, steps = trainer.model.training_loss, [trainer.progress.step]

    def training_loss(batch, loss):
        parts = compute(batch, loss)
        steps[0] += 1
        return action(parts) if steps[0] == step else parts

    trainer.model.training_loss = training_loss


def stopped(trainer_for, steps, *flags):
    """The trainer of the run "parts" with these flags, which was stopped at each step."""
    for step in steps:
        trainer = trainer_for("parts", *flags)
        break_at(trainer, step, lambda loss: os.kill(os.getpid(), signal.SIGTERM) or loss)
        with pytest.raises(Interrupted):
            trainer.run()
    return trainer_for("parts", *flags)


def lines(trainer, key):
    return [
        {name: line[name] for name in ("step", key)}
        for line in read_lines(trainer.folder.log)
        if key in line
    ]


def without_seconds(result):
    config = {**result["config"], "out": None}
    return {**result, "seconds": None, "config": config}
