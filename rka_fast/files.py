"""Files that are written whole or not at all, and what their names say."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rka_fast.errors import ConfigError, FolderError, printable

LOCK = ".lock"
"""The file whose lock is that of its folder."""


def path_of(given: Any, name: str, expected: str = "a path") -> str | os.PathLike:
    """What was given, where it is a path. Raises ConfigError by the argument's name."""
    if not isinstance(given, (str, os.PathLike)):
        raise ConfigError(f"{name}: expected {expected}, got {printable(repr(given))}")
    return given


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Replace the file by one with this content, in one step that survives a crash.

    Where `path` is a device or a pipe, the content is written to it. Raises FolderError where that
    is not possible.
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            _write_new(temporary, content)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror}") from None


def write_output(path: str | os.PathLike, text: str) -> None:
    """Write a file that a person named: as `write_atomically`, where its links lead.

    Those of pipes, such as /dev/stdout, lead to no name of a file and are written to as they are.
    """
    special = os.path.exists(path) and not os.path.isfile(path)
    write_atomically(path if special else os.path.realpath(path), text)


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist; a link in its place is not followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Let the names in a folder survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that died; nobody may be writing in the folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which the kernel releases when the process dies.

    Raises FolderError, naming the process that holds it, where there is one.
    """
    descriptor = _open_lock(folder / LOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            raise FolderError(
                f"{folder} is in use by {printable(holder)}; wait until it has ended, or stop it"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise FolderError(f"cannot lock {folder / LOCK}: {error.strerror}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror}") from None
    if os.fstat(descriptor).st_nlink > 1:  # a second name of somebody's file
        os.close(descriptor)
        raise FolderError(f"{path} is a link; delete it")
    return descriptor


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


def read_json(what: str, path: str | os.PathLike) -> Any:
    """The value of a JSON file that a person named. Raises ConfigError where there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{what} {path} is not valid JSON: {error}") from None


def stem(source: str) -> str:
    """The short name of a log: of its (first) file, without folder, `.gz` and ending."""
    name = Path(source.split(",")[0].strip()).name
    return Path(name.removesuffix(".gz")).stem or "data"


def csv_cell(value: Any) -> Any:
    """The value for a cell of a CSV file; text that a spreadsheet would compute gets a quote."""
    computed = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if computed else value


def markdown_text(value: object) -> str:
    """Text from outside for one line of Markdown: what would be markup or HTML shows as written."""
    text = " ".join(str(value).split())
    return re.sub(r"[\\`*\[\]<>|#&~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def markdown_code(value: object) -> str:
    """The same as code, in more backticks than it has in a row itself."""
    text = " ".join(str(value).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
