"""One typed definition for the flags, the config file and the saved config.json."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rka_fast.errors import ConfigError, hint
from rka_fast.models import MODELS
from rka_fast.models.rksa import parse_relations

RESUMABLE = ("epochs", "patience", "device", "backend", "json", "save_every")
"""Settings that may be changed when a run is resumed; all others shape what was computed."""

DEFAULTS = {
    "width": 50,
    "dropout": 0.2,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "epochs": 200,
    "patience": 10,
}
"""Defaults that a model may replace by its own, in its `defaults`."""

SYNTHETIC_EPOCHS = 12
"""The default on synthetic data, where a model has no smaller one."""


@dataclass(frozen=True)
class Config:
    """Everything that defines a run. Raises ConfigError on a value of wrong type or range.

    A setting whose default depends on the model is None only until the config is made.
    """

    # Log file, a folder or comma-separated files pooled; "synthetic" is the built-in data set.
    data: str = "synthetic"
    # Columns of the file by name or 0-based position: user,item[,rating[,timestamp]]; "-" skips.
    columns: str | None = None
    # Drop events rated lower than this.
    min_rating: float | None = None
    # Drop users with fewer events.
    min_user_events: int = 1
    # Drop items with fewer events.
    min_item_events: int = 1
    # Apply the two minimums once, or repeatedly until both hold (k-core).
    core: Literal["single", "iterated"] = "single"
    # Keep or drop a user's repeated events with one item.
    repeats: Literal["keep", "drop"] = "keep"
    # Hold out every user's last two events, or what came after two points in time.
    split: Literal["leave-one-out", "time"] = "leave-one-out"
    # The model to train.
    model: Literal[
        "rksa", "sasrec", "pop", "item_knn", "bpr_mf", "gru4rec", "narm", "hcrnn", "attrec"
    ] = "rksa"
    # The model sees this many of a user's last events.
    max_length: int = 50
    # Width of the embeddings and of what computes on them; the default depends on the model.
    width: int | None = None
    # Number of blocks (rksa, sasrec).
    blocks: int = 2
    # Attention heads per block (rksa, sasrec).
    heads: int = 1
    # Dropout probability; the default depends on the model. gru4rec, narm and hcrnn drop half as
    # much of the embedded items.
    dropout: float | None = None
    # Activation of the location and shape of the attention logits.
    activation: Literal["identity", "leaky_relu", "relu", "tanh"] = "leaky_relu"
    # Binary cross-entropy, cross-entropy over all items or over sampled ones, or the hinge of
    # attrec; default ce, for attrec hinge. pop, item_knn and bpr_mf have none to choose.
    loss: Literal["bce", "ce", "sampled_ce", "hinge"] | None = None
    # Negatives per position; default 1 for bce and hinge, 128 for sampled_ce; ce has none.
    negatives: int | None = None
    # Weight of the kernel term in the loss.
    kernel_weight: float = 0.5
    # Kernels of the covariance: cooccurrence, item or both, and user or not (rksa).
    relations: str = "cooccurrence,item,user"
    # Where the standard deviation of the attention logits starts (rksa).
    initial_scale: float = 0.5
    # Take a training user's own sequence out of the co-occurrence counts.
    leave_self_out: bool = True
    # Attention logits in training: a draw, their mean, or the location only, which is plain
    # attention (rksa).
    train_mode: Literal["sample", "mean", "location"] = "sample"
    # Attention logits in evaluation: their mean, one draw, or the location only (rksa).
    eval_mode: Literal["mean", "sample", "location"] = "mean"
    # Users per step, over all processes (for bpr_mf events); the default depends on the model.
    batch_size: int | None = None
    # Learning rate of Adam (for bpr_mf of plain descent); the default depends on the model.
    learning_rate: float | None = None
    # At most this many passes over the training users; the default depends on the model, and is
    # at most 12 for synthetic data.
    epochs: int | None = None
    # Epochs between evaluations on the validation items.
    eval_every: int = 1
    # Stop after this many evaluations without a better validation NDCG@10 (sampled);
    # the default depends on the model.
    patience: int | None = None
    # Seed of initial weights, batches, noise and the sampled negatives of the evaluation.
    seed: int = 0
    # Run folder; default runs/DATA-MODEL-seedSEED.
    out: str | None = None
    # Write the result to this JSON file too.
    json: str | None = None
    # auto, cpu, cuda, cuda:N or mps.
    device: str = "auto"
    # Precision of the matrix products.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # Backend of the attention operator; auto takes the fastest that supports the inputs.
    backend: str = "auto"
    # Steps between checkpoints, besides the one after each epoch.
    save_every: int | None = None

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        _check_type("model", self.model, hints["model"])
        self._fill_defaults()
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), hints[field.name])
        for name in (
            "min_user_events",
            "min_item_events",
            "width",
            "blocks",
            "heads",
            "patience",
            "batch_size",
            "epochs",
            "eval_every",
            "negatives",
            "save_every",
        ):
            _check(self, name, lambda value: value >= 1, "must be at least 1")
        _check(self, "max_length", lambda value: value >= 2, "must be at least 2")
        _check(self, "seed", lambda value: 0 <= value < 2**63, "must be from 0 to 2**63 - 1")
        _check(self, "dropout", lambda value: 0 <= value < 1, "must be from 0 to below 1")
        _check(self, "kernel_weight", lambda value: 0 <= value < math.inf, "must not be negative")
        _check(self, "initial_scale", lambda value: 0 < value < math.inf, "must be above 0")
        _check(self, "learning_rate", lambda value: 0 < value < math.inf, "must be above 0")
        _check(self, "min_rating", math.isfinite, "must be a finite number")
        _check(
            self,
            "device",
            re.compile(r"auto|cpu|mps|cuda(:\d+)?").fullmatch,
            "must be auto, cpu, cuda, cuda:N or mps",
        )
        _check(
            self,
            "width",
            lambda value: value % self.heads == 0,
            f"must be a multiple of heads ({self.heads})",
        )
        if self.columns is not None and len(self.column_names) not in (2, 3, 4):
            raise ConfigError(
                f"columns {self.columns!r} must be 2 to 4 names or positions: "
                "user,item[,rating[,timestamp]]"
            )
        try:
            parse_relations(self.relations)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._check_loss()

    def _fill_defaults(self) -> None:
        model = MODELS[self.model]
        defaults = {**DEFAULTS, "loss": next(iter(model.losses), None), **model.defaults}
        if self.data == "synthetic":
            defaults["epochs"] = min(SYNTHETIC_EPOCHS, defaults["epochs"])
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_loss(self) -> None:
        losses = MODELS[self.model].losses
        if self.loss is not None and self.loss not in losses:
            remedy = f"choose {' or '.join(losses)}" if losses else "leave it out"
            raise ConfigError(f"loss {self.loss!r} cannot be used by {self.model!r}; {remedy}")
        if self.negatives is not None and self.loss in (None, "ce"):
            raise ConfigError(
                "negatives has no meaning with loss 'ce', which compares with all "
                "items; leave it out or choose loss 'bce' or 'sampled_ce'"
                if losses
                else f"negatives has no meaning with {self.model!r}; leave it out"
            )

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """`columns`, split at the commas."""
        return self.columns and tuple(name.strip() for name in self.columns.split(","))

    @property
    def negatives_per_position(self) -> int:
        """`negatives`, or its default for the loss."""
        return self.negatives or {"bce": 1, "hinge": 1, "sampled_ce": 128}.get(self.loss, 0)

    @property
    def run_dir(self) -> Path:
        """`out`, or its default, made of the names of the data, the model and the seed."""
        if self.out is not None:
            return Path(self.out)
        stem = Path(Path(self.data.split(",")[0].strip()).name.removesuffix(".gz")).stem
        return Path("runs") / f"{stem or 'data'}-{self.model}-seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` turns back into an equal Config."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any, source: str = "config") -> Config:
        """Config of a dictionary; settings left out keep their defaults.

        Raises ConfigError, naming `source`, for an unknown key (with the nearest name) and for
        a wrong value.
        """
        if not isinstance(values, dict):
            raise ConfigError(
                f"{source}: expected one JSON object of settings, got {type(values).__name__}"
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values.keys() - set(known):
            raise ConfigError(f"{source}: unknown setting {key!r}; {hint(key, known)}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: str | Path, **overrides: Any) -> Config:
        """Config of a JSON file, with some settings replaced.

        Raises ConfigError where the file is missing or not valid.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read config file {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"config file {path} is not valid JSON: {error}") from None
        if overrides and isinstance(values, dict):
            values = {**values, **overrides}
        return cls.from_json(values, source=str(path))

    def check_resume(self, saved: Config) -> None:
        """Raise ConfigError if this config would change what the `saved` run computes."""
        for field in dataclasses.fields(self):
            new, old = getattr(self, field.name), getattr(saved, field.name)
            if new != old and field.name not in RESUMABLE:
                raise ConfigError(
                    f"{field.name} cannot change on --resume: the run has {old!r}, "
                    f"given {new!r}; start a new run with another --out"
                )


def _check(config: Config, name: str, valid: typing.Callable, rule: str) -> None:
    value = getattr(config, name)
    if value is not None and not valid(value):
        raise ConfigError(f"{name} {rule}, got {value!r}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    allowed = typing.get_args(hint) if union else (hint,)
    if value is None and types.NoneType in allowed:
        return
    if typing.get_origin(allowed[0]) is Literal:
        choices = typing.get_args(allowed[0])
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}{meant}")
        return
    if int in allowed or float in allowed:
        valid = not isinstance(value, bool) and isinstance(
            value, (*allowed, int) if float in allowed else allowed
        )
    else:
        valid = isinstance(value, allowed)
    if not valid:
        kinds = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in allowed)
        raise ConfigError(f"{name} must be {kinds}, got {value!r}")
