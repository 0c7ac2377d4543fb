"""One typed definition for the flags, the config file and the saved config.json."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rka_fast.data.split_rules import SPLITS
from rka_fast.errors import ConfigError, hint
from rka_fast.files import read_json, stem
from rka_fast.models import MODELS
from rka_fast.models.losses import LOSSES, SHARING, STATE_LOSSES
from rka_fast.models.rksa import parse_kernels
from rka_fast.training.rules import check
from rka_fast.training.settings import NEGATIVE_LOSSES, Settings
from rka_fast.training.tracking import tracker_names

if TYPE_CHECKING:
    from rka_fast.models.base import Recommender

FORMAT = 2
"""Of config.json. 1, which had no number, had the values of settings that the model ignored."""

RESUMABLE = (
    "epochs", "patience", "device", "backend", "json", "save_every", "track", "force", "counting",
)  # fmt: skip
"""Settings that may be changed when a run is resumed; all others shape what was computed.

Of a run whose learning rate decays so do the epochs."""

TRAINING = {
    "batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "sparse_adam": False,
    "warm_up": None,
    "decay": "none",
    "average_weights": None,
    "gradient_clip": None,
    "epochs": 200,
    "patience": 10,
    "eval_every": 1,
    "select": "sampled",
    "save_every": None,
}
"""Settings of the training loop, with the defaults of models that have none of their own."""

UNNAMED = (
    "data", "model", "seed", "out", "json", "device", "backend", "save_every", "track", "from_run",
    "force", "counting",
)  # fmt: skip
"""Settings that the default name of a run folder has already, or that do not shape the run."""

NAME_LENGTH = 80
"""Longer names of differing settings become a checksum."""

SYNTHETIC = {"epochs": 24, "learning_rate": 3e-3}
"""The most epochs by default on synthetic data, and what the general learning rate is there: RKSA
reaches its plateau in half a minute."""


@dataclass(frozen=True)
class Config(Settings):
    """Everything that defines a run. Raises ConfigError on a value of wrong type or range.

    A setting of the model is None until the config is made: then it has the default of the
    model's constructor, or stays None where the model does not read it. Giving such a one a
    value is an error.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        fields = {field.name: field for field in dataclasses.fields(self)}
        check(fields["model"], hints["model"], self.model)
        if self.valid is not None and self.split == fields["split"].default:
            object.__setattr__(self, "split", "files")
        self._fill_defaults()
        for name, field in fields.items():
            check(field, hints[name], getattr(self, name))
        if self.heads is not None and self.width % self.heads:
            raise ConfigError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        if self.columns is not None and len(self.column_names or ()) < 2:
            raise ConfigError(
                f"columns {self.columns!r} must be at least 2 names or positions: "
                "user,item[,rating[,timestamp]]"
            )
        self._check_split()
        tracker_names(self.track)
        if self.kernels is not None:
            try:
                parse_kernels(self.kernels)
            except ValueError as error:
                raise ConfigError(str(error)) from None
        self._check_loss()
        self._check_sparse()

    @staticmethod
    def read_by(model: str) -> dict[str, Any]:
        """The settings beside the general ones that this model reads, with their defaults."""
        read = _read_by(MODELS[model])
        return {name: value for name, value in read.items() if name in _OF_SOME_MODELS}

    @staticmethod
    def unread(model: str) -> set[str]:
        """The settings that this model does not read."""
        return _OF_SOME_MODELS - Config.read_by(model).keys()

    @staticmethod
    def own_defaults(model: str) -> set[str]:
        """The settings whose default is this model's own."""
        of_model = MODELS[model].settings().keys() & _OF_SOME_MODELS
        return of_model | MODELS[model].defaults.keys()

    def _fill_defaults(self) -> None:
        for name in self.unread(self.model):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name} is not used by model {self.model!r}; leave it out")
        defaults = self._defaults()
        if self.split == "none" and "epochs" in defaults and self.epochs is None:
            raise ConfigError(
                "epochs: with split 'none' nothing tells when to stop; give --epochs, or --refit "
                "RUN for those of an earlier run"
            )
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_split(self) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}
        for option in ("boundaries", "targets"):
            name = f"split_{option}"
            given = getattr(self, name) != fields[name].default
            if given and option not in SPLITS[self.split].reads:
                able = [rule.name for rule in SPLITS.values() if option in rule.reads]
                raise ConfigError(
                    f"{name} has no meaning with split {self.split!r}; use {' or '.join(able)}"
                )
        if (self.valid is None) != (self.test is None):
            raise ConfigError("valid and test: expected both files or neither, got one")
        if (self.split == "files") != (self.valid is not None):
            raise ConfigError(
                f"split {self.split!r} does not fit: it is files exactly where valid and test are "
                "given"
            )

    def _check_loss(self) -> None:
        losses = MODELS[self.model].losses
        if self.loss is not None and self.loss not in losses:
            raise ConfigError(
                f"loss {self.loss!r} cannot be used by model {self.model!r}; "
                f"choose {' or '.join(losses)}"
            )
        if self.negatives is not None and not LOSSES[self.loss or losses[0]].negatives:
            sampled = [name for name in losses if LOSSES[name].negatives]
            raise ConfigError(
                f"negatives has no meaning with loss {self.loss!r}, which compares with all "
                f"items; leave it out or choose loss {' or '.join(map(repr, sampled))}"
            )
        of_losses = {
            "shared_negatives": (self.shared_negatives not in (None, "none"), NEGATIVE_LOSSES),
            "calibration": (self.calibration is not None, ("gbce",)),
            "log_q": (bool(self.log_q), ("sampled_ce",)),
        }
        for name, (given, able) in of_losses.items():
            if given and self.loss not in able:
                raise ConfigError(
                    f"{name} has no meaning with loss {self.loss!r}; leave it out or choose loss "
                    f"{' or '.join(map(repr, able))}"
                )

    def _check_sparse(self) -> None:
        """Of the settings that would have it move every row."""
        if not self.sparse_adam or self.loss is None:
            return
        if self.weight_decay:
            raise ConfigError(
                f"sparse_adam moves only the rows that a step reads, and weight_decay "
                f"{self.weight_decay} takes of every one; leave one of the two out"
            )
        if not LOSSES[self.loss].negatives:
            sampled = [name for name in MODELS[self.model].losses if LOSSES[name].negatives]
            raise ConfigError(
                f"sparse_adam has no meaning with loss {self.loss!r}, which moves every item at "
                f"every step; leave it out or choose loss {' or '.join(map(repr, sampled))}"
            )

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """`columns`, split at the commas."""
        if self.columns is None:
            return None
        return tuple(name.strip() for name in self.columns.split(","))

    @property
    def negatives_per_position(self) -> int:
        """`negatives`, or its default for the loss."""
        return self.negatives or (LOSSES[self.loss].negatives if self.loss else 0)

    @property
    def run_dir(self) -> Path:
        """`out`, or its default, made of the names of the data, the model and the seed."""
        if self.out is not None:
            return Path(self.out)
        return Path("runs") / "-".join(
            [stem(self.data), self.model, *self._differing(), f"seed{self.seed}"]
        )

    def _differing(self) -> list[str]:
        """The settings that shape the run and are not the defaults, for the name of its folder."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        usual |= self._defaults()
        differ = [
            f"{name}{getattr(self, name)}"
            for name, value in usual.items()
            if name not in UNNAMED and getattr(self, name) != value
        ]
        text = re.sub(r"[^\w.,=-]", "_", "-".join(differ))
        if len(text) > NAME_LENGTH:
            text = hashlib.sha256(text.encode()).hexdigest()[:8]
        return [text] if text else []

    def _defaults(self) -> dict[str, Any]:
        """The defaults of the settings that this model reads, on this data."""
        defaults = self.read_by(self.model)
        if self.data == "synthetic" and "epochs" in defaults:
            defaults["epochs"] = min(SYNTHETIC["epochs"], defaults["epochs"])
            if defaults["learning_rate"] == TRAINING["learning_rate"]:
                defaults["learning_rate"] = SYNTHETIC["learning_rate"]
        return defaults

    @property
    def resumable(self) -> tuple[str, ...]:
        """Settings that may be changed when this run is resumed."""
        if self.decay in (None, "none"):
            return RESUMABLE
        return tuple(name for name in RESUMABLE if name != "epochs")

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` turns back into an equal Config."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: Any, source: str = "config") -> Config:
        """Config of a dictionary; settings left out keep their defaults.

        Raises ConfigError, naming `source`, for an unknown key (with the nearest name), for a
        wrong value, and for a setting that the model does not read.
        """
        values, _ = _current(values, source)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values.keys() - set(known):
            raise ConfigError(f"{source}: unknown setting {key!r}; {hint(key, known)}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: str | Path, **overrides: Any) -> tuple[Config, list[str]]:
        """Config of a JSON file with some settings replaced, and notes on what was left out.

        The whole config.json of a run may be used for another run: the files that it wrote are left
        out, and for another model what that does not read. Raises ConfigError where the file is
        missing or not valid.
        """
        values, whole = _current(read_json("config file", path), str(path))
        left_out = []
        if whole:
            values = {k: v for k, v in values.items() if k not in ("out", "json")}
        if whole and (model := overrides.get("model", values["model"])) != values["model"]:
            values, left_out = _for_model(model, values)
        return cls.from_json({**values, **overrides}, source=str(path)), left_out

    def difference(self, other: Config, ignoring: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
        """The settings that differ, each with its value here and in the other."""
        pairs = {
            field.name: (getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ignoring
        }
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def check_resume(self, saved: Config) -> None:
        """Raise ConfigError if this config would change what the `saved` run computes."""
        for name, (new, old) in self.difference(saved, self.resumable).items():
            why = ", by which the learning rate decays" if name in RESUMABLE else ""
            raise ConfigError(
                f"{name} cannot change on --resume: the run has {old!r}{why}, "
                f"given {new!r}; start a new run with another --out"
            )


def _read_by(model: type[Recommender]) -> dict[str, Any]:
    """The settings beside the general ones that a model reads, with their defaults."""
    read: dict[str, Any] = {}
    if model.trains:
        read |= {**TRAINING, "loss": model.losses[0], "negatives": None, **model.defaults}
    if any(loss in STATE_LOSSES for loss in model.losses):
        read |= {"shared_negatives": SHARING[0], "calibration": None, "log_q": False}
    if model.uses_cooccurrence:
        read["leave_self_out"] = True
    if "features" in inspect.signature(model).parameters:
        read["item_features"] = None
    names = {field.name for field in dataclasses.fields(Config)}
    return read | {name: value for name, value in model.settings().items() if name in names}


_OF_SOME_MODELS = {
    field.name
    for field in dataclasses.fields(Config)
    if field.default is None and any(field.name in _read_by(model) for model in MODELS.values())
}


def _current(values: Any, source: str) -> tuple[dict[str, Any], bool]:
    """Saved values in the current format, and whether they are all there are."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"{source}: expected one JSON object of settings, got {type(values).__name__}"
        )
    values = dict(values)
    number = values.pop("format", 1 if "relations" in values else None)
    if number == 1:  # the kernels had another name, and saved files had every setting
        values["kernels"] = values.pop("relations", None)
        if values.keys() >= {"model", "out", "save_every"}:
            return _for_model(values["model"], values)[0], True
        return values, False
    if number not in (None, FORMAT):
        raise ConfigError(
            f"{source}: format {number!r} is not known, this version of rka_fast reads up to "
            f"{FORMAT}; install a newer one"
        )
    return values, number is not None


def _for_model(name: str, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values without what this model does not read, and the names of what was left out."""
    if name not in MODELS:
        return values, []  # told when the config is made
    model, unread = MODELS[name], Config.unread(name)
    if values.get("loss") not in (None, *model.losses):
        unread = unread | {"loss", "negatives"}
    left_out = [key for key in values if key in unread and values[key] is not None]
    return {key: value for key, value in values.items() if key not in unread}, left_out
