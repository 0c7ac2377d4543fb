"""The log of a training, metrics.jsonl: a line of JSON for every step and every evaluation.

A step has its loss and the parts of it, an evaluation its epoch and the metrics on validation.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import IO, Any

from rka_fast.errors import FolderError
from rka_fast.files import write_atomically


def write_line(log: IO[str], values: dict[str, Any]) -> None:
    """One line of JSON, handed to the operating system at once."""
    log.write(json.dumps(values) + "\n")
    log.flush()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines, none where there is no log; a last one that was cut off is left out.

    Raises FolderError, naming the line, where one is damaged.
    """
    try:
        lines = path.read_bytes().splitlines(True) if path.exists() else []
    except OSError as error:
        raise FolderError(f"cannot read {path}: {error.strerror}") from None
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return [_values(path, number, line) for number, line in enumerate(lines, start=1)]


def state_of(path: Path) -> dict[str, Any]:
    """Size and checksum of the log, for the checkpoint that belongs to it."""
    content = path.read_bytes()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def truncate(path: Path, step: int, state: dict[str, Any] | None = None) -> None:
    """Drop what was logged after `step`, the one that training goes on from.

    state: of the log then, where the checkpoint has it. Raises FolderError for another log; a log
    that was deleted begins anew.
    """
    if state is None or not path.exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        content = "".join(json.dumps(line) + "\n" for line in kept).encode()
    else:
        content = path.read_bytes()[: state["size"]]
        if hashlib.sha256(content).hexdigest() != state["sha256"]:
            read_lines(path)  # names the line where it can
            raise FolderError(
                f"{path} is damaged: it is not what the run wrote up to step {step}; "
                "restore it from a copy, or delete it: training goes on exactly without it"
            )
    write_atomically(path, content)


def _values(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
        if _is_whole(values):
            return values
    except (ValueError, RecursionError):
        pass
    raise FolderError(
        f"line {number} of {path} is damaged; restore the file from a copy, or delete it: "
        "training goes on exactly without it"
    )


def _is_whole(values: Any) -> bool:
    """Whether these are the values of a line that `write_line` wrote."""

    def is_number(value: Any) -> bool:
        kind = isinstance(value, (int, float)) and not isinstance(value, bool)
        return kind and math.isfinite(value)

    if not (isinstance(values, dict) and type(values.get("step")) is int and values["step"] >= 1):
        return False
    if "valid" not in values:
        return is_number(values.get("loss"))
    return (
        type(values.get("epoch")) is int
        and values["epoch"] >= 1
        and isinstance(values["valid"], dict)
        and all(
            isinstance(scores, dict) and all(map(is_number, scores.values()))
            for scores in values["valid"].values()
        )
    )
