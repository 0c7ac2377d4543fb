"""What is asked for in evaluation, as facts and as lines for a person, with what is doubtful."""

from typing import Any

from rka_fast.data.batches import NEGATIVES
from rka_fast.data.sequences import distinct
from rka_fast.data.split import STAGES, Split

FEW = 200  # users under which a mean says little
OFTEN = 0.05  # share of targets had before from which hiding them should be thought over


def describe_targets(split: Split) -> tuple[dict[str, Any], list[str]]:
    """JSON-able facts about the targets of both stages, and the report's lines."""
    users = {stage: len(distinct(split.targets(stage).users)) for stage in STAGES}
    rows = {stage: len(split.targets(stage).users) for stage in STAGES}
    had = {stage: float(split.had(stage).mean()) if rows[stage] else 0.0 for stage in STAGES}
    facts: dict[str, Any] = {"targets": rows, "target_users": users, "targets_had": had}
    lines = [evaluated_line(rows, users)] if any(rows.values()) else []
    if split.sampled_of:
        facts["sampled_of"] = dict(split.sampled_of)
        of = ", ".join(f"{number:,} in {stage}" for stage, number in split.sampled_of.items())
        lines.append(
            f"evaluated: a sample of the users ({of}), the same for every seed and model; the "
            "intervals are of the sample; --eval-users N or all takes another number"
        )
    return {"evaluation": facts}, [*lines, *_doubts(split, facts)]


def evaluated_line(rows: dict[str, int], users: dict[str, int]) -> str:
    """How many targets and users the stages have."""
    counts = (
        f"{rows[stage]:,} {'users' if rows[stage] == users[stage] else 'targets of'}"
        + ("" if rows[stage] == users[stage] else f" {users[stage]:,} users")
        for stage in STAGES
    )
    validation, test = counts
    return f"evaluated: {validation} in validation, {test} in test"


def warnings_of(evaluation: dict[str, Any], seen: str) -> list[str]:
    """What is doubtful about scores of the targets that `describe_targets` told of."""
    found = []
    if 0 < (users := evaluation["target_users"]["test"]) < FEW:
        found.append(
            f"warning: only {users:,} users are tested: look at the intervals; differences inside "
            "them mean nothing"
        )
    if seen == "hide" and (had := evaluation["targets_had"]["test"]) > OFTEN:
        found.append(
            f"warning: {had:.1%} {_HAD} and count as misses, since what was had is never shown; "
            "where people come back to items, --seen keep makes every item a candidate"
        )
    return found


_HAD = "of the test targets were had before by their user"


def _doubts(split: Split, evaluation: dict[str, Any]) -> list[str]:
    lines, had = warnings_of(evaluation, split.seen), evaluation["targets_had"]["test"]
    if split.seen == "keep" and had > 0:
        lines.append(f"{had:.1%} {_HAD}; they may be shown again (--seen keep)")
    elif 0 < had <= OFTEN:
        lines.append(f"{had:.1%} {_HAD} and count as misses (--seen hide)")
    free = split.sequences.num_items - split.no_candidates("test").distinct
    if (short := int((free < NEGATIVES).sum())) and len(free):
        lines.append(
            f"{short:,} of the {len(free):,} test targets are ranked against fewer than "
            f"{NEGATIVES} sampled negatives, all that are left (the fewest: {free.min()})"
        )
    return lines
