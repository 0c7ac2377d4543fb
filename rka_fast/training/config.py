"""One typed definition for the flags, the config file and the saved config.json."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rka_fast.data.filters import CHOICES
from rka_fast.data.lists import FORMS
from rka_fast.data.readers import MAX_MISSING, MAX_UNPACKED
from rka_fast.data.split import SEEN
from rka_fast.data.split_rules import BOUNDARIES, SPLITS, TARGETS
from rka_fast.errors import ConfigError, hint
from rka_fast.files import stem
from rka_fast.models import MODELS
from rka_fast.models.losses import LOSSES, SHARING, STATE_LOSSES
from rka_fast.models.rksa import parse_kernels
from rka_fast.models.transformer import BLOCKS
from rka_fast.ops.arguments import ACTIVATIONS, MODES

if TYPE_CHECKING:
    from rka_fast.models.base import Recommender

FORMAT = 2
"""Of config.json. 1, which had no number, had the values of settings that the model ignored."""

RESUMABLE = ("epochs", "patience", "device", "backend", "json", "save_every")
"""Settings that may be changed when a run is resumed; all others shape what was computed."""

TRAINING = {
    "batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "warm_up": None,
    "gradient_clip": None,
    "epochs": 200,
    "patience": 10,
    "eval_every": 1,
    "save_every": None,
}
"""Settings of the training loop, with the defaults of models that have none of their own."""

NEGATIVE_LOSSES = tuple(name for name in STATE_LOSSES if LOSSES[name].negatives)
"""Losses of which positions can share negatives."""

SYNTHETIC_EPOCHS = 12
"""The most epochs by default on synthetic data."""

GROUPS = ("data", "model", "loss", "optimisation", "evaluation", "run")


class Rule(NamedTuple):
    """What a value must be: words for the message, and a test."""

    text: str
    valid: Callable[[Any], object]


COUNT = Rule("must be at least 1", lambda value: value >= 1)
POSITIVE = Rule("must be above 0", lambda value: 0 < value < math.inf)
DEVICE = Rule(
    "must be auto, cpu, cuda, cuda:N or mps", re.compile(r"auto|cpu|mps|cuda(:\d+)?").fullmatch
)


def setting(
    group: str,
    help: str,
    default: Any = None,
    *,
    choices: Iterable[str] = (),
    rule: Rule | None = None,
) -> Any:
    """A field of `Config`. choices: all the values there are, from the registry that has them."""
    metadata = {"group": group, "help": help, "choices": tuple(choices), "rule": rule}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Everything that defines a run. Raises ConfigError on a value of wrong type or range.

    A setting of the model is None until the config is made: then it has the default of the
    model's constructor, or stays None where the model does not read it. Giving such a one a
    value is an error.
    """

    data: str = setting(
        "data",
        "Log file, folder, pattern or archive, or several with commas between; "
        '"synthetic" is the built-in data set.',
        "synthetic",
    )
    columns: str | None = setting(
        "data",
        "Columns of the file by name or 0-based position: user,item[,rating[,timestamp]]; "
        '"-" skips.',
    )
    form: str = setting(
        "data",
        "What a line of text is: a row of a table, or one user's items in one of three ways.",
        "auto",
        choices=("auto", "table", *FORMS),
    )
    time_format: str | None = setting(
        "data", "How times are written: as in strptime, or s, ms, us, ns since 1970, or number."
    )
    where: str | None = setting(
        "data", "Keep the rows with COLUMN=VALUE (or != > >= < <=); several with commas between."
    )
    max_missing: float = setting(
        "data",
        "The share of rows that may lack a user, an item or a time; they are left out.",
        MAX_MISSING,
        rule=Rule("must be from 0 to 1", lambda value: 0 <= value <= 1),
    )
    max_unpacked: float = setting(
        "data",
        "Gigabytes that a packed file may have inside.",
        MAX_UNPACKED,
        rule=POSITIVE,
    )
    min_rating: float | None = setting(
        "data",
        "Drop events rated lower than this.",
        rule=Rule("must be a finite number", math.isfinite),
    )
    min_user_events: int = setting("data", "Drop users with fewer events than this.", 1, rule=COUNT)
    min_item_events: int = setting("data", "Drop items with fewer events than this.", 1, rule=COUNT)
    core: str = setting(
        "data",
        "Apply the two minimums once, or repeatedly until both hold (k-core).",
        "single",
        choices=("single", "iterated"),
    )
    duplicates: str = setting(
        "data",
        "Rows equal in user, item and time: drop all but the first, or keep them.",
        "drop",
        choices=CHOICES["duplicates"],
    )
    ties: str = setting(
        "data",
        "A user's events at one time: in the file's order, shuffled by the seed, or drop all but "
        "the first.",
        "file",
        choices=CHOICES["ties"],
    )
    repeats: str = setting(
        "data",
        "Keep or drop a user's repeated events with one item.",
        "keep",
        choices=("keep", "drop"),
    )
    valid: str | None = setting(
        "data", "Log of the events to validate on, where --data holds only those to train on."
    )
    test: str | None = setting("data", "Log of the events to test on, beside --valid.")
    split: str = setting(
        "data",
        "Hold out every user's last two events, what came after two points in time, what --valid "
        "and --test hold, or nothing (for serving).",
        "leave-one-out",
        choices=SPLITS,
    )
    split_boundaries: str = setting(
        "data",
        "When validation and test begin in a split by time: two quantiles of the event times, or "
        "two ISO dates (UTC).",
        BOUNDARIES,
    )
    split_targets: str = setting(
        "data",
        "Which of a user's events of a period a split by time asks for.",
        TARGETS[0],
        choices=TARGETS,
    )
    max_length: int = setting(
        "data",
        "The model sees this many of a user's last events.",
        50,
        rule=Rule("must be at least 2", lambda value: value >= 2),
    )
    model: str = setting("model", "The model to train.", "rksa", choices=MODELS)
    width: int | None = setting(
        "model", "Width of the embeddings and of what computes on them.", rule=COUNT
    )
    blocks: int | None = setting("model", "Number of blocks.", rule=COUNT)
    heads: int | None = setting("model", "Attention heads per block.", rule=COUNT)
    dropout: float | None = setting(
        "model",
        "Dropout probability; recurrent models drop half as much of the embedded items.",
        rule=Rule("must be from 0 to below 1", lambda value: 0 <= value < 1),
    )
    block: str | None = setting(
        "model",
        "What stands around the attention: SASRec's block, or LiGR's, with gates.",
        choices=BLOCKS,
    )
    expansion: int | None = setting(
        "model",
        "Hidden width of a block's position-wise network in widths; 1 in SASRec's, 4 in LiGR's.",
        rule=COUNT,
    )
    temperature: float | None = setting(
        "model",
        "Compare states and items by their cosine over this, not by their inner product.",
        rule=POSITIVE,
    )
    tied: bool | None = setting(
        "model", "Use the item embedding for the output too, or one of its own (--no-tied)."
    )
    time_bias: bool | None = setting(
        "model",
        "Add to the attention logits by the time from an event to the request, which in training "
        "and evaluation is when the event to be predicted happens.",
    )
    position_bias: bool | None = setting(
        "model", "Add to the attention logits by the distance in positions."
    )
    activation: str | None = setting(
        "model",
        "Activation of the location and shape of the attention logits.",
        choices=ACTIVATIONS,
    )
    kernels: str | None = setting(
        "model", "Kernels of the covariance: cooccurrence, item or both, and user or not."
    )
    initial_scale: float | None = setting(
        "model", "Where the standard deviation of the attention logits starts.", rule=POSITIVE
    )
    leave_self_out: bool | None = setting(
        "model", "Take a training user's own sequence out of the co-occurrence counts."
    )
    train_mode: str | None = setting(
        "model",
        "Attention logits in training: a draw, their mean, or the location only, which is plain "
        "attention.",
        choices=MODES,
    )
    backend: str | None = setting(
        "model",
        "Backend of the attention operator; auto takes the fastest that supports the inputs.",
    )
    loss: str | None = setting(
        "loss",
        "Cross-entropy over all items, binary cross-entropy, the same with calibration, "
        "cross-entropy over sampled items, or the hinge of distances.",
        choices=LOSSES,
    )
    negatives: int | None = setting(
        "loss",
        "Negatives per position; by default "
        + ", ".join(f"{of.negatives} for {name}" for name, of in LOSSES.items() if of.negatives)
        + ".",
        rule=COUNT,
    )
    shared_negatives: str | None = setting(
        "loss",
        "Draw negatives for every position, or once for the positions of a sequence, or for all of "
        "a batch: a matrix product in place of a look-up.",
        choices=SHARING,
    )
    calibration: float | None = setting(
        "loss",
        "Of loss gbce, .75 by default: from 0, binary cross-entropy, to 1, calibrated "
        "probabilities.",
        rule=Rule("must be from 0 to 1", lambda value: 0 <= value <= 1),
    )
    log_q: bool | None = setting(
        "loss",
        "Weigh the negatives of loss sampled_ce for how rarely an item is drawn, so that they "
        "stand for all items.",
    )
    kernel_weight: float | None = setting(
        "loss",
        "Weight of the kernel loss.",
        rule=Rule("must not be negative", lambda value: 0 <= value < math.inf),
    )
    batch_size: int | None = setting(
        "optimisation", "Users per step, over all processes (bpr_mf: events).", rule=COUNT
    )
    learning_rate: float | None = setting(
        "optimisation", "Learning rate of Adam (bpr_mf: of plain descent).", rule=POSITIVE
    )
    weight_decay: float | None = setting(
        "optimisation",
        "Decoupled weight decay: every step takes learning rate times this of each weight away.",
        rule=Rule("must not be negative", lambda value: 0 <= value < math.inf),
    )
    warm_up: int | None = setting(
        "optimisation", "Steps in which the learning rate rises to its value.", rule=COUNT
    )
    gradient_clip: float | None = setting(
        "optimisation",
        "Scale gradients of a longer norm, over all weights, to this.",
        rule=POSITIVE,
    )
    epochs: int | None = setting(
        "optimisation", "At most this many passes over the training users.", rule=COUNT
    )
    patience: int | None = setting(
        "optimisation",
        "Stop after this many evaluations without a better validation NDCG@10 (sampled).",
        rule=COUNT,
    )
    precision: str = setting(
        "optimisation",
        "Precision of the matrix products.",
        "fp32",
        choices=("fp32", "bf16", "fp16"),
    )
    eval_every: int | None = setting(
        "evaluation", "Epochs between evaluations on the validation items.", rule=COUNT
    )
    seen: str = setting(
        "evaluation",
        "Hide what a person has had, in evaluation and in recommending, or keep every item a "
        "candidate for everybody.",
        "hide",
        choices=SEEN,
    )
    eval_mode: str | None = setting(
        "evaluation",
        "Attention logits in evaluation: their mean, one draw, or the location only.",
        choices=MODES,
    )
    seed: int = setting(
        "run",
        "Seed of initial weights, batches, noise and the sampled negatives of the evaluation.",
        0,
        rule=Rule("must be from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63),
    )
    out: str | None = setting("run", "Run folder; default runs/DATA-MODEL-seedSEED.")
    json: str | None = setting("run", "Write the result to this JSON file too.")
    device: str = setting("run", "auto, cpu, cuda, cuda:N or mps.", "auto", rule=DEVICE)
    save_every: int | None = setting(
        "run", "Steps between checkpoints, besides the one after each epoch.", rule=COUNT
    )

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        fields = {field.name: field for field in dataclasses.fields(self)}
        _check(fields["model"], hints["model"], self.model)
        if self.valid is not None and self.split == fields["split"].default:
            object.__setattr__(self, "split", "files")
        self._fill_defaults()
        for name, field in fields.items():
            _check(field, hints[name], getattr(self, name))
        if self.heads is not None and self.width % self.heads:
            raise ConfigError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        if self.columns is not None and len(self.column_names or ()) < 2:
            raise ConfigError(
                f"columns {self.columns!r} must be at least 2 names or positions: "
                "user,item[,rating[,timestamp]]"
            )
        self._check_split()
        if self.kernels is not None:
            try:
                parse_kernels(self.kernels)
            except ValueError as error:
                raise ConfigError(str(error)) from None
        self._check_loss()

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
        defaults = self.read_by(self.model)
        if self.split == "none" and "epochs" in defaults and self.epochs is None:
            raise ConfigError(
                "epochs: with split 'none' nothing tells when to stop; give --epochs, or --refit "
                "RUN for those of an earlier run"
            )
        if self.data == "synthetic" and "epochs" in defaults:
            defaults["epochs"] = min(SYNTHETIC_EPOCHS, defaults["epochs"])
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
        return Path("runs") / f"{stem(self.data)}-{self.model}-seed{self.seed}"

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

        The whole config.json of a run may be used for another model: what that does not read is
        left out. Raises ConfigError where the file is missing or not valid.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read config file {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"config file {path} is not valid JSON: {error}") from None
        values, whole = _current(values, str(path))
        left_out = []
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
        for name, (new, old) in self.difference(saved, RESUMABLE).items():
            raise ConfigError(
                f"{name} cannot change on --resume: the run has {old!r}, "
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


def _check(field: dataclasses.Field, annotation: Any, value: Any) -> None:
    """Raise ConfigError unless the value has the type, is a choice and follows the rule."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    allowed = typing.get_args(annotation) if union else (annotation,)
    if value is None and types.NoneType in allowed:
        return
    if choices := field.metadata["choices"]:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{field.name} must be one of {', '.join(choices)}, got {value!r}{meant}"
            )
        return
    types_ = (*allowed, int) if float in allowed else allowed
    if not isinstance(value, types_) or (isinstance(value, bool) and bool not in allowed):
        kinds = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in allowed)
        raise ConfigError(f"{field.name} must be {kinds}, got {value!r}")
    rule = field.metadata["rule"]
    if rule is not None and not rule.valid(value):
        raise ConfigError(f"{field.name} {rule.text}, got {value!r}")
