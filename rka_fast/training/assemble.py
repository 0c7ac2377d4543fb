"""From the settings to the data they name, and to what is trained and asked on it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import polars as pl

from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import PAIR_BYTES, CoOccurrence
from rka_fast.data.counting import STORED, Counts, counts_of, describe_counts
from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.item_features import read_item_features, with_features
from rka_fast.data.joining import joined
from rka_fast.data.readers import Interactions, read_interactions
from rka_fast.data.sequences import Sequences
from rka_fast.data.shards import Prepared
from rka_fast.data.split import Split
from rka_fast.data.split_rules import SPLITS, SplitOptions
from rka_fast.data.synthetic import synthetic
from rka_fast.data.targets import describe_targets
from rka_fast.errors import ConfigError, DataError
from rka_fast.models import MODELS, Recommender
from rka_fast.training.config import Config
from rka_fast.training.run_folder import RunFolder


def load_data(
    config: Config,
    given: Mapping[str, Interactions] | None = None,
    features: pl.DataFrame | None = None,
) -> tuple[Sequences, dict[str, Any], list[str]]:
    """Read, filter and index the data of a config.

    given: what was read already, by the name of the setting: data, valid, test. features: of the
        items, in place of the file that the settings name.

    Returns the sequences, a JSON-able description, and the report's lines for a person. Raises
    DataError for input that cannot be used.
    """
    if config.stream:
        raise ConfigError("stream is of rka-fast train alone; leave it out")
    given = given or {}
    if "data" not in given and Prepared.is_one(config.data):
        return load_prepared(config, Prepared.open(config.data), features)
    Prepared.refuse_unfinished(config.data)
    is_synthetic = config.data == "synthetic"
    if is_synthetic:
        interactions = synthetic()
    else:
        interactions = given.get("data") or read_log(config, config.data)
    if config.valid is not None and config.test is not None:
        others = [
            given.get(name) or read_log(config, path)
            for name, path in (("valid", config.valid), ("test", config.test))
        ]
        interactions = pooled([interactions, *others])
    filters = filters_of(config)
    old, there = None, 0
    if config.from_run is not None:
        old = RunFolder.open(config.from_run).read_sequences()
        interactions, there = joined(old, interactions, filters)
        # What these drop is dropped, among the new events alone.
        filters = dataclasses.replace(
            filters, min_rating=None, min_user_events=1, min_item_events=1
        )
    passed = is_synthetic or "data" in given  # others may use them again
    sequences, report = build_sequences(interactions, filters, consume=not passed)
    description = {
        "source": config.data,
        "synthetic": is_synthetic,
        "split": config.split,
        **report.to_json(),
    }
    lines = [f"data: {config.data}", *report.lines()]
    if old is not None:
        description["from"] = added = {
            "run": config.from_run,
            "events": len(old.items),
            "new_events": len(sequences.items) - len(old.items),
            "new_users": sequences.num_users - old.num_users,
            "new_items": len(set(sequences.item_ids) - set(old.item_ids)),
            "there_already": there,
        }
        lines.append(
            f"from {config.from_run}: its {added['events']:,} events, and new ones: "
            f"{added['new_events']:,} events, {added['new_users']:,} users, "
            f"{added['new_items']:,} items ({there:,} events were there already)"
        )
    return _described(config, sequences, description, lines, features)


def load_prepared(
    config: Config, prepared: Prepared, features: pl.DataFrame | None = None
) -> tuple[Sequences, dict[str, Any], list[str]]:
    """The same of a folder of prepared data, all of it in memory."""
    refuse_other_settings(config, prepared)
    description, lines = describe_prepared(config, prepared)
    return _described(config, prepared.sequences(), description, lines, features)


def with_prepared(config: Config) -> Config:
    """The config with the settings that its data was prepared with, if it is prepared.

    Raises ConfigError where it has others.
    """
    if not Prepared.is_one(config.data):
        return config
    prepared = Prepared.open(config.data)
    refuse_other_settings(config, prepared)
    return dataclasses.replace(config, **prepared.facts["settings"])


def describe_prepared(config: Config, prepared: Prepared) -> tuple[dict[str, Any], list[str]]:
    """What prepared data is, JSON-able and as lines, without what the split comes to."""
    report = prepared.report
    description = {
        "source": config.data,
        "synthetic": False,
        "split": config.split,
        **report.to_json(),
        "prepared": {name: prepared.facts[name] for name in ("engine", "content")},
    }
    lines = [f"data: {config.data}, prepared by {prepared.facts['engine']}", *report.lines()]
    return description, lines


def prepared_counts(config: Config) -> CoOccurrence | None:
    """The counts of the config's data, where they are prepared and its model stores them."""
    if not (MODELS[config.model].uses_cooccurrence and Prepared.is_one(config.data)):
        return None
    prepared = Prepared.open(config.data)
    size = 2 * PAIR_BYTES * (prepared.facts["counts"] or {"pairs": 0})["pairs"]
    if config.counting == "index" or (config.counting == "auto" and size > STORED):
        return None
    return prepared.counts(config.split, config.max_counted)


def refuse_other_settings(config: Config, prepared: Prepared) -> None:
    """Raise ConfigError where the config asks for other data than was prepared."""
    for name in ("valid", "test", "from_run"):
        if (value := getattr(config, name)) is not None:
            flag = "from" if name == "from_run" else name
            raise ConfigError(
                f"--{flag} {value} does not go with prepared data ({prepared.path}); give --data "
                "the log itself"
            )
    usual = {field.name: field.default for field in dataclasses.fields(Config)}
    for name, value in prepared.facts["settings"].items():
        if getattr(config, name) not in (value, usual[name]):
            raise ConfigError(
                f"{name} {getattr(config, name)!r} cannot be changed now: {prepared.path} was "
                f"prepared with {value!r}; leave it out, or prepare the log again with it"
            )


def _described(
    config: Config,
    sequences: Sequences,
    description: dict[str, Any],
    lines: list[str],
    features: pl.DataFrame | None,
) -> tuple[Sequences, dict[str, Any], list[str]]:
    """What `load_data` returns, from the sequences, with features and what the split comes to."""
    if config.item_features is not None:
        table = read_item_features(config.item_features if features is None else features)
        sequences, description["item_features"], told = with_features(sequences, table)
        lines += told
    rule = SPLITS[config.split]
    facts, split_lines = rule.describe(sequences, split_options(config))
    split = rule(sequences, split_options(config))
    target_facts, target_lines = describe_targets(split)
    count_facts, count_lines = describe_counts(split, config.counting)
    lines += split_lines + target_lines + count_lines
    return sequences, {**description, **facts, **target_facts, **count_facts}, lines


def read_log(config: Config, path: str | os.PathLike | pl.DataFrame) -> Interactions:
    """A log as the settings of a config say that it is to be read."""
    return read_interactions(path, config.column_names, **reading(config))


def reading(config: Config) -> dict[str, Any]:
    """The keywords of `read_interactions` and `Log` that a config has beside the columns."""
    names = ("form", "time_format", "where", "max_missing", "max_unpacked")
    return {name: getattr(config, name) for name in names}


def filters_of(config: Config) -> Filters:
    """The filters of a config: its settings of the same names."""
    return Filters(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Filters)})


def pooled(parts: list[Interactions]) -> Interactions:
    """Logs of training, validation and test as one, with the column `part`: 0, 1 and 2.

    Raises DataError where some have times and others not, or times of another kind.
    """
    timed = {("timestamp" in of.frame.columns, of.dated) for of in parts}
    if len(timed) > 1:
        raise DataError(
            "the files of training, validation and test differ in their times: "
            + "; ".join(of.form for of in parts)
            + "; name the columns with --columns, or leave the time out with '-'"
        )
    shared = [c for c in parts[0].frame.columns if all(c in of.frame.columns for of in parts)]
    frames = [of.frame.select(shared).with_columns(part=i) for i, of in enumerate(parts)]
    stages = ", ".join(f"{len(of.frame):,} to {to}" for of, to in zip(parts, ROLES, strict=True))
    return dataclasses.replace(
        parts[0],
        frame=pl.concat(frames, how="vertical_relaxed"),
        ordered=all(of.ordered for of in parts),
        notes=[*dict.fromkeys(note for of in parts for note in of.notes), f"events: {stages}"],
        warnings=list(dict.fromkeys(warning for of in parts for warning in of.warnings)),
    )


def split_options(config: Config) -> SplitOptions:
    """What the config says to the rule that splits."""
    return SplitOptions(
        config.seen, config.split_boundaries, config.split_targets, config.seed,
        config.max_counted, config.eval_users,
    )  # fmt: skip


ROLES = ("train on", "validate on", "test on")


class Parts(NamedTuple):
    """What a run is made of."""

    split: Split
    model: Recommender  # new, on the CPU
    batcher: Batcher


def assemble(config: Config, sequences: Sequences, counts: Counts | None = None) -> Parts:
    """The parts of the run of a config on the data; weights are drawn from torch's generator.

    counts: of the training events, where they are known already. Raises DataError where the data
    cannot be split like this.
    """
    split = SPLITS[config.split](sequences, split_options(config))
    model = MODELS[config.model].from_config(config, split)
    if counts is None and model.uses_cooccurrence:
        counts = counts_of(split, config.counting)
    return Parts(split, model, batcher_of(config, model, split, counts, config.seed))


def batcher_of(
    config: Config,
    model: Recommender,
    split: Split,
    counts: Counts | None,
    seed: int,
    make: Callable[..., Batcher] = Batcher,
) -> Batcher:
    """What makes the batches that a model reads, its random choices by the seed."""
    return make(
        split,
        counts,
        config.max_length,
        seed,
        negatives=config.negatives_per_position,
        leave_self_out=bool(config.leave_self_out),
        kernel_loss=model.uses_kernel_loss,
        times=model.uses_times,
        shared_negatives=config.shared_negatives or "none",
    )
