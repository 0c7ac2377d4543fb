"""Files that are written whole or not at all, and what their names say."""

import json
import os
from pathlib import Path
from typing import Any

from rka_fast.errors import FolderError


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Replace the file by one with this content, in one step that survives a crash.

    Raises FolderError where that is not possible.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FolderError(f"cannot write {path}: {error.strerror}") from None


def check_writable(path: str | os.PathLike) -> None:
    """Raise FolderError unless a file can be written at `path`; its folder is made."""
    path = Path(path)
    existed = os.path.lexists(path)  # a device such as /dev/stdout must survive the check
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror}; give another file") from None


def to_json(value: Any) -> str:
    """Indented JSON with a newline at the end."""
    return json.dumps(value, indent=2) + "\n"


def stem(source: str) -> str:
    """The short name of a log: of its (first) file, without folder, `.gz` and ending."""
    name = Path(source.split(",")[0].strip()).name
    return Path(name.removesuffix(".gz")).stem or "data"
