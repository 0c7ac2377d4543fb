"""What a setting is: a field with its group, help, choices and rule, and the check of a value."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rka_fast.errors import ConfigError


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
    flag: str | None = None,
) -> Any:
    """A field of `Config`.

    choices: all the values there are, from the registry that has them. flag: the name on the
    command line, where it is another one.
    """
    metadata = {
        "group": group, "help": help, "choices": tuple(choices), "rule": rule, "flag": flag,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def check(field: dataclasses.Field, annotation: Any, value: Any) -> None:
    """Raise ConfigError unless the value has the type, is a choice and follows the rule."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    allowed = typing.get_args(annotation) if union else (annotation,)
    if value is None and types.NoneType in allowed:
        return
    if choices := field.metadata["choices"]:
        if value not in choices:
            plain = {choice.replace("_", ""): choice for choice in choices}
            spelt = re.sub(r"[\W_]", "", str(value)).lower()
            near = [plain[n] for n in difflib.get_close_matches(spelt, plain, n=1)]
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
