"""Complaints that a user can act on: the commands print them without a traceback."""

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Base of the errors below; the message names what was given and the remedy."""


class DataError(UserError):
    """Input data that cannot be read or used."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or out of range."""


class FolderError(UserError):
    """A run folder or output file that cannot be created, written or read."""


class CheckpointError(UserError):
    """A checkpoint that is damaged or belongs to something else."""


class TrainingError(UserError):
    """Training that cannot go on, such as a loss that is not finite."""


class Interrupted(Exception):
    """Training was asked to stop and has saved its state; the message says how to resume."""


def expect(name: str, x: T, kind: Any, called: str) -> T:
    """`x` where it is of the kind (a class or a union), or TypeError by its name.

    A bool is no number.
    """
    if isinstance(x, kind) and not isinstance(x, bool):
        return x
    given = f"the class {x.__name__}" if isinstance(x, type) else type(x).__name__
    raise TypeError(f"{name}: expected {called}, got {given}")


def hint(name: str, known: Iterable[str]) -> str:
    """What may have been meant by an unknown name: the nearest known one, or all of them."""
    known = list(known)
    spellings = (str(name), str(name).replace("-", "_"))
    near = [n for s in spellings for n in difflib.get_close_matches(s, known, n=1, cutoff=0.5)]
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def printable(text: object, width: int = 60) -> str:
    """Text from a file for a message: control characters escaped, at most `width` characters.

    A terminal would obey escape sequences, and some reverse or hide the text behind them.
    """
    text = str(text)
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: width + 1]
    )
    return shown if len(shown) <= width and len(text) <= width else shown[: width - 1] + "…"
