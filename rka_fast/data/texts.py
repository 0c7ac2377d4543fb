"""The text of a file, which is let go of while it is parsed where it can be read again."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rka_fast.errors import DataError

_HEAD = 1 << 12


class Text:
    """UTF-8 with lines ended by a line feed, in memory or in a file that holds just this.

    file: the path of a file whose bytes the content may be; None where there is none.
    """

    def __init__(self, content: bytes, path: str, file: str | None = None) -> None:
        self._content: bytes | None = content
        self._path = path
        self._file: str | None = None
        if file is not None and os.path.isfile(file):
            with open(file, "rb") as opened:  # it may be packed
                self._state = _state(os.fstat(opened.fileno()))
                if self._state[0] == len(content) and opened.read(_HEAD) == content[:_HEAD]:
                    self._file = file

    @property
    def content(self) -> bytes:
        """All of it."""
        if self._content is None:
            (self._content,) = self._from_file(0, -1)
        return self._content

    def parts(self, begin: int, size: int) -> Iterator[bytes]:
        """What comes after the first `begin` bytes: whole lines, about `size` bytes at a time.

        Raises DataError where the file is not what it was.
        """
        if self._file is not None:
            self._content = None
            yield from self._from_file(begin, size)
            return
        content = self.content
        while begin < len(content):
            end = content.find(b"\n", begin + size) + 1 or len(content)
            yield content[begin:end]
            begin = end

    def _from_file(self, begin: int, size: int) -> Iterator[bytes]:
        try:
            with open(self._file or "", "rb") as file:
                file.seek(begin)
                while part := file.read(size):
                    yield part + file.readline()
                same = _state(os.fstat(file.fileno())) == self._state
        except OSError as error:
            raise DataError(f"cannot read {self._path}: {error.strerror}") from error
        if not same:
            raise DataError(
                f"{self._path} was changed while it was read; read it again, or a copy of it where "
                "it goes on changing"
            )


def _state(of: os.stat_result) -> tuple[int, int, int]:
    return of.st_size, of.st_mtime_ns, of.st_ino
