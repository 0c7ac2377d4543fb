"""What is chosen by the size of the data where it was not given."""

from __future__ import annotations

import dataclasses

from rka_fast.models import MODELS
from rka_fast.training.config import Config

MANY_ITEMS = 50_000
"""Items above which cross-entropy over all of them is not what is chosen: it takes 2 s and 2.5 GB
a step at 100,000, sampled_ce with negatives shared by a sequence 13 ms and 74 MB
(benchmarks/results/losses-cpu.md)."""

SAMPLED = {"loss": "sampled_ce", "shared_negatives": "sequence"}
"""What is chosen then: negatives shared by a batch save no more time, and there are fewer."""


def with_loss_for(config: Config, num_items: int) -> tuple[Config, list[str]]:
    """The config, of which the loss was not given, with the loss for that many items.

    With lines for a person, none where the default stays.
    """
    losses = MODELS[config.model].losses
    if num_items <= MANY_ITEMS or config.loss != "ce" or SAMPLED["loss"] not in losses:
        return config, []
    line = (
        f"loss: sampled_ce with negatives shared by a sequence, chosen for {num_items:,} items "
        f"(above {MANY_ITEMS:,}); --loss ce compares with all of them"
    )
    return dataclasses.replace(config, **SAMPLED), [line]
