"""The search space: which settings are searched, and within what."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rka_fast.commands import check_name
from rka_fast.errors import ConfigError
from rka_fast.files import read_json
from rka_fast.training.config import Config
from rka_fast.training.rules import check

Space = dict[str, BaseDistribution]
"""What is searched, by the name of the setting."""

WIDTHS = (32, 64, 128)
BLOCKS = (1, 3)
DROPOUTS = (0.0, 0.6)
LEARNING_RATES = (1 / 3, 3.0)
"""Times the model's default."""
KERNEL_WEIGHTS = (0.1, 4.0)

MANY = 10_000
"""Settings of a search beyond which none is expected to be drawn twice."""

_FIELDS = {field.name: field for field in dataclasses.fields(Config)}
_FORMS = '[a, b, ...] or {"low": a, "high": b} with "log": true or "step": c if wanted'


def default_space(base: Config) -> Space:
    """The usual suspects that the model reads and whose value is the model's own default.

    What was given is not searched.
    """
    defaults = Config.read_by(base.model)
    free = {name for name, value in defaults.items() if getattr(base, name) == value}
    space: Space = {}
    if "learning_rate" in free:
        low, high = (factor * defaults["learning_rate"] for factor in LEARNING_RATES)
        space["learning_rate"] = FloatDistribution(low, high, log=True)
    if "width" in free:
        widths = sorted({*WIDTHS, defaults["width"]})
        widths = [width for width in widths if width % (base.heads or 1) == 0]
        space["width"] = CategoricalDistribution(widths)
    if "blocks" in free:
        space["blocks"] = IntDistribution(*BLOCKS)
    if "dropout" in free:
        space["dropout"] = FloatDistribution(*DROPOUTS)
    if "kernel_weight" in free:
        space["kernel_weight"] = FloatDistribution(*KERNEL_WEIGHTS, log=True)
    return space


def asked(file: str | None, texts: Iterable[str]) -> dict[str, Any]:
    """What a JSON file and texts NAME=VALUES ask to search. Raises ConfigError."""
    given: dict[str, Any] = {}
    if file is not None:
        given = read_json("search space", file)
        if not isinstance(given, dict):
            raise ConfigError(
                f"search space {file}: expected one JSON object, from settings to {_FORMS}, got "
                f"{type(given).__name__}"
            )
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise ConfigError(
                f"--search {text}: expected NAME=A,B,C or NAME=LOW..HIGH or NAME=LOW..HIGH:log"
            )
        given[name.strip().replace("-", "_")] = _of_text(values.strip())
    return given


def make_space(base: Config, given: Mapping[str, Any]) -> Space:
    """The space of what is asked for, by the name of the setting, or the default one.

    given: values as the JSON file has them. Raises ConfigError that names the setting where one
    cannot be searched or a value is wrong.
    """
    if not given:
        space = default_space(base)
        if not space:
            raise ConfigError(
                f"model {base.model!r} has nothing left to search by default; name settings with "
                "--search NAME=VALUES"
            )
        return space
    return {name: _distribution(base, name, values) for name, values in given.items()}


def _of_text(text: str) -> Any:
    """What a JSON file would hold for A,B,C or LOW..HIGH[:log]; the values still text."""
    low, dots, rest = text.partition("..")
    if not dots:
        return [value.strip() for value in text.split(",")]
    high, colon, scale = rest.partition(":")
    if colon and scale.strip() != "log":
        raise ConfigError(f"search {text}: expected LOW..HIGH or LOW..HIGH:log")
    return {"low": low.strip(), "high": high.strip(), "log": bool(colon)}


def _distribution(base: Config, name: str, values: Any) -> BaseDistribution:
    check_name(name, _FIELDS, "setting")
    if name in Config.unread(base.model):
        raise ConfigError(f"search of {name}: not used by model {base.model!r}; leave it out")
    field = _FIELDS[name]
    searched = field.metadata["group"] in ("model", "loss", "optimisation")
    if name == "model" or not (searched or name == "max_length"):
        raise ConfigError(
            f"search of {name}: this is the same in every trial; give it as a flag, --"
            f"{name.replace('_', '-')} VALUE"
        )
    if isinstance(values, (list, tuple)) and values:
        choices = [_value(name, value) for value in values]
        return CategoricalDistribution(choices)
    if isinstance(values, Mapping) and {"low", "high"} <= values.keys():
        return _range(name, values)
    raise ConfigError(f"search of {name}: expected {_FORMS}, got {values!r}")


def _range(name: str, values: Mapping[str, Any]) -> BaseDistribution:
    low, high = _value(name, values["low"]), _value(name, values["high"])
    log, step = bool(values.get("log", False)), values.get("step")
    if unknown := values.keys() - {"low", "high", "log", "step"}:
        raise ConfigError(f"search of {name}: unknown {min(unknown)!r}; expected {_FORMS}")
    if any(isinstance(x, (bool, str)) or x is None for x in (low, high)):
        raise ConfigError(f"search of {name}: this is no number; list its values, A,B,C")
    try:
        if isinstance(low, int):
            return IntDistribution(low, high, log=log, step=1 if step is None else step)
        return FloatDistribution(low, high, log=log, step=step)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"search of {name}: {' '.join(str(error).split())}") from None


def _value(name: str, value: Any) -> Any:
    """A value of the setting, from JSON or as the text of a flag. Raises ConfigError."""
    hint = typing.get_type_hints(Config)[name]
    kinds = [kind for kind in (*typing.get_args(hint), hint) if isinstance(kind, type)]
    if isinstance(value, str):
        words = {"true": True, "false": False, "none": None}
        if str not in kinds and value.lower() in words:
            value = words[value.lower()]
        elif int in kinds or float in kinds:
            try:
                value = (int if int in kinds else float)(value)
            except ValueError:
                expected = "a whole number" if int in kinds else "a number"
                raise ConfigError(f"search of {name}: expected {expected}, got {value!r}") from None
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        check(_FIELDS[name], hint, value)
    except ConfigError as error:
        raise ConfigError(f"search of {error}") from None
    return value


def points(space: Space) -> list[dict[str, Any]]:
    """All of its settings; none where they are endless, or more than anybody tries."""
    values = []
    for distribution in space.values():
        if isinstance(distribution, CategoricalDistribution):
            values.append(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            values.append(range(distribution.low, distribution.high + 1, distribution.step))
        else:
            return []
    if math.prod(map(len, values)) > MANY:
        return []
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*values)]


def holds(space: Space, settings: Mapping[str, Any]) -> bool:
    """Whether these settings are a point of the space."""

    def inside(distribution: Any, value: Any) -> bool:
        if isinstance(distribution, CategoricalDistribution):
            return value in distribution.choices
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        step = distribution.step
        fits = step is None or ((value - distribution.low) / step) % 1 == 0
        return fits and distribution.low <= value <= distribution.high

    return all(inside(distribution, settings[name]) for name, distribution in space.items())
