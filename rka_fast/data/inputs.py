"""From what `--data` names to bytes: files, folders, patterns and archives, plain or packed."""

import codecs
import glob
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rka_fast.errors import DataError

# A folder with these three is one data set, whatever else it holds.
_POOLED = tuple(f"hcrnn_{part}.txt.gz" for part in ("train", "valid", "test"))
_PIECE = 1 << 24  # bytes unpacked at a time


@dataclass(frozen=True)
class File:
    """One file, or one member of a zip archive. `content` reads and unpacks it."""

    path: str
    content: Callable[[], bytes]

    @property
    def name(self) -> str:
        return Path(self.path).name


def find(path: str | os.PathLike | Iterable[str | os.PathLike], max_unpacked: float) -> list[File]:
    """The files that are meant, in the order of their names where the order is not given.

    path: a file, a folder, a pattern such as data/*.parquet, a zip archive, a member of one
        (archive.zip/member), several of these with commas between, or a list of files.
    max_unpacked: at most this many gigabytes come out of one packed file.

    Raises DataError where there are none.
    """
    if isinstance(path, str | os.PathLike):
        text = str(path)
        several = "," in text and not os.path.exists(text)
        parts = [part.strip() for part in text.split(",")] if several else [text]
    else:
        parts = [str(part) for part in path]
    found = [file for part in parts for file in _expand(part, max_unpacked)]
    if not found:
        raise DataError("no data file given")
    return found


def _expand(text: str, max_unpacked: float) -> list[File]:
    path = Path(text)
    if path.is_dir():
        return _folder(path, max_unpacked)
    if not path.exists() and any(c in text for c in "*?["):
        names = sorted(filter(os.path.isfile, glob.glob(text, recursive=True)), key=_natural)
        if not names:
            raise DataError(f"{text}: no file fits this pattern")
        return [file for name in names for file in _expand(name, max_unpacked)]
    if not path.exists():
        archive = next((p for p in path.parents if p.is_file() and zipfile.is_zipfile(p)), None)
        if archive:
            return [_member(archive, path.relative_to(archive).as_posix(), max_unpacked)]
    if path.is_file() and zipfile.is_zipfile(path) and _head(path) == b"PK":
        return [_member(path, name, max_unpacked) for name in _members(path)]
    return [File(text, lambda: _unpack(_read(path), text, max_unpacked))]


def _folder(folder: Path, max_unpacked: float) -> list[File]:
    files = [folder / name for name in _POOLED]
    if not all(file.is_file() for file in files):
        # What Spark and others write beside the data begins with "_" or ".".
        files = [
            file
            for file in folder.rglob("*")
            if file.is_file() and not any(p[0] in "_." for p in file.relative_to(folder).parts)
        ]
        files.sort(key=lambda file: _natural(str(file)))
    if not files:
        raise DataError(f"{folder} is a folder without a data file")
    if len(files) > 100_000:
        raise DataError(f"{folder} is a folder of {len(files):,} files; give those that are meant")
    return [file for path in files for file in _expand(str(path), max_unpacked)]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts part-2 before part-10."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if k % 2 else (0, part) for k, part in enumerate(parts)]


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(2)
    except OSError:
        return b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error


def _members(archive: Path) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as file:
            names = [info.filename for info in file.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{archive} is a damaged zip file: {error}") from error
    hidden = re.compile(r"(^|/)([._]|__MACOSX)")
    names = sorted((name for name in names if not hidden.search(name)), key=_natural)
    if not names:
        raise DataError(f"{archive} is a zip file without a data file")
    return names


def _member(archive: Path, name: str, max_unpacked: float) -> File:
    path = f"{archive}/{name}"

    def content() -> bytes:
        try:
            with zipfile.ZipFile(archive) as file, file.open(name) as member:
                found = member.read(_limit(max_unpacked) + 1)
        except KeyError:
            has = ", ".join(_members(archive)[:8])
            raise DataError(f"{path} does not exist; the archive has {has}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise DataError(f"{path} is damaged or locked: {error}") from error
        _refuse_larger(len(found), path, max_unpacked)
        return _unpack(found, path, max_unpacked)

    return File(path, content)


def _unpack(content: bytes, path: str, max_unpacked: float) -> bytes:
    if content[:2] == b"\x1f\x8b":
        return _gunzip(content, path, max_unpacked)
    if content[:4] == b"\x28\xb5\x2f\xfd":
        return _unzstd(content, path, max_unpacked)
    if content[:3] == b"BZh" or content[:6] == b"\xfd7zXZ\0":
        return _by_library(content, path, max_unpacked)
    return content


def _gunzip(content: bytes, path: str, max_unpacked: float) -> bytes:
    found, rest = io.BytesIO(), content  # grows in place, where a join would have all of it twice
    try:
        while rest.lstrip(b"\0"):  # some writers pad the end with zeros
            unpacker = zlib.decompressobj(wbits=31)
            while not unpacker.eof:
                piece = unpacker.decompress(rest, _PIECE)
                if not piece and not unpacker.unconsumed_tail and not unpacker.eof:
                    raise EOFError("it ends too early")
                found.write(piece)
                _refuse_larger(found.tell(), path, max_unpacked)
                rest = unpacker.unconsumed_tail
            rest = unpacker.unused_data
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from error
    return found.getvalue()


def _unzstd(content: bytes, path: str, max_unpacked: float) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            f"{path} is packed with zstd: pip install zstandard, or unpack it"
        ) from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as file:
            return _limited(file, path, max_unpacked)
    except zstandard.ZstdError as error:
        raise DataError(f"{path} is a damaged zstd file: {error}") from error


def _by_library(content: bytes, path: str, max_unpacked: float) -> bytes:
    import bz2
    import lzma

    opened = (bz2.BZ2File if content[:1] == b"B" else lzma.LZMAFile)(io.BytesIO(content))
    try:
        with opened as file:
            return _limited(file, path, max_unpacked)
    except (EOFError, OSError, lzma.LZMAError) as error:
        raise DataError(f"{path} is a damaged packed file: {error}") from error


def _limited(file: Any, path: str, max_unpacked: float) -> bytes:
    found = io.BytesIO()
    while piece := file.read(_PIECE):
        found.write(piece)
        _refuse_larger(found.tell(), path, max_unpacked)
    return found.getvalue()


def _limit(max_unpacked: float) -> int:
    return int(max_unpacked * 1e9)


def _refuse_larger(size: int, path: str, max_unpacked: float) -> None:
    if size > _limit(max_unpacked):
        raise DataError(
            f"{path} unpacks to more than {max_unpacked:g} GB; if it is what you expect, allow "
            f"more with --max-unpacked {2 * max_unpacked:g}"
        )


def decode(content: bytes, path: str) -> bytes:
    """Text as UTF-8 without a byte order mark, lines ended by a line feed.

    UTF-8, UTF-16 (with a mark, or told by its zeros) or else Latin-1. Raises DataError for what
    is no text.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or (content[:64:2] + content[1:64:2]).count(0) > 8:
        content = _from_utf_16(content)
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        raise DataError(
            f"{path} is neither text nor Parquet (plain or packed with gzip, zip or zstd); "
            "convert it to CSV"
        )
    if not _is_utf_8(content):
        content = content.decode("latin-1").encode()
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content


def _is_utf_8(content: bytes) -> bool:
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(content)
    try:
        for begin in range(0, 0 if content.isascii() else len(view), _PIECE):
            decoder.decode(view[begin : begin + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _from_utf_16(content: bytes) -> bytes:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    else:
        # Most text has a zero in front of, or behind, every other byte.
        first, second = content[:64:2].count(0), content[1:64:2].count(0)
        if not (min(first, second) == 0 and max(first, second) > 8):
            return content
        encoding = "utf-16-le" if second else "utf-16-be"
    try:
        return content.decode(encoding).encode()
    except UnicodeError:
        return content
