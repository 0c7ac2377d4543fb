"""From the settings to the data they name."""

from __future__ import annotations

from typing import Any

from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.readers import read_interactions
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import time_boundaries
from rka_fast.data.synthetic import synthetic
from rka_fast.training.config import Config


def load_data(config: Config) -> tuple[Sequences, dict[str, Any], list[str]]:
    """Read, filter and index the data of a config.

    Returns the sequences, a JSON-able description, and the report's lines for a person. Raises
    DataError for input that cannot be used.
    """
    if is_synthetic := config.data == "synthetic":
        interactions = synthetic()
    else:
        interactions = read_interactions(config.data, config.column_names)
    filters = Filters(
        min_rating=config.min_rating,
        repeats=config.repeats,
        core=config.core,
        min_user_events=config.min_user_events,
        min_item_events=config.min_item_events,
    )
    sequences, report = build_sequences(interactions, filters)
    description = {
        "source": config.data,
        "synthetic": is_synthetic,
        "split": config.split,
        **report.to_json(),
    }
    lines = [f"data: {config.data}", *report.lines()]
    if config.split == "time":
        description["boundaries"] = valid, test = time_boundaries(sequences)
        lines.append(f"split by time: validation begins at {valid:.15g}, test at {test:.15g}")
    return sequences, description, lines
