"""The command line of `train`: a flag for every setting that the chosen model reads, in groups."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from rka_fast.commands import refuse_unknown
from rka_fast.errors import ConfigError
from rka_fast.models import MODELS
from rka_fast.training.config import Config
from rka_fast.training.metrics_log import read_lines
from rka_fast.training.presets import presets
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.settings import GROUPS
from rka_fast.training.update import updated

AHEAD = ("--model", "--data", "--split", "--epochs", "--valid", "--test")
"""The flags that the defaults of others follow from."""

WHOLE = ("config", "preset", "resume", "refit", "from")
"""The flags that name all settings at once."""


class Given(NamedTuple):
    """The settings, the run folder to resume if any, and notes for a person.

    chosen: whether the loss was given, by a flag or with all settings at once.
    """

    config: Config
    folder: RunFolder | None
    notes: list[str]
    chosen: bool = True


def parse(
    argv: Sequence[str], prog: str = "rka-fast train", description: str | None = None
) -> Given:
    """What a command line says; errors as in `parse_with`."""
    return parse_with(None, argv, prog, description)[0]


def parse_with(
    more: type | None, argv: Sequence[str], prog: str, description: str | None
) -> tuple[Given, Any]:
    """What a command line says, and its further flags.

    more: a dataclass of these, of a command that has the flags of train but takes up no run.

    The defaults follow from the model, the data and the file of settings, so the flags that give
    these are read first, and all flags then with the defaults that hold. Raises ConfigError and
    FolderError.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in (*(f"--{name}" for name in WHOLE), *AHEAD):
        first.add_argument(flag)
    given, _ = first.parse_known_args(argv)
    old = vars(given)["from"]
    if sum(map(bool, (given.config, given.preset, given.resume, given.refit, old))) > 1:
        raise ConfigError(
            "--config, --preset, --resume, --refit and --from exclude each other: each has all "
            "settings"
        )
    notes = []
    folder = RunFolder.open(given.resume) if given.resume else None
    values: dict[str, Any] = {flag[2:]: vars(given)[flag[2:]] for flag in AHEAD}
    values = {name: value for name, value in values.items() if value is not None}
    if "epochs" in values:  # what is no number is refused below, with the other flags
        values["epochs"] = int(values["epochs"]) if values["epochs"].isdecimal() else 1
    if folder:
        # where else to write is said by who runs the command, not by the folder
        defaults = dataclasses.replace(folder.read_config(), json=None)
    elif given.refit:
        defaults = _refitted(given.refit, values)
    elif old and more is None:
        defaults = updated(old, values)
    elif given.config:
        defaults, left_out = Config.read(given.config, **values)
        if left_out:
            notes = [f"{given.config}: not used by {defaults.model}: {', '.join(left_out)}"]
    elif given.preset:
        defaults = _preset(given.preset, values)
    else:
        defaults = Config(**values)
    _refuse_unread(argv, defaults.model)
    flags, unknown = tyro.cli(
        _flags(defaults, more),
        args=argv,
        prog=prog,
        description=description,
        return_unknown_args=True,
    )
    names = {field.name for field in dataclasses.fields(Config) if not field.metadata["flag"]}
    names -= Config.unread(defaults.model)
    others = WHOLE if more is None else [field.name for field in dataclasses.fields(more)]
    known = [f"--{name.replace('_', '-')}" for name in (*names, *others)]
    refuse_unknown(unknown, sorted(known), "did you mean --data {0}?")
    settings: dict[str, Any] = {}
    for group in GROUPS:
        settings |= vars(getattr(flags, group))
    for name in WHOLE:
        settings.pop(name, None)
    config = dataclasses.replace(defaults, **settings)
    if folder:
        config.check_resume(defaults)
        if config.epochs and defaults.epochs and config.epochs < defaults.epochs:
            done = max(
                (line["epoch"] for line in read_lines(folder.log) if "epoch" in line), default=0
            )
            if config.epochs < done:
                raise ConfigError(
                    f"epochs {config.epochs}: the run in {folder.path} has {done} already; give as "
                    "many or more, or train another one"
                )
    whole = any((given.config, given.preset, given.resume, given.refit, old))
    chosen = whole or any(word.partition("=")[0] == "--loss" for word in argv)
    return Given(config, folder, notes, chosen), getattr(flags, "more", None)


def _preset(name: str, values: dict[str, Any]) -> Config:
    """The settings of this name with some replaced."""
    if name not in presets():
        raise ConfigError(f"preset must be one of {', '.join(presets())}, got {name!r}")
    return Config.from_json({**presets()[name].settings, **values}, source=f"preset {name}")


def _refitted(run: str, values: dict[str, Any]) -> Config:
    """The settings of a finished run, for its best number of epochs and on all its data."""
    folder = RunFolder.open(run)
    config = folder.read_config()
    epochs = folder.read_json("result.json")["best_epoch"] if config.epochs else None
    files = (path for path in (config.data, config.valid, config.test) if path is not None)
    whole = {"data": ",".join(files), "split": "none", "valid": None, "test": None, "json": None}
    new = {**whole, **values}
    fields = {f.name: f.default for f in dataclasses.fields(Config) if f.name.startswith("split_")}
    name = f"{Path(run).name}-refit"
    out = str(Path(run).with_name(name))
    return dataclasses.replace(config, **{**fields, "epochs": epochs, "out": out, **new})


def _refuse_unread(argv: Sequence[str], model: str) -> None:
    """Raise ConfigError for a flag whose setting the model does not read."""
    for word in argv:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_").removeprefix("no_")
            if name in Config.unread(model):
                raise ConfigError(
                    f"{word.partition('=')[0]} is not used by model {model!r}; leave it out"
                )


def _flags(defaults: Config, more: type | None) -> type:
    """A dataclass for tyro, with one field a group."""
    hints = typing.get_type_hints(Config)
    read, unread = Config.read_by(defaults.model), Config.unread(defaults.model)
    groups: dict[str, list] = {group: [] for group in GROUPS}
    groups["run"] += [
        _flag("config", str | None, "JSON file of settings (such as a run's config.json); flags "
              "override it.", None),
        _flag("preset", str | None, "Settings as their authors have them: "
              f"{', '.join(presets())}; flags override them.", None),
    ]  # fmt: skip
    if more is None:
        groups["run"] += _OF_RUNS
    for field in dataclasses.fields(Config):
        if field.name in unread or (more is not None and field.name == "from_run"):
            continue
        kind: Any = hints[field.name]
        value, choices = getattr(defaults, field.name), field.metadata["choices"]
        if field.name == "loss":
            choices = MODELS[defaults.model].losses
        if choices:
            kind = Literal[choices]
            kind = kind | None if value is None else kind
        elif read.get(field.name) is not None:  # it cannot be None
            kind = typing.get_args(kind)[0]
        groups[field.metadata["group"]].append(
            _flag(field.name, kind, field.metadata["help"], value, field.metadata["flag"])
        )
    made = {group: dataclasses.make_dataclass(group, fields) for group, fields in groups.items()}
    if more is not None:
        made = {"more": more, **made}
    return dataclasses.make_dataclass(
        "Flags",
        [
            (group, tyro.conf.OmitArgPrefixes[cls], dataclasses.field(default_factory=cls))
            for group, cls in made.items()
        ],
    )


def _flag(
    name: str, kind: Any, help: str, default: Any, flag: str | None = None
) -> tuple[str, Any, Any]:
    words = tyro.conf.arg(help=help, name=flag)
    return name, Annotated[kind, words], dataclasses.field(default=default)


_OF_RUNS = [
    _flag("refit", str | None, "Run folder whose settings and best epoch to train anew, on "
          "everything.", None),
    _flag("resume", str | None, "Run folder to go on with, exactly; a finished run is "
          "evaluated again.", None),
]  # fmt: skip
