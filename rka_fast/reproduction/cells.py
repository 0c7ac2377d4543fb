"""Cells: one model with one seed on one data set, each a run folder of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rka_fast.commands import check_name
from rka_fast.data.sequences import Sequences
from rka_fast.errors import ConfigError, FolderError
from rka_fast.models import MODELS
from rka_fast.reproduction.datasets import Dataset
from rka_fast.training.config import Config
from rka_fast.training.memory import check_fits
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.sizing import with_loss_for
from rka_fast.training.trainer import Trainer, Watch

INCIDENTAL = ("data", "out", "json", "device", "backend", "save_every", "force")
"""Settings that do not shape a cell's result; the content of the data is compared by itself."""

_BY_FLAG = {"data": "--data", "model": "--models", "seed": "--seeds", "split": "--split"}
_BY_FLAG |= {"out": "--out", "json": "--json", "ties": "--ties", "seen": "--seen"}
_OF_DATA = {
    "eval_users",
    *(f.name for f in dataclasses.fields(Config) if f.metadata["group"] == "data"),
} - {"max_length"}
"""Settings of what all cells of a data set share: it is read and split once."""
_OF_RUNS = ("from_run", "valid", "test", "track")
"""Settings that have no meaning in a table: of what one run goes on from, asks for or reports."""


@dataclass(frozen=True)
class Cell:
    """A dataset's name and the settings of the run; `config.out` is its folder.

    chosen: whether the loss was given; else the number of items may choose another.
    """

    dataset: str
    config: Config
    chosen: bool = True

    def sized(self, num_items: int) -> Cell:
        """The cell with the loss for so many items."""
        if self.chosen:
            return self
        return dataclasses.replace(self, config=with_loss_for(self.config, num_items)[0])

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.config.run_dir)

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.config.model} seed {self.config.seed}"

    @property
    def finished(self) -> bool:
        return self.folder.result.is_file()


def parse_overrides(
    texts: Iterable[str], models: Iterable[str] = tuple(MODELS)
) -> dict[str, dict[str, Any]]:
    """Settings of "NAME=VALUE" under "", of "MODEL.NAME=VALUE" under the model's name.

    Raises ConfigError for text of another form, an unknown model or setting (with the nearest
    name), a setting that has a flag or is of one run, a setting of the data for one model only or
    that some of `models` do not read, and one that its model, or all `models`, do not read.
    """
    overrides: dict[str, dict[str, Any]] = {}
    settings = [field.name for field in dataclasses.fields(Config)]
    for text in texts:
        left, equals, value = text.partition("=")
        model, dot, name = left.strip().rpartition(".")
        name = name.replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"--set {text}: expected NAME=VALUE or MODEL.NAME=VALUE")
        if dot:
            check_name(model, MODELS, "model")
        check_name(name, settings, "setting")
        if name in _BY_FLAG:
            raise ConfigError(f"--set {text}: use {_BY_FLAG[name]} for this")
        if name in _OF_RUNS:
            raise ConfigError(f"--set {text}: {name} is of a single run; leave it out")
        if dot and name in _OF_DATA:
            raise ConfigError(f"--set {text}: all models share the data; use {name}={value}")
        wanted = [model] if dot else list(models)
        deaf = [model for model in wanted if name in Config.unread(model)]
        if deaf == wanted:
            raise ConfigError(f"--set {text}: not used by {', '.join(wanted)}; leave it out")
        if deaf and name in _OF_DATA:
            raise ConfigError(
                f"--set {text}: all models share the data, and {', '.join(deaf)} cannot use this; "
                "leave them out of --models"
            )
        overrides.setdefault(model, {})[name] = _value(value.strip())
    return overrides


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def plan(
    dataset: Dataset,
    source: str,
    models: list[str],
    seeds: int,
    split: str,
    out: Path,
    overrides: dict[str, dict[str, Any]],
    epochs: int | None = None,
) -> list[Cell]:
    """The cells of a data set, all models of a seed before the next seed.

    source: of the data, as in Config.data. epochs: at most this many, unless the model's own
    default is lower.

    Later settings win: the data set's, the model's defaults, the data set's for models with
    attention, `overrides` for all models that read them, `overrides` for this one. Raises
    ConfigError for settings that do not fit, and where a cell's folder holds a run with others.
    """
    cells = []
    for seed in range(seeds):
        for model in models:
            own = Config.own_defaults(model)
            values = {k: v for k, v in dataset.settings.items() if k not in own}
            if MODELS[model].has_attention:
                values |= dataset.attention
            values |= overrides.get("", {})
            values = {k: v for k, v in values.items() if k not in Config.unread(model)}
            values |= overrides.get(model, {})
            folder = out / dataset.name / model / f"seed{seed}"
            values |= {"data": source, "model": model, "seed": seed, "split": split}
            config = Config.from_json({**values, "out": str(folder)}, f"{dataset.name} {model}")
            if epochs is not None and config.epochs is not None:
                config = dataclasses.replace(config, epochs=min(epochs, config.epochs))
            cells.append(Cell(dataset.name, config, chosen="loss" in values))
            _refuse_others(cells[-1])
    return cells


def _refuse_others(cell: Cell) -> None:
    """Raise ConfigError if the cell's folder holds a run with other settings.

    What is damaged is told when it is the cell's turn, as the others can be run.
    """
    if not cell.folder.begun:
        return
    try:
        saved, items = cell.folder.read_config(), cell.folder.read_description().get("items", 0)
    except FolderError:
        return
    for name, (new, old) in cell.sized(items).config.difference(saved, INCIDENTAL).items():
        raise ConfigError(
            f"{cell.folder.path} holds a run with {name} {old!r}, now it is {new!r}; "
            "give another --out, or delete that folder"
        )


def run_cell(
    cell: Cell,
    sequences: Sequences,
    description: dict[str, Any],
    watch: Watch | None = None,
    popularity: dict[int, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The result of the cell: read if it is finished, else computed, going on where it stopped.

    sequences, description: of `load_data`. watch: as the Trainer's. popularity: its scores by
    seed, shared by the cells of one data set and split: read here, and added to. Raises ConfigError
    where the folder holds a run on other data, FolderError or CheckpointError where it is damaged
    or in use, and whatever the Trainer raises.
    """
    seed, known = cell.config.seed, {} if popularity is None else popularity
    folder = cell.folder
    if folder.begun:
        folder.read_config()  # raises where it is damaged
    if folder.begun and _content(folder.read_description()) != _content(description):
        raise ConfigError(
            f"{folder.path} holds a run on other data than {description['source']}; "
            "give another --out"
        )
    if cell.finished:
        if found := folder.read_popularity():
            known.setdefault(seed, found)
        return folder.read_json("result.json")
    if not (folder.begun or folder.has_config):
        folder.refuse_existing()
    with folder.held():
        check_fits(cell.config, sequences)
        trainer = Trainer(
            cell.config, sequences, folder, description, quiet=True, watch=watch,
            popularity=known.get(seed),
        )  # fmt: skip
        if not folder.begun:
            folder.begin(cell.config, sequences, description)
        trainer.resume()
        result = trainer.run()
    if found := result.get("popularity"):
        known.setdefault(seed, found)
    return result


def _content(description: dict[str, Any]) -> dict[str, Any]:
    """The description of data as JSON gives it back, without where it lay."""
    return {**json.loads(json.dumps(description)), "source": None}
