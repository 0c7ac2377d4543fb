"""The command line of `train`: a flag for every setting that the chosen model reads, in groups."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from rka_fast.errors import ConfigError
from rka_fast.models import MODELS
from rka_fast.training.config import GROUPS, Config
from rka_fast.training.run_folder import RunFolder


class Given(NamedTuple):
    """The settings, the run folder to resume if any, and notes for a person."""

    config: Config
    folder: RunFolder | None
    notes: list[str]


def parse(
    argv: Sequence[str], prog: str = "rka-fast train", description: str | None = None
) -> Given:
    """What a command line says.

    The defaults follow from the model, the data and the file of settings, so the flags that give
    these are read first, and all flags then with the defaults that hold. Raises ConfigError and
    FolderError.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--config", "--resume", "--model", "--data"):
        first.add_argument(flag)
    given, _ = first.parse_known_args(argv)
    if given.config and given.resume:
        raise ConfigError("--config and --resume exclude each other: a run has its own settings")
    notes = []
    folder = RunFolder.open(given.resume) if given.resume else None
    values = {"model": given.model, "data": given.data}
    values = {name: value for name, value in values.items() if value is not None}
    if folder:
        defaults = folder.read_config()
    elif given.config:
        defaults, left_out = Config.read(given.config, **values)
        if left_out:
            notes = [f"{given.config}: not used by {defaults.model}: {', '.join(left_out)}"]
    else:
        defaults = Config(**values)
    _refuse_unread(argv, defaults.model)
    flags = tyro.cli(_flags(defaults), args=argv, prog=prog, description=description)
    settings: dict[str, Any] = {}
    for group in GROUPS:
        settings |= vars(getattr(flags, group))
    del settings["config"], settings["resume"]
    config = dataclasses.replace(defaults, **settings)
    if folder:
        config.check_resume(defaults)
    return Given(config, folder, notes)


def _refuse_unread(argv: Sequence[str], model: str) -> None:
    """Raise ConfigError for a flag whose setting the model does not read."""
    for word in argv:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_").removeprefix("no_")
            if name in Config.unread(model):
                raise ConfigError(
                    f"{word.partition('=')[0]} is not used by model {model!r}; leave it out"
                )


def _flags(defaults: Config) -> type:
    """A dataclass for tyro, with one field a group."""
    hints = typing.get_type_hints(Config)
    unread = Config.unread(defaults.model)
    groups: dict[str, list] = {group: [] for group in GROUPS}
    groups["run"] += [
        _flag("config", str | None, "JSON file of settings (such as a run's config.json); flags "
              "override it.", None),
        _flag("resume", str | None, "Run folder to go on with, exactly; a finished run is "
              "evaluated again.", None),
    ]  # fmt: skip
    for field in dataclasses.fields(Config):
        if field.name in unread:
            continue
        kind: Any = hints[field.name]
        value, choices = getattr(defaults, field.name), field.metadata["choices"]
        if field.name == "loss":
            choices = MODELS[defaults.model].losses
        if choices:
            kind = Literal[choices]
        elif kind == bool | None:
            kind = bool
        groups[field.metadata["group"]].append(
            _flag(field.name, kind, field.metadata["help"], value)
        )
    made = {group: dataclasses.make_dataclass(group, fields) for group, fields in groups.items()}
    return dataclasses.make_dataclass(
        "Flags",
        [
            (group, tyro.conf.OmitArgPrefixes[cls], dataclasses.field(default_factory=cls))
            for group, cls in made.items()
        ],
    )


def _flag(name: str, kind: Any, help: str, default: Any) -> tuple[str, Any, Any]:
    return name, Annotated[kind, tyro.conf.arg(help=help)], dataclasses.field(default=default)
