"""What is asked for in evaluation, as facts and as lines for a person, with what is doubtful."""

from typing import Any

import numpy as np

from rka_fast.data.batches import NEGATIVES
from rka_fast.data.split import STAGES, Split

FEW = 200  # users under which a mean says little
OFTEN = 0.05  # share of targets had before from which hiding them should be thought over


def describe_targets(split: Split) -> tuple[dict[str, Any], list[str]]:
    """JSON-able facts about the targets of both stages, and the report's lines."""
    users = {stage: len(np.unique(split.targets(stage).users)) for stage in STAGES}
    rows = {stage: len(split.targets(stage).users) for stage in STAGES}
    had = {stage: float(split.had(stage).mean()) if rows[stage] else 0.0 for stage in STAGES}
    facts: dict[str, Any] = {"targets": rows, "target_users": users, "targets_had": had}
    lines = [_line(rows, users)] if any(rows.values()) else []
    return {"evaluation": facts}, [*lines, *_doubts(split, users, had)]


def _line(rows: dict[str, int], users: dict[str, int]) -> str:
    counts = (
        f"{rows[stage]:,} {'users' if rows[stage] == users[stage] else 'targets of'}"
        + ("" if rows[stage] == users[stage] else f" {users[stage]:,} users")
        for stage in STAGES
    )
    validation, test = counts
    return f"evaluated: {validation} in validation, {test} in test"


def _doubts(split: Split, users: dict[str, int], had: dict[str, float]) -> list[str]:
    lines = []
    if 0 < users["test"] < FEW:
        lines.append(
            f"warning: only {users['test']:,} users are tested: look at the intervals; differences "
            "inside them mean nothing"
        )
    if had["test"] > 0:
        share = f"{had['test']:.1%} of the test targets were had before by their user"
        if split.seen == "keep":
            lines.append(f"{share}; they may be shown again (--seen keep)")
        elif had["test"] > OFTEN:
            lines.append(
                f"warning: {share} and count as misses, since what was had is never shown; where "
                "people come back to items, --seen keep makes every item a candidate"
            )
        else:
            lines.append(f"{share} and count as misses (--seen hide)")
    free = split.sequences.num_items - split.no_candidates("test").distinct
    if (short := int((free < NEGATIVES).sum())) and len(free):
        lines.append(
            f"{short:,} of the {len(free):,} test targets are ranked against fewer than "
            f"{NEGATIVES} sampled negatives, all that are left (the fewest: {free.min()})"
        )
    return lines
