"""Training from Python: `run = fit("log.csv", model="rksa", epochs=20)`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl

from rka_fast.commands import ALIASES
from rka_fast.data.readers import Interactions
from rka_fast.data.records import FRAME
from rka_fast.errors import ConfigError, DataError, TrainingError, hint, printable
from rka_fast.recommending.asked import is_frame, listed
from rka_fast.recommending.tables import polars_frame
from rka_fast.run import Run
from rka_fast.train import train
from rka_fast.training.assemble import read_log
from rka_fast.training.config import Config
from rka_fast.training.update import updated

if TYPE_CHECKING:
    import pandas as pd

    from rka_fast.tune import Pruner

    Log: TypeAlias = str | os.PathLike | Iterable[str | os.PathLike] | pl.DataFrame | pd.DataFrame


def fit(data: Log, *, from_run: str | os.PathLike | Run | None = None, **settings: Any) -> Run:
    """Train a model on a log, as `rka-fast train` does, and return the run of the best epoch.

    data: a file, a folder or files, in any form that the command reads, or a polars or pandas data
        frame with such columns.
    from_run: a run, or its folder, to go on from: `data` has the new events (or all of them), which
        join its own; its weights are carried over by id, and its settings hold unless given.
    settings: those of `Config`: model="sasrec", out="runs/mine", epochs=20 and so on. Those that
        name files (valid, test, item_features) may be data frames too.

    Raises ConfigError, DataError, FolderError or TrainingError like the command.
    """
    config, frames, features = _settings(data, from_run, settings)
    chosen = from_run is not None or "loss" in settings
    train(config, interactions=frames, features=features, chosen=chosen)
    return Run.load(config.run_dir)


def fit_best(
    data: Log,
    *,
    trials: int = 20,
    search: Mapping[str, Any] | None = None,
    pruner: Pruner = "median",
    **settings: Any,
) -> Run:
    """Search for the settings that validate best, as `rka-fast tune` does; returns the best run.

    data, settings: see `fit`; a setting that is given is not searched by default. `out` is the
        folder of the study, with its table; called again, the study goes on to so many trials.
    trials: to be ended. search: by the name of the setting the values to try, [a, b], or a range,
        {"low": a, "high": b} with "log": True if wanted; by default what the command searches.
    pruner: ends trials that validate badly.

    Raises what the command refuses, as `fit` does, and TrainingError where no trial was trained to
    its end.
    """
    from rka_fast.tune import tune

    if not isinstance(search, Mapping | None):
        raise ConfigError(
            "search: expected the values to try by the name of the setting, such as "
            f'{{"width": [32, 64]}}, got {printable(repr(search))}'
        )
    config, frames, features = _settings(data, None, settings)
    study = tune(
        config, search or {}, trials, pruner, "fit_best", "loss" in settings, frames, features
    )
    if study.best is None:
        errors = [trial.user_attrs["error"] for trial in study.done if trial.user_attrs]
        why = f": {errors[0]}" if errors else ""
        raise TrainingError(f"no trial in {study.out} was trained to its end{why}")
    return Run.load(study.folder(study.best.number))


def _settings(
    data: Log, from_run: str | os.PathLike | Run | None, settings: dict[str, Any]
) -> tuple[Config, dict[str, Interactions], pl.DataFrame | None]:
    """The settings, the logs that came as frames, and the features of items that did."""
    known = [field.name for field in dataclasses.fields(Config)]
    for name in settings:
        if name not in known:
            flag = ALIASES.get(f"--{name.replace('_', '-')}", "").partition(" ")[0]
            meant = flag[2:].replace("-", "_")
            told = f"did you mean {meant!r}?" if meant in known else hint(name, known)
            raise ConfigError(f"unknown setting {name!r}; {told}")
    others = {name: settings[name] for name in ("valid", "test") if settings.get(name) is not None}
    logs = {"data": data, **others}
    named = {**settings, **{name: _source(name, log) for name, log in logs.items()}}
    features = None
    if is_frame(settings.get("item_features")):
        features, named["item_features"] = polars_frame(settings["item_features"]), FRAME
    if from_run is None:
        config = Config(**named)
    else:
        config = updated(from_run.folder if isinstance(from_run, Run) else from_run, named)
    frames = {
        name: read_log(config, polars_frame(log)) for name, log in logs.items() if is_frame(log)
    }
    return config, frames, features


def _source(name: str, given: Any) -> str:
    """What the settings say of data that was given."""
    if is_frame(given):
        return FRAME
    expected = f"{name}: expected files, a folder or a data frame"
    paths = [given] if isinstance(given, (str, os.PathLike)) else listed(given, expected)
    if not paths or not all(isinstance(path, (str, os.PathLike)) and str(path) for path in paths):
        raise DataError(f"{expected}, got {printable(repr(given))}")
    return ",".join(map(str, paths))
